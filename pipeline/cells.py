"""Cells: parts of a large plan, each with an execution and a committer of its own.

One driver feeds a bounded number of encoders: each pack costs it some CPU time. A cell has whole
sources, so that no other has a say in how they end, and a share of the encoders and decoders.
"""

import copy
import math
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import pyarrow.compute as pc

from pipeline.buckets import Bucket
from pipeline.commit import Committer, Tally
from pipeline.config import Config
from pipeline.coverage import NOTHING_HELD, committed_coverage
from pipeline.leases import Fence
from pipeline.manifest import Manifest
from pipeline.measured import Measured
from pipeline.metrics import SILENT, Meter
from pipeline.packed import Packed
from pipeline.planned import PlannedSources
from pipeline.recipe import Recipe
from pipeline.sources import SourcePlan
from pipeline.stages.write import Written
from pipeline.storage import Store

DRIVER_SECONDS_PER_PACK = 0.01
"""CPU time of a driver for each pack where no run of the cache has told: 6 to 11 ms for a driver
that is half busy (``jobs/benchmark.py scale``, docs/scale.md)."""

DRIVER_SHARE = 0.5
"""Of one processor, which a driver may be kept busy: most of its work is done by one thread, and
encoders wait where that falls behind."""

PACKS_EACH = 200
"""Packs of a cell at the least; smaller ones are not worth their start."""


