import dataclasses
from collections import Counter

import pytest
from helpers import (
    SMALL,
    TALL,
    WIDE,
    make_config,
    make_facts,
    make_recipe,
    make_segment,
    make_source,
    make_store,
    sample_row,
    source_row,
)
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cells import (
    PACKS_EACH,
    Cell,
    CellRun,
    CellWork,
    count_cells,
    left_of,
    make_cells,
)
from pipeline.commit import Tally
from pipeline.errors import UserError
from pipeline.leases import Fence, LeaseLostError, Leases
from pipeline.manifest import Manifest
from pipeline.measured import NOTHING, Measured
from pipeline.packs import Event, facts_to_json
from pipeline.planned import PlannedSources
from pipeline.stages.write import Written

RECIPE = make_recipe()


def config_of(encoders=8, **run):
    return make_config(
        **{f"run__{k}": v for k, v in {"runner": "ray", "encoders": encoders, **run}.items()}
    )


# ---- how many


def test_a_driver_is_kept_half_busy_at_the_most():
    many = config_of(1000)
    assert count_cells(many, Measured(driver_seconds=0.1), packs=10**6, seconds=10**6 / 50) == 10
    assert count_cells(many, Measured(driver_seconds=0.2), packs=10**6, seconds=10**6 / 50) == 20
    assert count_cells(many, NOTHING, packs=10**6, seconds=10**6 / 400) == 8


def test_few_packs_and_few_encoders_make_few_cells():
    fast = Measured(driver_seconds=1.0)
    assert count_cells(config_of(8), fast, packs=10**6, seconds=1.0) == 8
    assert count_cells(config_of(8), fast, packs=3 * PACKS_EACH, seconds=1.0) == 3
    assert count_cells(config_of(8), fast, packs=1, seconds=1.0) == 1
    assert count_cells(config_of(8), fast, packs=0, seconds=0.0) == 1
    assert count_cells(config_of(8), fast, packs=10**6, seconds=0.0) == 8


def test_a_number_that_is_asked_for_is_kept():
    assert count_cells(config_of(8, cells=5), NOTHING, packs=9, seconds=9.0) == 5
    assert count_cells(config_of(8, runner="local", cells=5), NOTHING, packs=9, seconds=9.0) == 1


def test_a_cell_needs_an_encoder():
    with pytest.raises(UserError, match="cells is 3, and encoders 2"):
        config_of(2, cells=3)


# ---- what each has

sources = st.lists(
    st.tuples(
        st.integers(0, 12),  # the file
        st.sampled_from([(SMALL,), (WIDE,), (SMALL, TALL)]),
        st.integers(17, 4000),
    ),
    min_size=1,
    max_size=40,
)


@given(sources, st.integers(1, 12), st.integers(1, 12), st.integers(1, 40))
def test_cells_hold_every_source_once_and_all_of_a_file(rows, encoders, count, decoders):
    planned = [
        make_source(
            f"s{n}",
            uri=f"/{file}.mp4",
            buckets=buckets,
            facts=make_facts(frames=frames, duration=frames / 24),
        )
        for n, (file, buckets, frames) in enumerate(rows)
    ]
    config = config_of(encoders, decode_tasks=decoders)
    cells = make_cells(config, RECIPE, PlannedSources.of(planned), min(count, encoders))
    files = {source.file for source in planned}
    assert len(cells) == min(count, encoders, len(files))
    assert Counter(s.source_id for c in cells for s in c.sources.values()) == Counter(
        s.source_id for s in planned
    )
    assert sum(len({s.file for s in cell.sources.values()}) for cell in cells) == len(files)
    assert all(cell.sources for cell in cells)
    assert sum(cell.config.run.encoders for cell in cells) == encoders
    assert all(cell.config.run.decode_tasks >= 1 for cell in cells)


def test_work_is_divided_by_encoders():
    planned = [make_source(f"s{n:03}", uri=f"/{n:03}.mp4") for n in range(300)]
    cells = make_cells(config_of(3, decode_tasks=6), RECIPE, PlannedSources.of(planned), 2)
    assert [len(cell.sources) for cell in cells] == [200, 100]
    assert [cell.config.run.decode_tasks for cell in cells] == [4, 2]


