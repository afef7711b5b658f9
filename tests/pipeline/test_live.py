from itertools import pairwise

import pyarrow as pa
import pytest
from helpers import (
    EPOCH,
    SMALL,
    WIDE,
    make_contract,
    make_manifest,
    make_segment,
    make_shard,
    make_store,
    sample_row,
    source_row,
)
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cache import LatentCache
from pipeline.contract import Contract
from pipeline.errors import UserError
from pipeline.live import (
    explode,
    join_columns,
    live_generations,
    newest_by_source,
    present_sources,
)
from pipeline.schema import SAMPLES, SOURCES
from pipeline.shards import ShardError

CONTRACT = make_contract()


def samples_table(rows, chunks=1):
    tables = [pa.Table.from_pylist(rows[k::chunks], SAMPLES) for k in range(chunks)]
    return pa.concat_tables(tables)


def sources_table(*rows):
    return pa.Table.from_pylist(list(rows), SOURCES)


# ---- explode, against a plain model


def explode_model(rows):
    """One dict a window; of equal sample ids the smallest (shard, row); in reading order."""
    best = {}
    for row in rows:
        scale = row["time_base_num"] / row["time_base_den"]
        for k, identity in enumerate(row["sample_ids"]):
            found = {
                "sample_id": identity,
                "source_id": row["source_id"],
                "bucket": row["bucket"],
                "window": row["first_window"] + k,
                "shard": row["shard"],
                "row": row["first_row"] + k,
                "pts": row["pts"][k],
                "first_frame": row["first_frames"][k],
                "valid_frames": row["valid_frames"][k],
                "checksum": row["checksums"][k],
                "start_time": pytest.approx(row["pts"][k][0] * scale),
                "frame_times": pytest.approx([p * scale for p in row["pts"][k]]),
            }
            place = (found["shard"], found["row"])
            if identity not in best or place < (best[identity]["shard"], best[identity]["row"]):
                best[identity] = found
    return sorted(best.values(), key=lambda r: (r["source_id"], r["bucket"], r["window"]))


@st.composite
def segment_rows(draw):
    """Rows of some sources, each once or twice (written again to another place)."""
    rows = []
    for source in draw(st.lists(st.sampled_from("abc"), max_size=3, unique=True)):
        for bucket in draw(st.sets(st.sampled_from([SMALL, WIDE]), min_size=1)):
            frames = draw(st.sampled_from([1, 17]))
            cuts = sorted(draw(st.sets(st.integers(1, 9), min_size=1, max_size=3)))
            for first, stop in pairwise([0, *cuts]):
                segment = make_segment(
                    source,
                    first,
                    stop - first,
                    bucket,
                    frames,
                    time_base=draw(st.sampled_from([(1, 25), (1001, 30000)])),
                    valid_frames=[draw(st.integers(1, frames)) for _ in range(first, stop)],
                )
                for _ in range(draw(st.integers(1, 2))):
                    shard = draw(st.sampled_from(["data/x", "data/y", "data/z"]))
                    row = draw(st.integers(0, 50))
                    marks = [f"{shard}-{row + k}" for k in range(stop - first)]
                    rows.append(sample_row(segment, shard=shard, first_row=row, checksums=marks))
    return draw(st.permutations(rows))


@given(segment_rows(), st.integers(1, 3))
def test_a_row_a_window_each_sample_once(rows, chunks):
    found = explode(samples_table(rows, chunks)).to_pylist()
    expected = explode_model(rows)
    assert len(found) == len(expected)
    for row, want in zip(found, expected, strict=True):
        assert {name: row[name] for name in want} == want


def test_columns_that_a_segment_shares_stay():
    table = explode(samples_table([sample_row(make_segment(windows=3))]))
    assert table.num_rows == 3
    for name in ("generation", "height", "width", "frames", "fps", "geometry", "statistic"):
        assert len(set(table[name].to_pylist())) == 1
    gone = {"sample_ids", "checksums", "first_window", "first_row", "windows"}
    assert not gone & set(table.column_names)


def test_no_segments_explode_to_no_windows():
    empty = explode(SAMPLES.empty_table())
    full = explode(samples_table([sample_row(make_segment())]))
    assert empty.num_rows == 0
    assert empty.schema.names == full.schema.names


# ---- what is live


def live(*rows, contract=CONTRACT):
    table = live_generations(sources_table(*rows), contract.contract_id)
    return {row["source_id"]: row["generation"] for row in table.to_pylist()}


