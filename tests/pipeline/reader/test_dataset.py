"""``LatentDataset`` over real caches: what a trainer gets, and what it is refused."""

import itertools
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
import torch
from torch.utils.data import DataLoader

from pipeline import Contract, LatentDataset
from pipeline.contract import ContractError
from pipeline.errors import UserError
from pipeline.identity import stable_hash
from pipeline.reader.build import publish_index
from pipeline.reader.draw import Normalization
from pipeline.reader.index import RECORD
from pipeline.reader.rows import RowReader
from pipeline.shards import ShardError
from tests.pipeline.helpers import SMALL, WIDE
from tests.pipeline.maintain.builder import Builder

pytestmark = pytest.mark.filterwarnings("ignore:.*has no index:UserWarning")

WINDOWS = {"a": 3, "b": 5, "c": 1, "d": 4, "e": 2, "f": 7}


def sources(names=WINDOWS, version=1):
    return {(stable_hash(name), version): WINDOWS[name] for name in names}


def build(folder: Path, form: str = "safetensors") -> Builder:
    cache = Builder(folder / "cache", form)
    cache.encode(sources(), buckets=(SMALL, WIDE))
    cache.publish()
    return cache


@pytest.fixture(scope="module", params=["safetensors", "parquet"])
def cache(request, tmp_path_factory) -> Builder:
    return build(tmp_path_factory.mktemp("reader"), request.param)


@pytest.fixture
def make(cache, tmp_path):
    def make(**options):
        return LatentDataset(cache.uri, local_dir=tmp_path / "local", **options)

    return make


def batches(dataset, workers=0):
    return list(DataLoader(dataset, batch_size=None, num_workers=workers))


def same(left, right) -> bool:
    return left["ids"] == right["ids"] and torch.equal(left["latents"], right["latents"])


def expected(cache, batch, number, statistic="mean"):
    """The stored tensors of a clip, by the other reader."""
    rows = {
        (r["source_id"], r["bucket"], r["first_frame"]): r["sample_id"]
        for r in cache.open().samples().to_pylist()
    }
    source, bucket, first = batch["ids"][number].split(":")
    count = batch["latents"].shape[1] // 3
    ids = [rows[source, bucket, int(first) + 17 * n] for n in range(count)]
    reader = cache.open()
    return torch.cat([reader.read(i)[statistic] for i in ids])


@pytest.mark.parametrize("clip_frames", [17, 34, 51])
@pytest.mark.parametrize("stride", [None, 1])
def test_clips_are_those_of_the_cache(cache, make, clip_frames, stride):
    dataset = make(clip_frames=clip_frames, batch_size=3, statistic="mean", clip_stride=stride)
    k = clip_frames // 17
    step = stride or k
    wanted = {
        f"{stable_hash(name)}:{bucket.name}:{17 * at}"
        for name, windows in WINDOWS.items()
        for bucket in (SMALL, WIDE)
        for at in range(0, windows - k + 1, step)
    }
    found = batches(dataset)
    ids = [i for batch in found for i in batch["ids"]]
    assert sorted(ids) == sorted(wanted)
    assert len(found) == len(dataset)
    for batch in found:
        height, width = (2, 2) if batch["bucket"] == SMALL.name else (2, 4)
        assert batch["latents"].shape[1:] == (3 * k, 2, height, width)
        assert batch["valid_mask"].all()
        assert torch.equal(batch["latents"][0], expected(cache, batch, 0))


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_order_does_not_depend_on_workers(make, workers):
    dataset = make(batch_size=2, seed=3)
    alone = batches(dataset)
    dataset.set_epoch(0)
    assert all(map(same, alone, batches(dataset, workers)))
    dataset.set_epoch(1)
    assert [b["ids"] for b in alone] != [b["ids"] for b in batches(dataset)]


