"""Windows that the cache holds already: found again by decoding, whatever they are cut into."""

from itertools import pairwise

import pytest
from helpers import (
    SMALL,
    WIDE,
    make_config,
    make_contract,
    make_facts,
    make_manifest,
    make_recipe,
    make_segment,
    make_source,
    sample_row,
)
from hypothesis import given
from hypothesis import strategies as st

from pipeline.carry import recall_known
from pipeline.coverage import Coverage
from pipeline.known import KnownRun, Place, cut, places
from pipeline.packs import Reference
from pipeline.planned import PlannedSources
from pipeline.sources import Previous
from pipeline.tasks import make_units

RECIPE = make_recipe()


def run_of(first, windows, shard="data/h32w32/x.safetensors", row=0):
    return KnownRun.of_row(
        sample_row(make_segment("s", first, windows), shard=shard, first_row=row)
    )


@given(st.integers(0, 50), st.integers(1, 12), st.integers(0, 2**40))
def test_a_run_travels_as_text_and_names_its_rows(first, windows, row):
    run = run_of(first, windows, row=row)
    assert KnownRun.from_list(run.to_list()) == run
    assert run.windows == windows
    assert run.first_frames == (17 * first, 17 * (first + windows - 1))
    segment = make_segment("s", first, windows)
    assert places([run]) == {
        identity: Place(run.shard, row + n, f"{n:016x}")
        for n, identity in enumerate(segment.sample_ids)
    }


def test_of_two_places_the_smallest_stands():
    runs = [
        run_of(0, 2, "data/h32w32/b", 0),
        run_of(1, 2, "data/h32w32/a", 7),
        run_of(1, 1, "data/h32w32/a", 3),
    ]
    for order in (runs, runs[::-1]):
        found = [(place.shard[-1], place.row) for place in places(order).values()]
        assert sorted(found) == [("a", 3), ("a", 8), ("b", 0)]


@given(
    st.lists(
        st.none() | st.tuples(st.sampled_from("ab"), st.integers(0, 3)), min_size=1, max_size=12
    )
)
def test_parts_hold_every_window_once_and_references_are_adjacent_rows(held):
    info = make_segment(first=5, windows=len(held), last=True, frames_actual=300)
    known = {
        identity: Place(place[0], place[1], f"{n:016x}")
        for n, (identity, place) in enumerate(zip(info.sample_ids, held, strict=True))
        if place is not None
    }
    parts = list(cut(info, known))
    assert [n for span, _ in parts for n in span] == list(range(len(held)))
    for span, part in parts:
        segment = part.segment if isinstance(part, Reference) else part
        ends = span.stop == len(held)
        assert (segment.first_window, segment.windows) == (5 + span.start, len(span))
        assert (segment.last, segment.frames_actual) == (ends, 300 if ends else None)
        for name in ("pts", "valid_frames", "first_frames", "sample_ids"):
            assert getattr(segment, name) == getattr(info, name)[span.start : span.stop]
        if isinstance(part, Reference):
            assert [(part.shard, part.first_row + n) for n in range(len(span))] == [
                held[n] for n in span
            ]
            assert part.checksums == [f"{n:016x}" for n in span]
        else:
            assert all(held[n] is None for n in span)
    for (_, left), (_, right) in pairwise(parts):
        assert isinstance(left, Reference) or isinstance(right, Reference)  # no more than needed


def test_a_segment_of_which_nothing_is_known_stays_as_it_is():
    info = make_segment(windows=3)
    assert list(cut(info, {})) == [(range(3), info)]


# ---- what a plan tells decode tasks


def source_before(**changes):
    return make_source("ab", generation="new", previous=previous(), **changes)


def previous(**changes):
    fields = {
        "generation": "ab-g",
        "window_recipe": "another",
        "contract_id": make_contract().contract_id,
        "frames_actual": 170,
    }
    return Previous(**{**fields, **changes})


@pytest.fixture
def manifest(tmp_path):
    made = make_manifest(tmp_path)
    made.append(
        "samples",
        [
            sample_row(make_segment("ab", 0, 6), shard="data/h32w32/x"),
            sample_row(make_segment("ab", 6, 4), shard="data/h32w32/x", first_row=6),
            sample_row(make_segment("ab", 0, 10, WIDE), shard="data/h32w64/y"),
            sample_row(make_segment("cd", 0, 10), shard="data/h32w32/z"),
        ],
    )
    return made


def recalled(manifest, source):
    [found] = recall_known(manifest, RECIPE, [source])
    return {(run.shard, run.first_row, run.windows) for run in found.known}


def test_a_source_is_told_what_its_generation_before_holds_at_its_buckets(manifest):
    small = {("data/h32w32/x", 0, 6), ("data/h32w32/x", 6, 4)}
    assert recalled(manifest, source_before()) == small
    both = source_before(buckets=(SMALL, WIDE))
    assert recalled(manifest, both) == small | {("data/h32w64/y", 0, 10)}


@pytest.mark.parametrize(
    "source",
    [
        make_source("ab", generation="new"),
        make_source("ab", generation="new", previous=previous(window_recipe="w")),
        make_source("ab", generation="new", previous=previous(contract_id="another")),
        source_before(coverage=Coverage({SMALL: ((0, 10),)}, 10, 170)),
    ],
    ids=["none before", "the plan can tell", "another contract", "done"],
)
def test_nothing_is_recalled(manifest, source):
    assert recalled(manifest, source) == set()


def test_tasks_get_what_their_windows_may_be():
    config = make_config(windows__fps="25", run__task_windows=12, windows__segment_windows=12)
    runs = tuple(run_of(first, 12, row=first) for first in range(0, 60, 12))
    frames = 17 * 60
    facts = make_facts(frames=frames, duration=frames / 25)
    source = make_source("s", facts=facts, known=runs)
    units = make_units(config, make_recipe(config), PlannedSources([source]))
    clips = [clip for unit in units for file in unit.files for clip in file.clips]
    assert [clip.ranges for clip in clips] == [
        *(((n, n + 12),) for n in range(0, 48, 12)),
        ((48, None),),
    ]
    assert [clip.known for clip in clips] == [(run,) for run in runs]
