from itertools import pairwise

from helpers import SMALL, TALL, WIDE, intervals, members
from hypothesis import given
from hypothesis import strategies as st

from pipeline.coverage import merge
from pipeline.known import KnownRun
from pipeline.units import ClipTask, FileTask, Unit, pack_units, split_ranges

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


@given(WANTED, st.integers(0, 60), st.integers(1, 20))
def test_pieces_partition_the_wanted_windows(wanted, estimate, size):
    pieces = split_ranges(wanted, estimate, size)
    flat = [span for piece in pieces for span in piece]
    windows = [n for span in flat for n in members([span])]
    assert len(windows) == len(set(windows))
    assert set(windows) == members(wanted)
    assert flat == sorted(flat, key=lambda span: span[0])
    assert [span for span in flat[:-1] if span[1] is None] == []
    assert (flat[-1][1] is None) == (wanted[-1][1] is None)


@given(WANTED, st.integers(0, 60), st.integers(1, 20))
def test_no_piece_is_expected_to_exceed_the_size(wanted, estimate, size):
    for piece in split_ranges(wanted, estimate, size):
        expected = sum((max(a, estimate) if b is None else b) - a for a, b in piece)
        assert expected <= size


def test_a_long_source_is_cut_on_multiples_and_left_open():
    assert split_ranges([(0, None)], 30, 12) == [[(0, 12)], [(12, 24)], [(24, None)]]


def test_gaps_of_an_interrupted_run_share_a_piece():
    assert split_ranges([(2, 3), (5, 7), (20, None)], 20, 12) == [[(2, 3), (5, 7), (20, None)]]


@given(st.lists(FILES, max_size=3).map(lambda files: Unit(tuple(files))))
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


@given(st.lists(FILES, max_size=12), st.integers(1, 40))
def test_units_hold_all_files_in_order_and_are_well_filled(files, limit):
    units = pack_units(files, limit)
    assert [file for unit in units for file in unit.files] == files
    for unit in units:
        assert unit.files
        assert unit.windows <= limit or len(unit.files) == 1
    for unit, following in pairwise(units):
        first = sum(clip.windows for clip in following.files[0].clips)
        assert unit.windows + first > limit