# ---- at work


@pytest.fixture
def work(tmp_path):
    store = make_store(tmp_path)
    return CellWork(store, "run", RECIPE, 1, Fence(store, {}))


def written(*segments, events=()):
    rows = [sample_row(segment) for segment in segments]
    drop = ("segment_id", "run_id", "committed_at")
    return Written({}, [{k: v for k, v in r.items() if k not in drop} for r in rows], list(events))


def whole(name):
    """A source of two windows, all of them."""
    return written(make_segment(name), events=[ended(name, 2)])


def ended(name, windows):
    facts = facts_to_json(make_facts())
    return Event("end", name, f"{name}-g", windows, 17 * windows, facts)


def cell_of(*names):
    return Cell(
        config_of(commit_seconds=1e9), PlannedSources.of(make_source(name) for name in names)
    )


def test_a_cell_commits_what_comes_and_gives_the_rest_up(work):
    tally = CellRun(work, cell_of("a", "b"), Tally()).carry([whole("a")])
    assert tally.statuses == {"ok": 1, "failed": 1}
    assert tally.reasons == {"failed: incomplete": 1}
    ends = Manifest(work.store).read("sources").to_pylist()
    assert {row["source_id"]: row["status"] for row in ends} == {"a": "ok", "b": "failed"}


def test_a_cell_that_is_stopped_commits_what_is_done_and_no_more(work):
    cell = CellRun(work, cell_of("a", "b"), Tally())

    def results():
        yield whole("a")
        stopped = cell.stop()
        assert stopped.statuses == {"ok": 1}
        yield whole("b")

    assert cell.carry(results()).statuses == {"ok": 1}
    manifest = Manifest(work.store)
    assert manifest.read("sources")["source_id"].to_pylist() == ["a"]
    assert manifest.read("samples")["source_id"].to_pylist() == ["a"]


def test_what_a_cell_tells_does_not_change_afterwards(work):
    cell = CellRun(work, cell_of("a", "b"), Tally())
    told = []

    def results():
        for name in "ab":
            told.append(cell.tally())
            yield whole(name)

    done = cell.carry(results())
    assert [tally.statuses["ok"] for tally in [*told, done]] == [0, 1, 2]
    assert done.driver_seconds >= told[0].driver_seconds >= 0


def test_a_lost_lease_keeps_a_cell_from_committing(work):
    with Leases(work.store, "run") as leases:
        leases.take(["0"], print)
        fence = leases.fence()
    with Leases(work.store, "other") as others:
        others.take(["0"], print)
        fenced = dataclasses.replace(work, fence=fence)
        with pytest.raises(LeaseLostError, match="range 0"):
            CellRun(fenced, cell_of("a"), Tally()).carry([whole("a")])
    assert Manifest(work.store).read("samples").num_rows == 0


# ---- after a death


def test_a_new_driver_goes_on_where_the_dead_one_was(work):
    cell = cell_of("done", "failed", "begun", "new")
    manifest = Manifest(work.store)
    rows = [
        source_row("done", run_id="run", status="ok"),
        source_row("failed", run_id="run", status="failed", reason="decode_error", message="cut"),
        source_row(
            "begun", run_id="earlier", status="failed", reason="decode_error", message="old"
        ),
        source_row("of another cell", run_id="run", status="ok"),
    ]
    manifest.append("sources", rows)
    manifest.append("samples", [sample_row(make_segment("begun", 0, 2, SMALL))])
    left, tally = left_of(manifest, "run", cell)
    assert {source.source_id: source.coverage.held for source in left.sources.values()} == {
        "begun": {SMALL: ((0, 2),)},
        "new": {},
    }
    assert tally.statuses == {"ok": 1, "failed": 1}
    assert list(tally.examples) == ["failed: decode_error"]
    assert tally.firsts == {"ok": 1, "failed": 1}
    rest = written(make_segment("begun", 2, 1), events=[ended("begun", 3)])
    failure = Event("failed", "new", "new-g", reason="decode_error", message="cut")
    done = CellRun(work, left, tally).carry([rest, written(events=[failure])])
    assert done.statuses == {"ok": 2, "failed": 2}
    assert done.firsts == {"ok": 2, "failed": 2}