def count_cells(config: Config, measured: Measured, packs: int, seconds: float) -> int:
    """Cells of a plan: as configured, else as many as drivers are needed for its packs a second.

    Args:
        config: tells the encoders; a cell has one at the least.
        measured: what earlier runs say of drivers.
        packs: of the plan.
        seconds: the forecast of all encoders together.
    """
    run = config.run
    if run.runner == "local" or not packs:
        return 1
    if run.cells is not None:
        return run.cells
    each = measured.driver_seconds or DRIVER_SECONDS_PER_PACK
    wanted = math.ceil(packs / seconds * each / DRIVER_SHARE) if seconds else run.encoders
    return max(1, min(wanted, run.encoders, packs // PACKS_EACH))


@dataclass(frozen=True)
class Cell:
    """Sources of one cell, and the configuration with its share of encoders and decoders."""

    config: Config
    sources: PlannedSources


def make_cells(config: Config, recipe: Recipe, sources: PlannedSources, count: int) -> list[Cell]:
    """Divide what is to be encoded so that each cell's encoders get about the same work.

    Sources of a file stay together, those of the same buckets near each other. Fewer cells than
    asked for where there are not as many files.
    """
    kinds: list[tuple[Bucket, ...]] = []
    works: list[float] = []
    for clips in _files(sources):
        kinds.append(min(source.buckets for source in clips))
        works.append(sum(_work(source, recipe) for source in clips))
    shares = _shares(config.run.encoders, min(count, len(works)))
    order = sorted(range(len(works)), key=lambda file: kinds[file])  # stable
    cell_of = [0] * len(works)
    for file, cell in zip(order, _divide([works[n] for n in order], shares), strict=True):
        cell_of[file] = cell
    found: list[Packed[SourcePlan]] = [Packed() for _ in shares]
    for cell, clips in zip(cell_of, _files(sources), strict=True):
        found[cell].extend(clips)
    decoders = config.run.decode_tasks / config.run.encoders
    return [
        Cell(_with_share(config, share, max(1, round(share * decoders))), PlannedSources(own))
        for share, own in zip(shares, found, strict=True)
    ]


def _files(sources: PlannedSources) -> Iterator[list[SourcePlan]]:
    """What is to be encoded of each file, in order."""
    left = (source for source in sources.values() if not source.settled)
    return (list(clips) for _, clips in groupby(left, key=lambda source: source.file))


def _shares(whole: int, count: int) -> list[int]:
    """A whole number in equal parts, as nearly as may be."""
    return [whole // count + (n < whole % count) for n in range(count)]


def _divide(works: Sequence[float], shares: Sequence[int]) -> Iterator[int]:
    """The cell of each file: in a row, each cell gets its share of the work and at least one."""
    whole, cell, done = sum(works), 0, 0.0
    bounds = [whole * sum(shares[: n + 1]) / sum(shares) for n in range(len(shares))]
    for index, work in enumerate(works):
        behind = len(works) - index <= len(shares) - 1 - cell
        if index and (behind or done + work / 2 > bounds[cell]) and cell < len(shares) - 1:
            cell += 1
        done += work
        yield cell


def _work(source: SourcePlan, recipe: Recipe) -> float:
    """Pixels to encode, and something for the source itself."""
    windows = max(1, source.estimated_windows(recipe))
    return sum(bucket.height * bucket.width for bucket in source.buckets) * windows


def _with_share(config: Config, encoders: int, decode_tasks: int) -> Config:
    changes = {"encoders": encoders, "decode_tasks": decode_tasks}
    return config.model_copy(update={"run": config.run.model_copy(update=changes)})


@dataclass(frozen=True)
class CellWork:
    """What all cells of a run have in common."""

    store: Store
    run_id: str
    recipe: Recipe
    packs_per_shard: int
    fence: Fence


def left_of(manifest: Manifest, run_id: str, cell: Cell) -> tuple[Cell, Tally]:
    """What is left of a cell whose driver died, and how the sources ended that are done."""
    ended = manifest.read(
        "sources",
        columns=["source_id", "uri", "status", "reason", "message", "attempts"],
        where=pc.field("run_id") == run_id,
    ).to_pylist()
    tally, done = Tally(), set()
    for row in ended:
        if cell.sources.find(row["source_id"]) is not None:
            done.add(row["source_id"])
            example = f"{row['uri']}: {row['message']}"
            tally.count_end(row["status"], row["reason"], example, first=row["attempts"] == 1)
    open_ = PlannedSources(s for s in cell.sources.values() if s.source_id not in done)
    covered = committed_coverage(manifest, (source.generation for source in open_.values()))
    left = (replace(s, coverage=covered.get(s.generation, NOTHING_HELD)) for s in open_.values())
    return replace(cell, sources=PlannedSources(left)), tally


class CellRun:
    """Commits what a cell's execution makes. ``carry``, in one thread, takes the results; the other
    methods may be called beside it.
    """

    def __init__(self, work: CellWork, cell: Cell, before: Tally, meter: Meter = SILENT) -> None:
        """``before`` tells how sources ended that the cell does not have any more."""
        self._store = work.store
        self._committer = Committer(
            Manifest(work.store),
            work.run_id,
            work.recipe.contract.contract_id,
            cell.sources,
            cell.config.run.commit_seconds,
            guard=work.fence.check,
            meter=meter,
        )
        self._committer.tally.merge(before)
        self._lock = threading.Lock()
        self._stopped = False
        self._cpu = time.process_time()

    def carry(self, results: Iterable[Written]) -> Tally:
        """Commit the results of an execution, to its end; what is open then is incomplete."""
        with self._lock:
            if not self._stopped:
                self._committer.settle()
        for written in results:
            with self._lock:
                if self._stopped:
                    break
                written.require_seen(self._store)
                self._committer.add(written)
        with self._lock:
            if not self._stopped:
                self._committer.give_up()
                self._committer.commit()
            return self._tally()

    def tally(self) -> Tally:
        """What was done so far."""
        with self._lock:
            return self._tally()

    def stop(self) -> Tally:
        """Commit what is done, and take nothing more."""
        with self._lock:
            if not self._stopped:
                self._committer.commit()
            self._stopped = True
            return self._tally()

    def _tally(self) -> Tally:
        tally = copy.deepcopy(self._committer.tally)
        tally.driver_seconds = time.process_time() - self._cpu
        return tally
