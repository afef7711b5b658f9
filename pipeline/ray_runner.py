"""The runner on Ray: joins or starts a cluster, and has it do a plan's work."""

import logging
import os
import signal
import time
from collections.abc import Iterator, Sequence
from typing import Any, Self

import ray

from pipeline.canary import TRIED_UNITS, CanaryReport, run_canary
from pipeline.cells import Cell, CellWork
from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.fitting import Decode, choose_decode, fit_packs
from pipeline.graph import DECODE_CPUS, WRITE_CPUS, configure_context, execute, user_errors
from pipeline.logs import warn
from pipeline.measured import NOTHING, Measured
from pipeline.metrics import ENDED, Command, Meter, RunState
from pipeline.plan import ProbeAnswer
from pipeline.recipe import Recipe
from pipeline.runner import LocalRunner, probe_file
from pipeline.stages.encode import MakeEncoder, make_vae_encoder
from pipeline.stages.in_actor import decoders_beside
from pipeline.stages.ray_meter import RayMeter
from pipeline.stages.write import Written
from pipeline.supervise import CELL_CPUS, Supervisor
from pipeline.units import Unit

PROBE_IN_CLUSTER = 1000
"""Files from which on headers are read by the cluster rather than by the driver's threads."""

_PROBE_CPUS = 0.25

_SYSTEM = {
    # Ray ends a worker that was idle for a second; the next write task would then load its modules
    # anew, for two seconds of CPU time.
    "idle_worker_killing_time_threshold_ms": 60_000,
    # Nothing reads what tasks do: there is no dashboard.
    "task_events_report_interval_ms": 0,
    # Ray lets go of objects once a second, so that the store holds a second of frames for nothing.
    "free_objects_period_milliseconds": 0,
}
"""Settings of a cluster of our own."""


