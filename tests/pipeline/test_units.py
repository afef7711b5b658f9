import pytest
from helpers import SMALL, TALL, WIDE, intervals, members
from hypothesis import given
from hypothesis import strategies as st

from pipeline.coverage import merge
from pipeline.known import KnownRun
from pipeline.recipe import window_bytes
from pipeline.units import ClipTask, FileTask, Unit, cut_ranges

WANTED = st.tuples(st.lists(intervals(), max_size=6), st.booleans()).map(
    lambda drawn: _wanted(*drawn)
)
SECONDS = st.none() | st.floats(0, 1e6)
RUNS = st.builds(
    KnownRun,
    shard=st.text(max_size=8),
    first_row=st.integers(0, 2**40),
    first_frames=st.tuples(st.integers(0, 9), st.integers(9, 2**40)),
    digests=st.binary(max_size=48),
)
CLIPS = st.builds(
    ClipTask,
    source_id=st.text(max_size=8),
    generation=st.text(max_size=8),
    version=st.text(max_size=8),
    start=SECONDS,
    end=SECONDS,
    ranges=WANTED.map(tuple),
    buckets=st.lists(st.sampled_from([SMALL, WIDE, TALL]), min_size=1, unique=True).map(tuple),
    expected_size=st.none() | st.tuples(st.integers(1, 9999), st.integers(1, 9999)),
    windows=st.integers(1, 12),
    known=st.lists(RUNS, max_size=2).map(tuple),
)
FILES = st.builds(
    FileTask,
    uri=st.text(max_size=12),
    pinned_version=st.none() | st.text(max_size=6),
    clips=st.lists(CLIPS, min_size=1, max_size=3).map(tuple),
)


def _wanted(spans, is_open):
    """Ascending, disjoint ranges as ``Coverage.missing`` gives them."""
    merged = list(merge(spans))
    if is_open or not merged:
        merged.append(((merged[-1][1] + 1) if merged else 0, None))
    return merged


@given(WANTED, st.integers(1, 60))
def test_a_cut_parts_the_wanted_windows(wanted, windows):
    total = sum(stop - first for first, stop in wanted if stop is not None)
    if wanted[-1][1] is not None and total <= windows:
        with pytest.raises(ValueError, match="behind the cut"):
            cut_ranges(wanted, windows)
        return
    head, tail = cut_ranges(wanted, windows)
    assert sum(stop - first for first, stop in head) == windows
    assert members(head) | members(tail) == members(wanted)
    assert not members(head) & members(tail)
    flat = [*head, *tail]
    assert flat == sorted(flat, key=lambda span: span[0])
    assert all(stop is None or first < stop for first, stop in flat)
    assert tail[-1][1] == wanted[-1][1]


def test_a_cut_leaves_what_is_behind_it_open():
    assert cut_ranges([(2, 5), (7, None)], 4) == (((2, 5), (7, 8)), ((8, None),))
    assert cut_ranges([(2, 5), (7, None)], 3) == (((2, 5),), ((7, None),))


PACKS = st.lists(st.tuples(st.text(max_size=5), st.integers(1, 99)), max_size=2).map(tuple)


@given(st.builds(Unit, st.lists(FILES, max_size=3).map(tuple), PACKS))
def test_units_travel_as_text_unchanged(unit):
    found = Unit.from_json(unit.to_json())
    assert found == unit
    assert found.to_json() == unit.to_json()


@given(CLIPS)
def test_units_of_other_content_are_other_texts(clip):
    units = {
        Unit((FileTask(uri, pinned, clips),)).to_json()
        for uri in ("a", "b")
        for pinned in (None, "v")
        for clips in ((clip,), (clip, clip))
    }
    assert len(units) == 8


def test_a_unit_counts_its_packs():
    def task(name, windows, *buckets):
        return ClipTask(name, "g", "v", None, None, ((0, None),), buckets, None, windows)

    files = (FileTask("a", None, (task("s", 10, SMALL, WIDE), task("t", 8, SMALL))),)
    packs = ((SMALL.name, 4), (WIDE.name, 2))
    assert Unit(files, packs).pack_count() == 4 + 3
    assert Unit(files).pack_count() == 2
    assert Unit(files, packs).pack_count(10**9) == 4 + 3
    assert Unit(files, packs).pack_count(1) == 13 + 5
    only = (FileTask("a", None, (task("t", 8, SMALL),)),)
    assert Unit(only, ((SMALL.name, 4),)).pack_count(3 * window_bytes(SMALL)) == 3
    assert Unit(only, ((SMALL.name, 8),), frames=1).pack_count(window_bytes(SMALL)) == 1
    assert Unit(only, ((SMALL.name, 8),), frames=1).pack_count(window_bytes(SMALL, 4)) == 2
