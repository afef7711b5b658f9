from itertools import pairwise

from helpers import SMALL, WIDE, intervals, make_manifest, make_segment, members, sample_row
from hypothesis import given
from hypothesis import strategies as st

from pipeline.coverage import Coverage, committed_coverage, merge

SPANS = st.lists(intervals(), max_size=12)


@given(SPANS)
def test_merge_is_the_union_in_order_without_touching_neighbours(spans):
    merged = merge(spans)
    assert members(merged) == members(spans)
    assert all(a[1] < b[0] for a, b in pairwise(merged))
    assert all(first < stop for first, stop in merged)


@given(SPANS, SPANS)
def test_merge_does_not_depend_on_order_or_on_steps(left, right):
    assert merge([*merge(left), *right]) == merge([*right, *left])


@given(SPANS, SPANS, st.none() | st.integers(0, 60))
def test_missing_is_what_some_bucket_lacks(one, other, end):
    if end is not None:  # nothing can be held behind the end of the data
        one = [(a, b) for a, b in one if b <= end]
        other = [(a, b) for a, b in other if b <= end]
    coverage = Coverage({SMALL: merge(one), WIDE: merge(other)}, end)
    missing = coverage.missing([SMALL, WIDE])
    horizon = 1000 if end is None else end
    wanted = set(range(horizon)) - (members(one) & members(other))
    assert members(missing, 1000) == wanted
    opens = [stop is None for _, stop in missing]
    assert opens.count(True) == (end is None)
    assert opens[-1:] in ([end is None], [])
    flat = [n for first, stop in missing for n in (first, stop) if n is not None]
    assert flat == sorted(set(flat))  # ascending, never empty, never adjacent


@given(SPANS, st.none() | st.integers(0, 60))
def test_complete_means_that_nothing_is_missing(spans, end):
    if end is not None:
        spans = [(a, b) for a, b in spans if b <= end]
    coverage = Coverage({SMALL: merge(spans)}, end)
    assert coverage.complete([SMALL]) == (coverage.missing([SMALL]) == ())


def test_all_windows_up_to_the_end_leave_nothing_missing():
    coverage = Coverage({SMALL: ((0, 4),), WIDE: ((0, 4),)}, 4)
    assert coverage.complete([SMALL, WIDE])
    assert coverage.missing([SMALL, WIDE]) == ()


def test_a_source_without_windows_is_complete_once_its_end_is_known():
    assert Coverage({}, 0).complete([SMALL])
    assert not Coverage({}, None).complete([SMALL])


def test_every_bucket_counts():
    coverage = Coverage({SMALL: ((0, 4),)}, 4)
    assert coverage.complete([SMALL])
    assert not coverage.complete([SMALL, WIDE])
    assert coverage.missing([SMALL, WIDE]) == ((0, 4),)


def test_nothing_committed_asks_for_everything_to_the_end_of_the_data():
    assert Coverage().missing([SMALL]) == ((0, None),)


def test_committed_coverage_reads_the_wanted_generations_alone(tmp_path):
    manifest = make_manifest(tmp_path)
    rows = [
        sample_row(make_segment("a", 0, 2)),
        sample_row(make_segment("a", 2, 2)),
        sample_row(make_segment("a", 6, 1, last=True, frames_actual=119)),
        sample_row(make_segment("a", 0, 1, bucket=WIDE)),
        sample_row(make_segment("b", 0, 3)),
        sample_row(make_segment("c", 0, 3)),
    ]
    manifest.append("samples", rows[:2])
    manifest.append("samples", rows[2:])
    found = committed_coverage(manifest, ["a-g", "b-g", "unknown"])
    assert found == {
        "a-g": Coverage({SMALL: ((0, 4), (6, 7)), WIDE: ((0, 1),)}, 7, 119),
        "b-g": Coverage({SMALL: ((0, 3),)}, None, None),
    }


def test_committed_coverage_of_a_new_cache_is_empty(tmp_path):
    assert committed_coverage(make_manifest(tmp_path), ["g"]) == {}
    assert committed_coverage(make_manifest(tmp_path), []) == {}
