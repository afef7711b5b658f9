"""Stripes alone: every window once, units of whole packs, files side by side."""

from helpers import SMALL
from hypothesis import given
from hypothesis import strategies as st

from pipeline.stripes import Piece, Stripe
from pipeline.tasks import _cut
from pipeline.units import ClipTask
from pipeline.windows import WindowGrid


def piece(name, windows, splittable=True, uri=None, alone=True):
    clip = ClipTask(name, "g", "v", None, None, ((0, None),), (SMALL,), None, windows)
    return Piece(uri or name, None, clip, splittable, alone)


def cut(clip, windows):
    return _cut(WindowGrid(), clip, windows)


def units_of(pieces, pack, packs):
    found = list(Stripe(pack, packs, pack, cut).units(pieces))
    return [[(f.uri, clip.windows) for f in files for clip in f.clips] for files in found]


def test_a_long_clip_is_cut_into_whole_packs():
    units = units_of([piece("a", 100)], 10, 3)
    assert units == [[("a", 30)], [("a", 30)], [("a", 30)], [("a", 10)]]


def test_the_next_clip_goes_on_where_the_one_before_ended():
    assert units_of([piece("a", 13), piece("b", 100)], 10, 2)[:2] == [
        [("a", 13), ("b", 7)],
        [("b", 20)],
    ]


def test_a_short_clip_is_drawn_forward_before_one_is_cut():
    pieces = [piece("a", 7), piece("b", 5), piece("c", 2), piece("d", 3), piece("e", 5)]
    assert units_of(pieces, 10, 2) == [[("a", 7), ("d", 3), ("b", 5), ("c", 2), ("e", 5)]]


def test_clips_of_a_file_are_not_torn_apart():
    pieces = [piece("a", 7), piece("b", 5), *(piece(n, 3, uri="f", alone=False) for n in "xy")]
    found = list(Stripe(10, 2, 10, cut).units(pieces))
    assert [[f.uri for f in files] for files in found] == [["a", "b", "f"]]


def test_units_of_short_clips_come_out_even():
    units = units_of([piece(str(n), 7) for n in range(60)], 10, 2)
    assert {sum(windows for _, windows in unit) for unit in units} == {30, 40}
    assert sum(len(unit) for unit in units) < 60 * 1.25  # some are cut, not many


def test_what_cannot_be_cut_is_whole_and_something_else_fills_the_pack():
    units = units_of([piece("a", 95, splittable=False), piece("b", 5), piece("c", 4)], 10, 2)
    assert units == [[("a", 95)], [("b", 5), ("c", 4)]]
    pieces = [piece(name, n, splittable=False) for name, n in (("a", 13), ("b", 9), ("c", 7))]
    assert units_of(pieces, 10, 2) == [[("a", 13), ("c", 7)], [("b", 9)]]


@given(
    clips=st.lists(st.tuples(st.integers(1, 60), st.booleans()), max_size=30),
    pack=st.integers(1, 25),
    packs=st.integers(1, 4),
)
def test_every_window_lies_in_one_unit(clips, pack, packs):
    pieces = [piece(str(n), windows, whole) for n, (windows, whole) in enumerate(clips)]
    found = list(Stripe(pack, packs, pack, cut).units(pieces))
    wanted: dict[str, int] = {}
    longest = max((windows for windows, _ in clips), default=0)
    for files in found:
        names = [clip.source_id for f in files for clip in f.clips]
        assert len(names) == len(set(names))
        for f in files:
            for clip in f.clips:
                wanted[clip.source_id] = wanted.get(clip.source_id, 0) + clip.windows
        assert sum(c.windows for f in files for c in f.clips) < 2 * pack * packs + longest + pack
    assert wanted == {str(n): windows for n, (windows, _) in enumerate(clips)}