@pytest.mark.parametrize(("before", "after"), [(0, 0), (0, 2), (2, 3), (3, 0)])
def test_resume(make, before, after):
    whole = batches(make(batch_size=2, seed=1))
    for stop in (1, 4, len(whole) - 1):
        first = make(batch_size=2, seed=1)
        for batch in itertools.islice(first.loader(before), stop):
            state = first.state_dict()
            assert state == first.state_dict(batch)
        second = make(batch_size=2, seed=1)
        second.load_state_dict(state)
        assert len(second) == len(whole) - stop
        rest = batches(second, after)
        assert len(rest) == len(whole) - stop
        assert all(map(same, whole[stop:], rest))


def test_state_after_workers_wants_the_batch(make):
    dataset = make(batch_size=2)
    next(iter(DataLoader(dataset, batch_size=None, num_workers=1)))
    with pytest.raises(UserError, match="give the last batch"):
        dataset.state_dict()


def test_another_world_size(make):
    """Two ranks do three steps, three ranks do the rest: every clip once."""
    ids = []
    for rank in range(2):
        dataset = make(batch_size=2, rank=rank, world_size=2)
        for batch in itertools.islice(iter(dataset), 3):
            ids += batch["ids"]
            state = dataset.state_dict(batch)
    for rank in range(3):
        dataset = make(batch_size=2, rank=rank, world_size=3)
        dataset.load_state_dict(state)
        ids += [i for batch in batches(dataset) for i in batch["ids"]]
    assert len(set(ids)) == len(ids)
    assert len(ids) == 2 * sum(WINDOWS.values())


def test_a_state_of_another_order_is_refused(make):
    state = make(seed=1).state_dict()
    with pytest.raises(UserError, match="another snapshot, seed"):
        make(seed=2).load_state_dict(state)


def test_draws(make):
    """One draw a sample and epoch, of the posterior's mean and spread, whatever clip it is in."""
    one, two = make(batch_size=4), make(clip_frames=34, batch_size=1, clip_stride=1, shuffle=False)
    single = {i: x for b in batches(one) for i, x in zip(b["ids"], b["latents"], strict=True)}
    for batch in batches(two):
        assert torch.equal(batch["latents"][0, :3], single[batch["ids"][0]])
    one.set_epoch(1)
    other = {i: x for b in batches(one) for i, x in zip(b["ids"], b["latents"], strict=True)}
    assert all(not torch.equal(other[i], single[i]) for i in single)
    moments = batches(make(statistic="moments", dtype=torch.float32))
    noise = torch.cat(
        [
            ((single[b["ids"][0]].float() - b["mean"][0]) / (b["logvar"][0] / 2).exp()).flatten()
            for b in moments
        ]
    )
    assert abs(noise.mean()) < 5 / len(noise) ** 0.5
    assert abs(noise.std() - 1) < 0.1


def test_filter_weights_and_columns(make):
    only = make(
        filter=(pc.field("uri") != f"/videos/{stable_hash('a')}.mp4")
        & (pc.field("bucket") == WIDE.name),
        columns=["uri"],
    )
    found = batches(only)
    assert {b["bucket"] for b in found} == {WIDE.name}
    assert all(b["uri"] == [f"/videos/{b['source_ids'][0]}.mp4"] for b in found)
    assert sum(len(b["ids"]) for b in found) == sum(WINDOWS.values()) - WINDOWS["a"]
    # Long lists of values differ in the middle alone: each filter has a selection of its own.
    many = [f"/videos/{n}.mp4" for n in range(500)]
    for name in "bf":
        one = f"/videos/{stable_hash(name)}.mp4"
        listed = make(filter=pc.field("uri").isin([*many[:250], one, *many[250:]]))
        assert sum(listed.clips.values()) == 2 * WINDOWS[name]
    weighted = make(weights={SMALL.name: 2, WIDE.name: 0.5})
    assert weighted.clips == {f"{SMALL.name}x17": 44, f"{WIDE.name}x17": 11}
    ids = [i for b in batches(weighted) for i in b["ids"] if b["bucket"] == SMALL.name]
    assert all(ids.count(i) == 2 for i in ids)
    windows = {stable_hash(name): count for name, count in WINDOWS.items()}
    times = Counter(i for b in batches(make(weights="windows")) for i in b["ids"])
    assert len(times) == 44
    assert all(count == windows[clip.split(":")[0]] for clip, count in times.items())
    with pytest.raises(UserError, match="no such column"):
        make(columns=["title"])
    with pytest.raises(UserError, match="the columns are"):
        make(filter=pc.field("title") == "x")