OK = source_row("a", revision=1, generation="g1")


@pytest.mark.parametrize(
    ("later", "expected"),
    [
        ({"status": "ok", "generation": "g2"}, {"a": "g2"}),
        ({"status": "failed", "generation": "g2"}, {"a": "g1"}),
        ({"status": "skipped", "generation": "g2"}, {}),
        ({"status": "removed"}, {}),
        ({"status": "removed", "contract_id": "another"}, {}),
        ({"status": "ok", "generation": "g2", "contract_id": "another"}, {"a": "g1"}),
        ({"status": "skipped", "contract_id": "another"}, {"a": "g1"}),
    ],
)
def test_the_newest_complete_generation_is_live(later, expected):
    row = source_row("a", **{"revision": 2, **later})
    assert live(OK, row) == expected
    assert live(row, OK) == expected


def test_a_source_that_never_ended_well_has_nothing():
    assert live(source_row("a", status="failed"), source_row("b", status="skipped")) == {}
    assert live() == {}


def test_a_source_that_came_back_is_live_again():
    gone = source_row("a", revision=2, status="removed")
    assert live(OK, gone, source_row("a", revision=3, generation="g3")) == {"a": "g3"}


def test_a_contract_has_its_own_live_generations():
    other = make_contract(dtype="float32")
    new = source_row("a", revision=2, generation="g2", contract_id=other.contract_id)
    assert live(OK, new) == {"a": "g1"}
    assert live(OK, new, contract=other) == {"a": "g2"}


def test_present_sources_are_the_newest_states_without_tombstones():
    table = present_sources(
        sources_table(
            OK,
            source_row("a", revision=2, status="failed", reason="missing"),
            source_row("b", status="skipped"),
            source_row("c"),
            source_row("c", revision=2, status="removed"),
        )
    )
    states = {row["source_id"]: row["status"] for row in table.to_pylist()}
    assert states == {"a": "failed", "b": "skipped"}


def test_captions_join_the_newest_revision():
    captions = pa.table(
        {
            "source_id": ["a", "b", "a", "x"],
            "revision": [1, 1, 2, 1],
            "run_id": ["r"] * 4,
            "digest": ["d"] * 4,
            "caption": ["old", "of b", "new", "of none"],
            "committed_at": pa.array([EPOCH] * 4),
            "score": [1.0, 2.0, None, 4.0],
        }
    )
    table = join_columns(sources_table(source_row("c"), OK, source_row("b")), captions)
    found = {row["source_id"]: (row["caption"], row["score"]) for row in table.to_pylist()}
    assert found == {"a": ("new", None), "b": ("of b", 2.0), "c": (None, None)}
    assert table["source_id"].to_pylist() == ["c", "a", "b"]


# ---- the cache as one reads it


def store_samples(folder, contract, *segments, seed=0):
    """Write a shard of the segments; return it and their rows of ``samples``."""
    shard = make_shard(contract, *segments, seed=seed)
    store, path = make_store(folder), shard.path(".safetensors")
    store.write(path, shard.encode(".safetensors"))
    rows, row = [], 0
    for segment in segments:
        sums = list(shard.checksums[row : row + segment.windows])
        rows.append(sample_row(segment, shard=path, first_row=row, checksums=sums))
        row += segment.windows
    return shard, rows


@pytest.fixture
def published(tmp_path):
    """A cache of two sources at one snapshot, and its shard."""
    manifest = make_manifest(tmp_path)
    shard, rows = store_samples(tmp_path, CONTRACT, make_segment("a"), make_segment("b", windows=3))
    manifest.append("samples", rows)
    manifest.append("sources", [source_row("a"), source_row("b"), source_row("c", status="failed")])
    manifest.publish("r1", CONTRACT)
    return manifest, shard


def test_a_published_cache_reads_back(published, tmp_path):
    _, shard = published
    cache = LatentCache.open(str(tmp_path))
    assert cache.contract == CONTRACT
    assert isinstance(cache.contract, Contract)
    assert cache.snapshot.number == 1
    samples = cache.samples()
    assert samples["source_id"].to_pylist() == ["a"] * 2 + ["b"] * 3
    assert samples["window"].to_pylist() == [0, 1, 0, 1, 2]
    ids = [i for segment in shard.segments for i in segment.sample_ids]
    for row, identity in enumerate(ids):
        found = cache.read(identity)
        assert list(found) == ["mean", "logvar"]
        for name, tensor in found.items():
            assert tensor.numpy().tobytes() == shard.tensors[name][row].tobytes()
    states = {row["source_id"]: row["status"] for row in cache.sources().to_pylist()}
    assert states == {"a": "ok", "b": "ok", "c": "failed"}
    assert cache.sources().num_rows == 3
    with pytest.raises(KeyError, match="no live sample 'nothing' in snapshot 1"):
        cache.read("nothing")


