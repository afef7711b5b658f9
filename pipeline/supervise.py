"""Supervision of cells: starts their drivers, watches them, and replaces one that dies."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import ray
import ray.exceptions

from pipeline.cells import Cell, CellRun, CellWork, left_of
from pipeline.commit import Tally
from pipeline.errors import UserError
from pipeline.fitting import Decode, fit_packs
from pipeline.forecast import window_seconds
from pipeline.graph import configure_context, execute, user_errors
from pipeline.logs import warn
from pipeline.manifest import Manifest
from pipeline.stages.encode import MakeEncoder
from pipeline.stages.ray_meter import RayMeter
from pipeline.tasks import make_units

CELL_CPUS = 1.0
"""Processors of a cell's driver."""

RESTARTS = 5
"""Times in a row that a cell's driver may die before it has done anything."""

_POLL_SECONDS = 1.0
_STOP_SECONDS = 2.5


class CellDriver:
    """The driver of one cell, an actor: plans, executes and commits on its own.

    With ``again`` it goes on where a dead one was.
    """

    def __init__(
        self,
        cell: Cell,
        work: CellWork,
        store_bytes: int,
        make_encoder: MakeEncoder,
        decode: Decode,
        again: bool,
    ) -> None:
        before = Tally()
        if again:
            cell, before = left_of(Manifest(work.store), work.run_id, cell)
        self._cell, self._work, self._store_bytes = cell, work, store_bytes
        self._make_encoder, self._decode = make_encoder, decode
        self._run = CellRun(work, cell, before, RayMeter())

    def run(self) -> Tally:
        """Do the work; returns what was done."""
        cell, work = self._cell, self._work
        seconds = window_seconds(cell.config, Manifest(work.store), cell.sources.buckets)
        units = make_units(cell.config, work.recipe, cell.sources, seconds)
        config = fit_packs(cell.config, self._store_bytes, self._decode)
        configure_context(self._store_bytes)
        return self._run.carry(
            execute(
                units,
                config,
                work.recipe,
                work.packs_per_shard,
                self._make_encoder,
                self._decode,
            )
        )

    def tally(self) -> Tally:
        """What was done so far."""
        return self._run.tally()

    def stop(self) -> Tally:
        """Commit what is done, and take nothing more."""
        return self._run.stop()


@dataclass
class _Driven:
    """A cell with its present driver, and what was last heard of that."""

    cell: Cell
    driver: Any
    result: Any
    asked: Any = None
    heard: Tally | None = None
    deaths: int = 0


class Supervisor:
    """Runs cells to their end. A context manager; leaving it stops what still runs.

    What is done is committed then, for which there are ``_STOP_SECONDS``.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        work: CellWork,
        store_bytes: int,
        make_encoder: MakeEncoder,
        decode: Decode,
    ) -> None:
        self._cells = cells
        self._arguments = (work, store_bytes, make_encoder, decode)
        self._driven: list[_Driven] = []
        self._done = Tally()

    def __enter__(self) -> Self:
        self._driven = [_Driven(cell, *self._start(cell, again=False)) for cell in self._cells]
        return self

    def __exit__(self, *_: object) -> None:
        for driven in self._driven:
            driven.asked = driven.driver.stop.remote()
        asked = [driven.asked for driven in self._driven]
        if asked:
            ray.wait(asked, num_returns=len(asked), timeout=_STOP_SECONDS)
        self._hear()
        for driven in list(self._driven):
            self._end(driven, driven.heard)

    def _start(self, cell: Cell, again: bool) -> tuple[Any, Any]:
        actor: Any = ray.remote(CellDriver).options(
            num_cpus=CELL_CPUS, max_concurrency=2, scheduling_strategy="SPREAD"
        )
        driver = actor.remote(cell, *self._arguments, again)
        return driver, driver.run.remote()

    def tally(self) -> Tally:
        """What all cells together have done, as far as is known."""
        whole = Tally()
        whole.merge(self._done)
        for driven in self._driven:
            if driven.heard is not None:
                whole.merge(driven.heard)
        return whole

    def progress(self) -> Iterator[Tally]:
        """What is done, every second until all is.

        Raises ``UserError`` as the drivers do, and when one keeps dying.
        """
        while self._driven:
            results = [driven.result for driven in self._driven]
            ended, _ = ray.wait(results, num_returns=len(results), timeout=_POLL_SECONDS)
            for driven in [d for d in self._driven if d.result in ended]:
                with user_errors():
                    try:
                        self._end(driven, ray.get(driven.result))
                    except ray.exceptions.RayActorError as death:
                        if isinstance(death, ray.exceptions.RayTaskError):
                            raise  # the driver lives: an actor of its execution is dead
                        self._replace(driven, death)
            self._hear()
            for driven in self._driven:
                driven.asked = driven.asked or driven.driver.tally.remote()
            yield self.tally()

    def _hear(self) -> None:
        """Take in what drivers have answered."""
        for driven in self._driven:
            if driven.asked is not None and ray.wait([driven.asked], timeout=0)[0]:
                try:
                    driven.heard = ray.get(driven.asked)
                except ray.exceptions.RayError as error:
                    # Its result tells as well, and there it is acted upon.
                    warn(f"a cell's driver: {_first_line(error)}")
                driven.asked = None

    def _end(self, driven: _Driven, tally: Tally | None) -> None:
        if tally is not None:
            self._done.merge(tally)
        self._driven.remove(driven)
        ray.kill(driven.driver)

    def _replace(self, driven: _Driven, death: ray.exceptions.RayActorError) -> None:
        """Start another driver for a cell whose own is dead."""
        worked = driven.heard is not None and driven.heard.efforts.packs > 0
        driven.deaths = 1 if worked else driven.deaths + 1
        if driven.deaths > RESTARTS:
            raise UserError(
                f"the driver of a cell of {len(driven.cell.sources)} sources died {driven.deaths} "
                f"times in a row ({_first_line(death)}). What is committed stays; see Ray's logs, "
                "then run again"
            ) from death
        warn(f"a cell's driver died and is replaced: {_first_line(death)}")
        if driven.heard is not None:
            driven.heard.forget_ends()  # the next one reads how its sources ended
            self._done.merge(driven.heard)
        ray.kill(driven.driver)
        driven.asked = driven.heard = None
        driven.driver, driven.result = self._start(driven.cell, again=True)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
