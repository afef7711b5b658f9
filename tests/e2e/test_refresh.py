"""A refresh encodes exactly what changed; snapshots published before never change."""

import io
import json
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
from deltalake import DeltaTable

from pipeline import LatentCache
from pipeline.config import load_config
from pipeline.errors import UserError
from pipeline.job import JobOptions, run_job
from tests.e2e.support import config_tree, write_config, write_list

# Frames at 25 per second: movie 100, other 100, brief 17, picture 1. Windows of 17 without tails:
MOVIE, OTHER, BRIEF, PICTURE = 5, 5, 1, 1


class World:
    """A dataset of small clips, its configuration, and runs over it."""

    def __init__(self, folder: Path, clip: Callable[[str], Path]) -> None:
        self.folder = folder
        self.clip = clip
        self.rows: dict[str, dict[str, Any]] = {}
        for name, source in (
            ("movie", "h264_open"),
            ("other", "hevc_open"),
            ("brief", "seventeen"),
            ("picture", "png"),
        ):
            self.put(name, source)
        self.changes: dict[str, Any] = {"windows__fps": "25"}

    def put(self, name: str, source: str) -> None:
        """Place a clip under a name of the dataset, with a caption."""
        path = self.folder / f"{name}{self.clip(source).suffix}"
        path.write_bytes(self.clip(source).read_bytes())
        self.rows[name] = {"video": str(path), "id": name, "caption": f"a {name}"}

    def run(self, *, code: int = 0, **options: bool) -> dict[str, Any]:
        dataset = write_list(self.folder / "clips.jsonl", list(self.rows.values()))
        tree = config_tree(dataset, self.folder / "cache", **self.changes)
        config = load_config(str(write_config(self.folder / "config.yaml", tree)))
        out = io.StringIO()
        with redirect_stdout(out):
            assert run_job(config, JobOptions(**options)) == code
        report = json.loads(out.getvalue().splitlines()[-1])
        assert isinstance(report, dict)
        return report

    def cache(self, snapshot: int | None = None) -> LatentCache:
        return LatentCache.open(str(self.folder / "cache"), snapshot)

    def windows(self, snapshot: int | None = None) -> dict[str, int]:
        """Live windows by source and bucket count."""
        cache = self.cache(snapshot)
        names = {row["source_id"]: row["id"] for row in cache.sources().to_pylist()}
        found = dict.fromkeys(names.values(), 0)
        for source in cache.samples()["source_id"].to_pylist():
            found[names[source]] += 1
        return found


@pytest.fixture
def world(tmp_path, clip):
    made = World(tmp_path, clip)
    first = made.run()
    assert first["windows"] == MOVIE + OTHER + BRIEF + PICTURE
    assert first["snapshot"] == 1
    return made


def nothing(world: World) -> None:
    """The dataset and the recipe stay as they are."""


def add(world: World) -> None:
    world.put("added", "h264_open")


def replace_bytes(world: World) -> None:
    world.put("other", "seventeen")
    world.rows["other"]["video"] = str(world.folder / "other.mp4")


def cut(world: World) -> None:
    world.rows["movie"]["end"] = 1.4  # 35 frames


def remove(world: World) -> None:
    del world.rows["brief"]


def caption(world: World) -> None:
    world.rows["movie"]["caption"] = "another caption"
    world.rows["picture"]["note"] = "a new column"


def pad(world: World) -> None:
    world.changes["windows__tail"] = "pad"


def overlap(world: World) -> None:
    world.changes["windows__tail"] = "overlap"


def sparse(world: World) -> None:
    world.changes["windows__stride"] = 34


def slower(world: World) -> None:
    world.changes["windows__fps"] = "12.5"


def own_frames(world: World) -> None:
    """25 frames per second of a clip that has 25 are its own frames."""
    world.changes["windows__fps"] = None


def drifting(world: World) -> None:
    """The frames from the 49th on are others: windows 0 and 1 of 100 frames stay."""
    world.changes["windows__fps"] = "24.5"


def longer(world: World) -> None:
    world.changes["windows__min_frames"] = 30


def contain(world: World) -> None:
    world.changes["resize__policy"] = "contain"


