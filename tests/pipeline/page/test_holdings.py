"""Sums over a snapshot equal what the reader of the cache says, row by row."""

from collections import Counter

import pytest

from pipeline.identity import stable_hash
from pipeline.page.holdings import EXAMPLES, sum_up
from tests.pipeline.helpers import (
    SMALL,
    WIDE,
    make_contract,
    make_manifest,
    make_segment,
    sample_row,
    source_row,
)
from tests.pipeline.maintain.builder import Builder

A, B, C, D = (stable_hash(name) for name in "abcd")


def held_of(cache, picks=4):
    snapshot = cache.manifest.snapshot()
    return sum_up(cache.manifest, snapshot, picks)


def test_sums_are_those_of_the_reader(tmp_path):
    cache = Builder(tmp_path / "cache")
    cache.encode({(A, 1): 3, (B, 1): 5, (C, 1): 0}, buckets=[SMALL, WIDE])
    cache.encode({(D, 1): 1}, frames=1)
    cache.encode([(A, 2)])
    cache.encode([(B, 2)], stop=1)  # unfinished: version 1 stays live
    cache.publish()
    held, samples = held_of(cache), cache.open().samples()
    rows = samples.to_pylist()
    assert held.windows == len(rows)
    assert held.images == sum(row["frames"] == 1 for row in rows) == 1
    assert held.shards == len({row["shard"] for row in rows})
    found = {name: bucket.windows for name, bucket in held.buckets.items()}
    assert found == Counter(row["bucket"] for row in rows)
    statuses = Counter(cache.open().sources()["status"].to_pylist())
    assert held.statuses == statuses
    assert held.total == 4
    stored = sum(
        array.nbytes
        for row in rows
        for array in (t.numpy() for t in cache.open().read(row["sample_id"]).values())
    )
    assert held.bytes == stored


def test_a_window_that_stands_twice_counts_once(tmp_path):
    manifest = make_manifest(tmp_path)
    manifest.write_contract(make_contract())
    twice = make_segment(A, 0, 3)
    manifest.append("samples", [sample_row(twice), sample_row(make_segment(A, 1, 2))])
    manifest.append("sources", [source_row(A, windows=3)])
    manifest.publish("run", make_contract())
    assert sum_up(manifest, manifest.snapshot(), 4).windows == 3


def test_reasons_have_counts_and_a_few_examples(tmp_path):
    manifest = make_manifest(tmp_path)
    manifest.write_contract(make_contract())
    rows = [
        source_row(stable_hash(n), status="failed", reason="missing", message="gone", attempts=n)
        for n in range(1, 8)
    ]
    rows.append(source_row(A, status="skipped", reason="too_short"))
    rows.append(source_row(B, status="removed"))
    manifest.append("sources", rows)
    manifest.publish("run", make_contract())
    held = sum_up(manifest, manifest.snapshot(), 4)
    assert held.statuses == {"failed": 7, "skipped": 1}
    missing = held.ended["failed", "missing"]
    assert (missing.count, missing.attempts, len(missing.examples)) == (7, 7, EXAMPLES)
    assert held.ended["skipped", "too_short"].count == 1


def test_padded_windows_are_counted_and_picked_with_the_one_before(tmp_path):
    manifest = make_manifest(tmp_path)
    manifest.write_contract(make_contract())
    padded = make_segment(A, 0, 3, valid_frames=[17, 17, 5])
    full = make_segment(B, 0, 2, bucket=WIDE)
    manifest.append("samples", [sample_row(padded), sample_row(full)])
    manifest.append("sources", [source_row(A), source_row(B)])
    manifest.publish("run", make_contract())
    held = sum_up(manifest, manifest.snapshot(), 4)
    assert held.padded == 1
    assert held.tails == {5: 1}
    shown = held.picks.to_show(3)
    assert [(p.bucket, p.window, p.padded) for p in shown] == [
        ("h32w32", 1, False),
        ("h32w32", 2, True),
        ("h32w64", 0, False),
    ]
    weights = {name: bucket.windows for name, bucket in held.buckets.items()}
    assert {p.bucket for p in held.picks.to_measure(2, weights)} == {"h32w32", "h32w64"}


def test_a_padded_window_in_a_segment_of_its_own_is_shown_too(tmp_path):
    manifest = make_manifest(tmp_path)
    manifest.write_contract(make_contract())
    segments = [make_segment(A, first, 1) for first in range(3)]
    segments.append(make_segment(B, 0, 1, valid_frames=[5]))
    manifest.append("samples", [sample_row(segment) for segment in segments])
    manifest.append("sources", [source_row(A), source_row(B)])
    manifest.publish("run", make_contract())
    shown = sum_up(manifest, manifest.snapshot(), 4).picks.to_show(2)
    assert [p.padded for p in shown] == [True, False]


def test_of_few_segments_several_windows_are_measured(tmp_path):
    """Of many, one each; of few, every one has its turn before any has its next."""
    manifest = make_manifest(tmp_path)
    manifest.write_contract(make_contract())
    segments = [make_segment(A, 0, 12), make_segment(B, 0, 4), make_segment(C, 0, 4, bucket=WIDE)]
    manifest.append("samples", [sample_row(segment) for segment in segments])
    manifest.append("sources", [source_row(source) for source in (A, B, C)])
    manifest.publish("run", make_contract())
    held = sum_up(manifest, manifest.snapshot(), 64)
    weights = {name: bucket.windows for name, bucket in held.buckets.items()}
    for count, wanted in (
        (2, {A: 1, B: 1, C: 1}),
        (5, {A: 2, B: 2, C: 1}),
        (64, {A: 12, B: 4, C: 4}),
    ):
        picks = held.picks.to_measure(count, weights)
        assert Counter(pick.source["source_id"] for pick in picks) == wanted
        assert len({(p.source["source_id"], p.window) for p in picks}) == len(picks)


@pytest.mark.parametrize("picks", [0, 1, 3])
def test_picks_are_bounded(tmp_path, picks):
    cache = Builder(tmp_path / "cache")
    cache.encode([(stable_hash(n), 1) for n in range(9)])
    cache.publish()
    held = held_of(cache, picks)
    assert len(held.picks.to_show(100)) <= 2 * picks
    assert len(held.picks.drawn["h32w32"]) == picks
