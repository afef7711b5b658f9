"""The write stage: packs of latents become shards and rows."""

import json

import pytest
from helpers import (
    SMALL,
    WIDE,
    make_config,
    make_recipe,
    make_segment,
    make_store,
    make_tensors,
)

from pipeline.packs import Event, PackMeta, Reference, rows, to_batch
from pipeline.runner import _join
from pipeline.schema import SAMPLES
from pipeline.shards import checksum, read_sample
from pipeline.stages.write import RESULT, Written, make_write_fn


def latents(recipe, *segments, events=(), seed=0):
    """A pack as the encode stage hands it on."""
    meta = PackMeta("p", segments, events)
    count = sum(segment.windows for segment in segments)
    bucket = WIDE if segments and segments[0].bucket == WIDE.name else SMALL
    length = 1 if segments and segments[0].frames == 1 else 3
    return to_batch(meta, make_tensors(recipe.contract, count, bucket, length, seed))


@pytest.fixture
def write(tmp_path):
    def make(*packs, **fields):
        config = make_config(output__uri=str(tmp_path), **fields)
        batch = make_write_fn(config, make_recipe(config))(_join(packs))
        return Written.from_json(str(batch[RESULT][0]))

    return make


@pytest.mark.parametrize("format_name", ["safetensors", "parquet"])
def test_rows_tell_where_every_sample_lies(write, tmp_path, format_name):
    recipe = make_recipe()
    one, two = make_segment("b", 0, 2), make_segment("b", 2, 3, last=True, frames_actual=90)
    other = make_segment("a", 0, 1)
    packs = [latents(recipe, two, other, seed=1), latents(recipe, one, seed=2)]
    tensors = {}
    for pack in packs:
        for meta, found in rows(pack):
            for row, identity in enumerate(meta.sample_ids):
                tensors[identity] = {name: column[row] for name, column in found.items()}
    written = write(*packs, output__format=format_name)
    [(path, size)] = written.shards.items()
    store = make_store(tmp_path)
    assert len(store.read(path)) == size
    assert path.endswith(format_name)
    assert sorted(row["source_id"] for row in written.segments) == ["a", "b", "b"]
    for row in written.segments:
        assert row["shard"] == path
        for offset, identity in enumerate(row["sample_ids"]):
            found = read_sample(store, path, row["first_row"] + offset, recipe.contract)
            for name, tensor in found.items():
                assert tensor.tobytes() == tensors[identity][name].tobytes()
            assert row["checksums"][offset] == checksum(list(found.values()))


def test_a_shard_does_not_depend_on_the_order_of_arrival(write):
    recipe = make_recipe()
    packs = [latents(recipe, make_segment("a", n, 1), seed=n) for n in range(4)]
    one, two = write(*packs), write(*reversed(packs))
    assert one.shards == two.shards
    assert one.segments == two.segments
    assert [row["first_window"] for row in one.segments] == [0, 1, 2, 3]


def test_a_shard_for_each_bucket_and_kind(write, tmp_path):
    recipe = make_recipe()
    written = write(
        latents(recipe, make_segment("a")),
        latents(recipe, make_segment("a", bucket=WIDE)),
        latents(recipe, make_segment("i", windows=1, frames=1)),
        latents(recipe, make_segment("b")),
    )
    assert len(written.shards) == 3
    shards = {(row["source_id"], row["bucket"]): row["shard"] for row in written.segments}
    assert shards["a", SMALL.name] == shards["b", SMALL.name]
    assert len(set(shards.values())) == 3
    image = next(row for row in written.segments if row["source_id"] == "i")
    found = read_sample(make_store(tmp_path), image["shard"], 0, recipe.contract)
    assert found["mean"].shape == (1, 2, 2, 2)


def test_events_come_through_and_write_nothing(write, tmp_path):
    events = [Event("failed", str(n), "g", reason="missing", message="m") for n in range(3)]
    recipe = make_recipe()
    written = write(*(latents(recipe, events=(event,)) for event in events))
    assert written == Written({}, [], events)
    assert list(tmp_path.iterdir()) == []


def test_references_are_rows_at_the_shards_that_they_name(write, tmp_path):
    segment = make_segment("a", 3, 2)
    old = "data/h32w32/old"
    meta = PackMeta("p", (), (), (Reference(segment, old, 7, ["c0", "c1"]),))
    written = write(to_batch(meta, make_tensors(make_recipe().contract, 0)))
    [row] = written.kept
    assert (written.shards, written.segments) == ({}, [])
    assert list(tmp_path.iterdir()) == []
    assert (row["shard"], row["first_row"], row["checksums"]) == (old, 7, ["c0", "c1"])
    assert row["sample_ids"] == segment.sample_ids
    [fresh] = write(latents(make_recipe(), segment)).segments
    assert fresh.keys() == row.keys()
    places = ("shard", "first_row", "checksums")
    assert all(row[name] == fresh[name] for name in row if name not in places)


def test_rows_have_the_columns_of_the_table_but_for_what_the_commit_adds(write):
    written = write(latents(make_recipe(), make_segment()))
    [row] = written.segments
    assert set(row) == set(SAMPLES.names) - {"segment_id", "run_id", "committed_at"}
    assert json.loads(row["geometry"])["height"] == row["height"] == 32
    assert (row["time_base_num"], row["time_base_den"]) == (1, 25)
    assert (row["statistic"], row["dtype"]) == ("moments", "float16")