class RayRunner:
    """Carries units through the stages on the cluster of ``RAY_ADDRESS``, else a local one.

    A context manager. The cluster is joined (or started) when there is work for it, so that a plan
    takes none, and a run with nothing to do joins the one of ``RAY_ADDRESS`` to tell its end alone.
    """

    def __init__(self, config: Config, make_encoder: MakeEncoder = make_vae_encoder) -> None:
        self.config = config
        self.meter: Meter = RayMeter()
        self._make_encoder = make_encoder
        self._joined = False
        self._probed = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._joined:
            ray.shutdown()

    def tell_end(self, command: Command, state: RunState) -> None:
        """Have the metrics of a cluster that was there before say when a run ended.

        For this a run with nothing to do joins it, too.
        """
        if not os.environ.get("RAY_ADDRESS"):
            return
        try:
            self.join()
        except (OSError, RuntimeError) as error:
            warn(f"the cluster cannot be told that the run ended: {error}")
            return
        cache = self.config.output.uri
        self.meter.add(ENDED, time.time(), command=command, state=state, cache=cache)

    def join(self) -> None:
        """Join the cluster, or start it, unless that is done."""
        if ray.is_initialized():
            return
        handler = signal.getsignal(signal.SIGTERM)
        run = self.config.run
        address = os.environ.get("RAY_ADDRESS")
        if address:
            ray.init(address=address, log_to_driver=False)
        else:
            ray.init(
                address="local",
                num_cpus=run.num_cpus,
                num_gpus=run.num_gpus,
                object_store_memory=run.object_store_bytes,
                include_dashboard=False,
                _system_config=_SYSTEM,
                log_to_driver=False,
                logging_level=logging.WARNING,
            )
        self._joined = True
        signal.signal(signal.SIGTERM, handler)  # Ray has put its own, which exits at once

    def probe(self, files: Sequence[tuple[str, str | None]]) -> list[ProbeAnswer]:
        """Probe on the driver, or on the cluster when there are many files so far."""
        self._probed += len(files)
        if self._probed < PROBE_IN_CLUSTER:
            return LocalRunner(self.config).probe(files)
        self.join()
        config = self.config
        size = -(-len(files) // (4 * config.run.probe_tasks))
        chunks = [files[first : first + size] for first in range(0, len(files), size)]

        @ray.remote(num_cpus=_PROBE_CPUS)
        def probe_chunk(chunk: Sequence[tuple[str, str | None]]) -> list[ProbeAnswer]:
            return [probe_file(uri, pinned, config) for uri, pinned in chunk]

        asked: list[Any] = []
        at_work: list[Any] = []
        for chunk in chunks:
            if len(at_work) == config.run.probe_tasks:
                _, at_work = ray.wait(at_work)
            asked.append(probe_chunk.remote(chunk))
            at_work.append(asked[-1])
        return [answer for answers in ray.get(asked) for answer in answers]

    @property
    def accelerated(self) -> bool:
        """Whether encoders ask for GPUs."""
        return self.config.vae.device != "cpu" and self.config.run.gpus_per_encoder > 0

    def canary(self, units: Sequence[Unit], recipe: Recipe) -> CanaryReport | None:
        """Run it in an actor with the resources of an encoder, which ends with it.

        Raises ``UserError`` when a local cluster has no room for the run.
        """
        self.join()
        self._check_room("stage", cells=1)
        run = self.config.run
        actor: Any = ray.remote(_Canary).options(
            num_gpus=run.gpus_per_encoder, num_cpus=max(run.cpus_per_encoder, DECODE_CPUS)
        )
        canary = actor.remote(self.config, recipe, self._make_encoder)
        try:
            with user_errors():
                report: CanaryReport | None = ray.get(canary.look.remote(units[:TRIED_UNITS]))
            return report
        finally:
            ray.kill(canary)

    def _check_room(self, decode: Decode, cells: int) -> None:
        """Whether encoders and one task of each other kind fit, or the run would wait forever.

        A cluster of its own never grows; one that was joined may, so that is told and waited for.
        """
        run = self.config.run
        decoders = cells if decode == "stage" else run.encoders * decoders_beside(self.config)
        wanted = {
            "CPU": run.encoders * run.cpus_per_encoder
            + decoders * DECODE_CPUS
            + cells * WRITE_CPUS
            + (cells * CELL_CPUS if cells > 1 else 0),
            "GPU": run.encoders * run.gpus_per_encoder,
        }
        there = _cluster_resources()
        short = [
            f"{amount:g} {name}s are wanted and {there.get(name, 0.0):g} are there"
            for name, amount in wanted.items()
            if amount > there.get(name, 0.0)
        ]
        if not short:
            return
        message = (
            f"the cluster has no room for the run: {'; '.join(short)}. Lower run.encoders, "
            "run.cpus_per_encoder or run.gpus_per_encoder (with run.decode: in_actor "
            "run.decode_tasks too), or set run.num_cpus"
        )
        if not os.environ.get("RAY_ADDRESS"):
            raise UserError(message)
        warn(f"{message}; waiting for more nodes")

    def run(
        self,
        units: Sequence[Unit],
        recipe: Recipe,
        packs_per_shard: int,
        measured: Measured = NOTHING,
    ) -> Iterator[Written]:
        """Execute the graph; yields write results as they become durable.

        Raises ``UserError`` when a local cluster has no room for the run.
        """
        decode = self._settle(measured, cells=1)
        config = fit_packs(self.config, self._store_bytes(), decode)
        configure_context(config.run.object_store_bytes)
        yield from execute(units, config, recipe, packs_per_shard, self._make_encoder, decode)

    def run_cells(
        self, cells: Sequence[Cell], work: CellWork, measured: Measured = NOTHING
    ) -> Supervisor:
        """Execute cells, each on a driver of its own.

        Raises ``UserError`` when a local cluster has no room for the run.
        """
        decode = self._settle(measured, len(cells))
        store = int(self._store_bytes())
        return Supervisor(cells, work, store // len(cells), self._make_encoder, decode)

    def _settle(self, measured: Measured, cells: int) -> Decode:
        self.join()
        decode = choose_decode(self.config, measured, self._store_bytes())
        self._check_room(decode, cells)
        return decode

    def _store_bytes(self) -> float:
        """What the run may take of the cluster's object stores, twice what Ray Data uses."""
        held = _cluster_resources().get("object_store_memory", 0.0)
        return self.config.run.object_store_bytes or held


class _Canary:
    """The actor of ``RayRunner.canary``."""

    def __init__(self, config: Config, recipe: Recipe, make_encoder: MakeEncoder) -> None:
        self._config, self._recipe, self._make_encoder = config, recipe, make_encoder

    def look(self, units: Sequence[Unit]) -> CanaryReport | None:
        return run_canary(self._config, units, self._recipe, self._make_encoder)


def _cluster_resources() -> dict[str, float]:
    found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return found