def more_buckets(world: World) -> None:
    """Nearer to the shape of all clips, 160x96, than 64x32 is; the picture is 5:3 too."""
    world.changes["buckets"] = [*_buckets(), {"height": 48, "width": 80}]


def useless_bucket(world: World) -> None:
    world.changes["buckets"] = [*_buckets(), {"height": 96, "width": 32}]


def every_bucket(world: World) -> None:
    world.changes["bucket_choice"] = "all"


def _buckets() -> list[dict[str, int]]:
    from tests.e2e.support import BUCKETS

    return BUCKETS


ALL = MOVIE + OTHER + BRIEF + PICTURE
CASES = [
    # changes, windows encoded, live windows of movie, other, brief, picture (and added)
    ([nothing], 0, (5, 5, 1, 1)),
    ([add], 5, (5, 5, 1, 1, 5)),
    ([replace_bytes], 1, (5, 1, 1, 1)),
    ([cut], 2, (2, 5, 1, 1)),
    ([remove], 0, (5, 5, None, 1)),
    ([caption], 0, (5, 5, 1, 1)),
    ([pad], 2, (6, 6, 1, 1)),
    ([overlap], 2, (6, 6, 1, 1)),
    ([sparse], 0, (3, 3, 1, 1)),
    ([slower], 4, (2, 2, 0, 1)),
    ([own_frames], 0, (5, 5, 1, 1)),
    ([own_frames, pad], 2, (6, 6, 1, 1)),
    ([own_frames, sparse], 0, (3, 3, 1, 1)),
    ([own_frames, every_bucket], 2 * ALL, (15, 15, 3, 3)),
    ([own_frames, contain], ALL, (5, 5, 1, 1)),
    ([drifting], 3 + 3, (5, 5, 0, 1)),
    ([drifting, add, replace_bytes, remove], 3 + 5 + 0, (5, 0, None, 1, 5)),
    ([longer], 0, (5, 5, 0, 1)),
    ([contain], ALL, (5, 5, 1, 1)),
    ([more_buckets], ALL, (5, 5, 1, 1)),
    ([useless_bucket], 0, (5, 5, 1, 1)),
    ([every_bucket], 2 * ALL, (15, 15, 3, 3)),
    ([add, remove, caption], 5, (5, 5, None, 1, 5)),
    ([replace_bytes, pad], 1 + 1, (6, 1, 1, 1)),
    ([pad, every_bucket], 2 + 2 * (6 + 6 + 1 + 1), (18, 18, 3, 3)),
    ([cut, pad, add, caption], 3 + 1 + 6, (3, 6, 1, 1, 6)),
]


@pytest.mark.parametrize(
    ("changes", "encoded", "live"), CASES, ids=["+".join(c.__name__ for c in x[0]) for x in CASES]
)
def test_exactly_the_change_is_encoded(world, changes, encoded, live):
    names = ("movie", "other", "brief", "picture", "added")
    before = world.cache(1)
    old_samples, old_sources = before.samples(), before.sources()
    kept = {row["sample_id"]: row for row in old_samples.to_pylist()}
    for change in changes:
        change(world)
    report = world.run()
    assert report["windows"] == encoded
    expected = {n: count for n, count in zip(names, live, strict=False) if count is not None}
    assert world.windows() == expected
    assert report["sources"]["total"] == len(expected)

    after = world.cache()
    assert (after.snapshot.number == 1) == (changes in ([nothing], [useless_bucket]))
    fresh = 0
    for row in after.samples().to_pylist():
        if row["sample_id"] in kept:  # unchanged windows keep their shards
            old = kept[row["sample_id"]]
            assert (row["shard"], row["row"]) == (old["shard"], old["row"])
        else:
            fresh += 1
        assert after.read(row["sample_id"]).keys() == {"mean", "logvar"}
    assert fresh == encoded

    again = world.cache(1)
    assert again.samples().equals(old_samples)
    assert again.sources().equals(old_sources)
    assert world.run()["windows"] == 0


def test_captions_are_appended_and_nothing_else(world):
    caption(world)
    world.run()
    rows = {row["id"]: row for row in world.cache().sources().to_pylist()}
    assert rows["movie"]["caption"] == "another caption"
    assert rows["picture"]["note"] == "a new column"
    assert rows["other"]["caption"] == "a other"
    old = {row["id"]: row for row in world.cache(1).sources().to_pylist()}
    assert old["movie"]["caption"] == "a movie"
    assert "note" not in old["picture"]