def test_an_open_snapshot_does_not_change(published, tmp_path):
    manifest, _ = published
    early = LatentCache.open(str(tmp_path))
    newer = make_segment("a", generation="a-h", sample_ids=["n0", "n1"])
    _, rows = store_samples(tmp_path, CONTRACT, newer, seed=5)
    manifest.append("samples", rows)
    half = LatentCache.open(str(tmp_path))
    manifest.append("sources", [source_row("a", revision=2, generation="a-h")])
    manifest.publish("r2", CONTRACT)
    for cache in (early, half, LatentCache.open(str(tmp_path), 1)):
        assert set(cache.samples()["generation"].to_pylist()) == {"a-g", "b-g"}
    late = LatentCache.open(str(tmp_path))
    assert late.snapshot.number == 2
    assert set(late.samples()["generation"].to_pylist()) == {"a-h", "b-g"}
    assert late.read("n1")["mean"].shape == (3, 2, 2, 2)


def test_segments_of_an_unfinished_generation_are_not_seen(published, tmp_path):
    manifest, _ = published
    manifest.append("samples", [sample_row(make_segment("c"))])
    manifest.publish("r2", CONTRACT)
    assert "c" not in LatentCache.open(str(tmp_path)).samples()["source_id"].to_pylist()


def test_a_cache_without_a_live_sample(tmp_path):
    manifest = make_manifest(tmp_path)
    manifest.append("sources", [source_row("a", status="failed", reason="missing")])
    manifest.publish("r1", CONTRACT)
    cache = LatentCache.open(str(tmp_path))
    assert cache.samples().num_rows == 0
    assert cache.sources().num_rows == 1
    assert "sample_id" in cache.samples().column_names


def test_bytes_that_are_not_those_written(published, tmp_path):
    manifest, shard = published
    path = shard.path(".safetensors")
    data = bytearray(manifest.store.read(path))
    data[-1] ^= 1  # in logvar of the last window of b
    manifest.store.write(path, bytes(data))
    cache = LatentCache.open(str(tmp_path))
    *good, bad = [i for segment in shard.segments for i in segment.sample_ids]
    for identity in good:
        assert cache.read(identity)
    with pytest.raises(ShardError, match=f"sample {bad} are not those that were written"):
        cache.read(bad)


def test_no_cache_here(tmp_path):
    with pytest.raises(UserError, match="no snapshot is published here"):
        LatentCache.open(str(tmp_path / "nothing"))
    assert not (tmp_path / "nothing").exists()


# ---- the newest row of each source


ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "source_id": st.sampled_from("abcd"),
            "revision": st.integers(1, 4),
            "run_id": st.sampled_from(["r1", "r2", "r3"]),
        }
    ),
    max_size=20,
)


@given(ROWS, st.integers(1, 3), st.booleans())
def test_newest_by_source(rows, pieces, with_runs):
    rows = [{**row, "place": n} for n, row in enumerate(rows)]
    best = {}
    for row in rows:
        rank = (row["revision"], row["run_id"] if with_runs else "")
        if row["source_id"] not in best or rank > best[row["source_id"]]:
            best[row["source_id"]] = rank
    names = ["source_id", "revision", *(["run_id"] if with_runs else []), "place"]
    schema = pa.schema([(n, pa.int64() if n in ("revision", "place") else "string") for n in names])
    table = pa.concat_tables(
        pa.Table.from_pylist([{n: row[n] for n in names} for row in rows[k::pieces]], schema)
        for k in range(pieces)
    )
    found = newest_by_source(table)
    assert found.schema.names == names
    assert {
        row["source_id"]: (row["revision"], row.get("run_id", "")) for row in found.to_pylist()
    } == best
    assert found.num_rows == len(best)
    for row in found.to_pylist():  # whole rows, not mixtures
        assert {n: rows[row["place"]][n] for n in names} == row
