"""Which segments share a shard: a pure choice."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.maintain.fill import Held, Segment, fill

TARGET = 1000


def shards(*sizes):
    """Shards of segments of these sizes; a number is a shard of small segments."""
    found, row = [], 0
    for number, size in enumerate(sizes):
        parts = [size // 10] * 10 if isinstance(size, int) else size
        segments = []
        for part in parts:
            # Sources lie across the shards, as random work leaves them.
            segments.append(Segment(f"{row * 7919 % 1009:04}", "h32w32", 0, part, row))
            row += 1
        found.append(Held(f"shard-{number}", tuple(sorted(segments))))
    return found


def sizes(held):
    return sorted(shard.bytes for shard in held)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([], []),
        ([1000, 900], [900, 1000]),  # full ones stay
        ([100], [100]),  # nothing to share with
        ([100, 100], [200]),
        ([400, 400, 400], [1200]),  # rather one a little large than two small ones
        ([450, 450, 450], [670, 680]),
        ([490] * 10, [980] * 5),
        ([1000, 100], [1100]),  # a tenth of the bytes lay in a small shard
        ([1000, 400], [700, 700]),
        ([1000] * 20 + [100], [100] + [1000] * 20),  # a small share is not worth it
        ([1000] * 20 + [100, 100], [200] + [1000] * 20),
    ],
)
def test_examples(before, after):
    assert sizes(fill(shards(*before), TARGET, 0.5)) == pytest.approx(after, abs=20)


def test_segments_are_kept_whole_and_in_order():
    merged = fill(shards(300, 300, 300, 300, 300), TARGET, 0.5)
    assert [shard.path for shard in merged] == [None, None]
    order = [segment for shard in merged for segment in shard.segments]
    assert order == sorted(order)


@given(
    st.lists(st.lists(st.integers(1, 300), min_size=1, max_size=6), max_size=14),
    st.sampled_from([0.25, 0.5, 0.75, 1.0]),
)
def test_any_shards(parts, min_fill):
    before = shards(*parts)
    after = fill(before, TARGET, min_fill)
    # Every segment is somewhere, once.
    rows = sorted(s.row for shard in after for s in shard.segments)
    assert rows == list(range(sum(map(len, parts))))
    # Kept shards are as they were.
    kept = {shard.path: shard for shard in before}
    assert all(shard.path is None or kept[shard.path] == shard for shard in after)
    # Filling what was filled changes nothing.
    renamed = [Held(f"new-{n}", shard.segments) for n, shard in enumerate(after)]
    assert fill(renamed, TARGET, min_fill) == renamed
    assert len(after) <= len(before)


@given(st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=30), max_size=20))
def test_the_goal_is_met_with_segments_of_a_sixteenth_at_most(parts):
    after = fill(shards(*parts), TARGET, 0.5)
    total = sum(map(sum, parts))
    if total >= TARGET / 2:
        small = sum(shard.bytes for shard in after if shard.bytes < TARGET / 2)
        assert small <= 0.05 * total
    merged = [shard.bytes for shard in after if shard.path is None]
    assert all(size <= 1.35 * TARGET for size in merged)