def test_a_kill_amid_a_change_of_the_rate_encodes_nothing_twice(world):
    """The tables are put back to where a kill after the second commit leaves them."""
    drifting(world)
    world.changes |= {"output__shard_bytes": 1, "run__pack_bytes": 100_000}
    tables = {name: DeltaTable(world.folder / "cache" / name) for name in ("samples", "sources")}
    before = {name: table.version() for name, table in tables.items()}
    assert world.run()["windows"] == 6
    wanted = world.cache().samples()
    for name, commits in (("samples", 2), ("sources", 0)):
        tables[name].update_incremental()
        tables[name].restore(before[name] + commits)
    (world.folder / "cache" / "snapshots" / "2.json").unlink()

    first = _shards(world.cache(1))
    new = [
        row
        for row in tables["samples"].to_pyarrow_table().to_pylist()
        if row["generation"] not in {g for g, _ in first.values()}
    ]
    kept = sum(i in first for row in new for i in row["sample_ids"])
    encoded = sum(row["windows"] for row in new) - kept
    assert kept == 2
    assert 0 < encoded < 6
    assert world.run()["windows"] == 6 - encoded
    same = ["sample_id", "source_id", "generation", "window", "valid_frames", "checksum"]
    assert world.cache().samples().select(same).equals(wanted.select(same))
    again = _shards(world.cache())
    assert sum(again[i][1] == first[i][1] for i in first if i in again) == 2 + 2 + PICTURE


def _shards(cache: LatentCache) -> dict[str, tuple[str, str]]:
    """Generation and shard of every sample."""
    rows = cache.samples().to_pylist()
    return {row["sample_id"]: (row["generation"], row["shard"]) for row in rows}


def test_a_failure_amid_a_change_of_the_rate_forgets_nothing(world):
    world.rows["movie"]["version"] = "v1"
    assert world.run()["windows"] == MOVIE
    before = _shards(world.cache())
    own_frames(world)
    movie = Path(world.rows["movie"]["video"])
    hidden = movie.rename(movie.with_suffix(".hidden"))
    report = world.run()
    assert (report["windows"], report["sources"]["failed"]) == (0, 1)
    hidden.rename(movie)
    report = world.run()
    assert (report["windows"], report["sources"]["failed"]) == (0, 0)
    after = _shards(world.cache())
    assert {i: shard for i, (_, shard) in after.items()} == {
        i: shard for i, (_, shard) in before.items()
    }


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"latents__statistic": "mean"}, "statistic"),
        ({"latents__dtype": "float32"}, "dtype"),
        ({"vae": {"random_seed": 1}}, "encoder_sha256"),
    ],
)
def test_what_the_contract_fixes_is_refused(world, change, named):
    if "vae" in change:
        from tests.e2e.support import NARROW_VAE

        change = {"vae": {**NARROW_VAE, **change["vae"]}}
    world.changes.update(change)
    with pytest.raises(UserError, match=named) as refused:
        world.run()
    assert "--overwrite" in str(refused.value)
    assert "output.uri" in str(refused.value)
    assert world.cache().snapshot.number == 1


def test_overwriting_encodes_everything_anew(world):
    report = world.run(overwrite=True)
    assert report["windows"] == ALL
    old, new = world.cache(1), world.cache(2)
    ids = old.samples()["sample_id"].to_pylist()
    assert new.samples()["sample_id"].to_pylist() == ids
    for name in ids:
        left, right = old.read(name), new.read(name)
        assert all(torch.equal(left[key], right[key]) for key in left)
    assert world.run()["windows"] == 0


def test_a_bad_file_that_is_mended_is_encoded(world):
    world.put("movie", "text")
    world.changes["max_failure_rate"] = 1.0
    report = world.run()
    assert report["sources"]["failed"] == 1
    # A source switches when its next generation is complete: until then the old one is live.
    assert world.windows()["movie"] == MOVIE
    world.put("movie", "h264_open")
    assert world.run()["windows"] == MOVIE