def test_contract_and_normalisation(cache, make):
    make(expect=Contract.matching(encoder_sha256="ab" * 32, vae_version=2))
    with pytest.raises(ContractError, match=r"encoder_sha256 is 'abab.*expected 'cd'.*jobs/encode"):
        make(expect=Contract.matching(encoder_sha256="cd", vae_version=2))
    with pytest.raises(ContractError, match="sha: no field"):
        Contract.matching(sha="1")
    plain = batches(make(statistic="mean", batch_size=2, dtype=torch.float32))
    scaled = make(
        statistic="mean",
        batch_size=2,
        dtype=torch.float32,
        normalize=Normalization(scale=[2.0, 4.0], shift=1.0),
    )
    for left, right in zip(plain, batches(scaled), strict=True):
        wanted = (left["latents"] - 1) * torch.tensor([2.0, 4.0]).reshape(2, 1, 1)
        assert torch.equal(right["latents"], wanted)
    with pytest.raises(UserError, match="3 numbers"):
        make(normalize=Normalization(scale=[1, 2, 3]))


def test_first_frame_and_map_style(cache, make):
    dataset = make(clip_frames=34, statistic="mean", first_frame=True)
    for batch in batches(dataset):
        assert torch.equal(batch["first_frame"], batch["latents"][:, :1])
    found = make(clip_frames=34, statistic="mean").map_style()
    assert len(found) == 2 * sum(w // 2 for w in WINDOWS.values())
    assert len({found[n]["ids"] for n in range(len(found))}) == len(found)
    with pytest.raises(IndexError):
        found[len(found)]


def test_published_index(tmp_path):
    cache = build(tmp_path)
    snapshot = cache.manifest.snapshot()
    built = LatentDataset(cache.uri, local_dir=tmp_path / "l1", seed=1)
    publish_index(cache.manifest, snapshot)
    mapped = LatentDataset(cache.uri, local_dir=tmp_path / "l2", seed=1)
    assert list((tmp_path / "l1").glob("index-*"))
    assert not list((tmp_path / "l2").glob("index-*"))
    assert all(map(same, batches(built), batches(mapped)))
    assert RECORD.itemsize <= 32


def test_an_index_that_cannot_be_written_is_told_as_the_users(tmp_path):
    cache = build(tmp_path)
    (Path(cache.uri) / "index").write_text("a file where a folder belongs")
    with pytest.raises(UserError, match="cannot be written"):
        publish_index(cache.manifest, cache.manifest.snapshot())


@pytest.mark.parametrize("form", ["safetensors", "parquet"])
@pytest.mark.parametrize("how", ["missing", "cut", "garbage"])
def test_damaged_shards(tmp_path, form, how):
    cache = build(tmp_path, form)
    name = sorted(p for p in cache.shards() if WIDE.name in p)[0]
    path = Path(cache.uri) / name
    if how == "missing":
        path.unlink()
    elif how == "cut":
        os.truncate(path, path.stat().st_size // 2)
    else:
        path.write_bytes(b"\0" * path.stat().st_size)
    options = {"local_dir": tmp_path / "local", "batch_size": 2, "statistic": "moments"}
    with pytest.raises(ShardError, match=rf"{name}.*jobs/verify_cache.py {cache.uri} --repair"):
        batches(LatentDataset(cache.uri, **options))


def test_snapshot_is_pinned(tmp_path):
    cache = build(tmp_path)
    options = {"local_dir": tmp_path / "local", "batch_size": 2, "statistic": "mean"}
    dataset = LatentDataset(cache.uri, **options)
    before = batches(dataset)
    cache.encode(sources("ab", version=2), buckets=(SMALL, WIDE))
    cache.publish()
    again = LatentDataset(cache.uri, 1, **options)
    assert all(map(same, before, batches(again)))


def test_images_and_padded_windows(tmp_path):
    cache = Builder(tmp_path / "cache")
    cache.encode(dict.fromkeys(sources("abc"), 1), frames=1)
    cache.encode(sources("def"))
    cache.publish()
    options = {"local_dir": tmp_path / "local", "statistic": "mean"}
    images = LatentDataset(cache.uri, clip_frames=1, **options)
    assert [b["latents"].shape for b in batches(images)] == [(1, 1, 2, 2, 2)] * 3
    both = LatentDataset(cache.uri, clip_frames=[1, 34], **options)
    assert both.clips == {"h32w32x1": 3, "h32w32x34": 2 + 1 + 3}


@pytest.mark.parametrize("clip_frames", [17, 34])
def test_in_order_neighbours_are_read_together(cache, make, monkeypatch, clip_frames):
    read: list[int] = []
    whole = RowReader.later

    def later(reader, path, first, into):
        read.append(sum(len(array) for array in into.values()))
        return whole(reader, path, first, into)

    monkeypatch.setattr(RowReader, "later", later)
    options = {"clip_frames": clip_frames, "statistic": "mean", "clip_stride": None}
    found = batches(make(shuffle=False, batch_size=3, **options))
    reads, clips = len(read), sum(len(batch["ids"]) for batch in found)
    assert reads < clips
    assert max(read) == 3 * clip_frames // 17
    for batch in found:
        for number, latents in enumerate(batch["latents"]):
            assert torch.equal(latents, expected(cache, batch, number))


def test_of_neighbours_only_the_damaged_are_skipped(tmp_path):
    cache = Builder(tmp_path / "cache")
    cache.encode({(stable_hash("f"), 1): 7})
    cache.publish()
    row = cache.open().samples().slice(0, 1).to_pylist()[0]
    path = Path(cache.uri) / row["shard"]
    os.truncate(path, path.stat().st_size - 1)  # the last window's last statistic
    options = {"local_dir": tmp_path / "local", "statistic": "moments", "shuffle": False}
    dataset = LatentDataset(cache.uri, on_damage="skip", batch_size=7, **options)
    with pytest.warns(UserWarning, match="skipped: .*row 6"):
        [batch] = batches(dataset)
    assert batch["skipped"] == 1
    assert batch["first_frames"].tolist() == [17 * n for n in range(6)]
    with pytest.raises(ShardError, match="row 6"):
        batches(LatentDataset(cache.uri, batch_size=7, **options))


def test_skipping_damage(tmp_path):
    cache = Builder(tmp_path / "cache")
    for name in "abdef":
        cache.encode(sources(name))
    cache.publish()
    row = cache.open().samples().slice(0, 1).to_pylist()[0]
    (Path(cache.uri) / row["shard"]).unlink()
    options = {"local_dir": tmp_path / "local", "statistic": "mean"}
    for size in (1, 4):
        skipping = LatentDataset(cache.uri, on_damage="skip", batch_size=size, **options)
        with pytest.warns(UserWarning, match=f"skipped: .*{row['shard']}"):
            found = batches(skipping)
        assert len(found) == len(skipping) or size == 4
        assert sum(b["skipped"] for b in found) >= 1
        assert not any(row["source_id"] in b["source_ids"] for b in found)
        assert all(np.isfinite(b["latents"].numpy()).all() for b in found)
    shutil.rmtree(tmp_path / "local")
