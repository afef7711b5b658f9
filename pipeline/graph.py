"""The graph: a plan's units through decode, encode and write as one Ray Data execution."""

import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Self

import ray
import ray.data
import ray.exceptions
from ray.data import ActorPoolStrategy, DataContext, ExecutionResources, TaskPoolStrategy

from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.measured import NOTHING, Decode, Measured, choose_decode
from pipeline.plan import ProbeAnswer
from pipeline.recipe import Recipe
from pipeline.runner import LocalRunner, probe_file
from pipeline.stages.decode import UNIT, make_decode_fn
from pipeline.stages.encode import Encoder, MakeEncoder, make_vae_encoder
from pipeline.stages.in_actor import (
    DecodingEncoder,
    decoders_beside,
    threads_of_an_encoder,
)
from pipeline.stages.write import RESULT, Written, make_write_fn
from pipeline.units import Unit

PROBE_IN_CLUSTER = 1000
"""Files from which on headers are read by the cluster rather than by the driver's threads."""

_CODEC_RECYCLE_CALLS = 200
_DECODE_CPUS = 1.0
_WRITE_CPUS = 0.25
_PROBE_CPUS = 0.25


def make_graph(
    units: Sequence[Unit],
    config: Config,
    recipe: Recipe,
    packs_per_shard: int,
    make_encoder: MakeEncoder = make_vae_encoder,
    decode: Decode = "stage",
) -> ray.data.Dataset:
    """Sources → decode → encode → write; the driver commits what comes out.

    Rows are units, then packs, then write results. Decode and encode ask for different resources,
    so that Ray Data never fuses them into one operator: that would serialise them. With ``decode``
    ``in_actor`` they are one on purpose, of threads.
    """
    rows = ray.data.from_items(
        [{UNIT: unit.to_json()} for unit in units], override_num_blocks=len(units)
    )
    arguments = {"config": config, "recipe": recipe, "make_encoder": make_encoder}
    encoded = (_in_actor if decode == "in_actor" else _in_stages)(rows, config, arguments)
    return encoded.map_batches(
        make_write_fn(config, recipe), batch_size=packs_per_shard, num_cpus=_WRITE_CPUS
    )


def _in_stages(
    rows: ray.data.Dataset, config: Config, arguments: dict[str, Any]
) -> ray.data.Dataset:
    """Decode in tasks; frames go to the encoders through the object store."""
    run = config.run
    return rows.map_batches(
        make_decode_fn(config, arguments["recipe"]),
        batch_size=1,
        num_cpus=_DECODE_CPUS,
        max_calls=_CODEC_RECYCLE_CALLS,
        compute=TaskPoolStrategy(size=run.decode_tasks),
    ).map_batches(
        Encoder,
        fn_constructor_kwargs=arguments,
        batch_size=1,
        num_gpus=run.gpus_per_encoder,
        num_cpus=run.cpus_per_encoder,
        compute=ActorPoolStrategy(size=run.encoders),
    )


def _in_actor(
    rows: ray.data.Dataset, config: Config, arguments: dict[str, Any]
) -> ray.data.Dataset:
    """Decode in threads beside the encoder; units go to the encoders."""
    run, threads = config.run, threads_of_an_encoder(config)
    return rows.map_batches(
        DecodingEncoder,
        fn_constructor_kwargs=arguments,
        batch_size=1,
        num_gpus=run.gpus_per_encoder,
        num_cpus=run.cpus_per_encoder + decoders_beside(config) * _DECODE_CPUS,
        compute=ActorPoolStrategy(
            size=run.encoders,
            max_concurrent_calls_per_actor=threads,
            max_tasks_in_flight_per_actor=threads + 1,
            enable_true_multi_threading=True,
        ),
    )


def configure_context(config: Config) -> None:
    """Settings of Ray Data; they hold for datasets made afterwards."""
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    context = DataContext.get_current()
    context.target_max_block_size = config.run.pack_bytes
    context.execution_no_progress_timeout_s = -1  # waiting for a GPU is no failure
    context.max_consecutive_actor_init_deaths = 16  # a bad node must not end the run
    context.enable_progress_bars = False  # progress is printed by the driver
    if config.run.object_store_bytes is not None:
        context.execution_options.resource_limits = ExecutionResources.for_limits(
            object_store_memory=config.run.object_store_bytes // 2
        )


class RayRunner:
    """Carries units through the stages on the cluster of ``RAY_ADDRESS``, else a local one.

    A context manager. The cluster is joined (or started) when there is work for it, so that a plan
    or a run with nothing to do takes none.
    """

    def __init__(self, config: Config, make_encoder: MakeEncoder = make_vae_encoder) -> None:
        self.config = config
        self._make_encoder = make_encoder
        self._joined = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._joined:
            ray.shutdown()

    def _join(self) -> None:
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
                log_to_driver=False,
                logging_level=logging.WARNING,
            )
        self._joined = True
        signal.signal(signal.SIGTERM, handler)  # Ray has put its own, which exits at once

    def probe(self, files: Sequence[tuple[str, str | None]]) -> list[ProbeAnswer]:
        """Probe on the driver, or on the cluster when there are many files."""
        if len(files) < PROBE_IN_CLUSTER:
            return LocalRunner(self.config).probe(files)
        self._join()
        config = self.config
        size = -(-len(files) // (4 * config.run.probe_tasks))
        chunks = [files[first : first + size] for first in range(0, len(files), size)]

        @ray.remote(num_cpus=_PROBE_CPUS)
        def probe_chunk(chunk: Sequence[tuple[str, str | None]]) -> list[ProbeAnswer]:
            return [probe_file(uri, pinned, config) for uri, pinned in chunk]

        answers = ray.get([probe_chunk.remote(chunk) for chunk in chunks])
        return [answer for chunk in answers for answer in chunk]

    def _check_room(self, decode: Decode) -> None:
        """Whether encoders and one task of each other kind fit, or the run would wait forever.

        A cluster of its own never grows; one that was joined may, so that is told and waited for.
        """
        run = self.config.run
        decoders = 1 if decode == "stage" else run.encoders * decoders_beside(self.config)
        wanted = {
            "CPU": run.encoders * run.cpus_per_encoder + decoders * _DECODE_CPUS + _WRITE_CPUS,
            "GPU": run.encoders * run.gpus_per_encoder,
        }
        there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
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
        print(f"warning: {message}; waiting for more nodes", file=sys.stderr)

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
        self._join()
        store: float = ray.cluster_resources().get("object_store_memory", 0.0)  # type: ignore[no-untyped-call]
        decode = choose_decode(self.config, measured, store)
        self._check_room(decode)
        configure_context(self.config)
        graph = make_graph(units, self.config, recipe, packs_per_shard, self._make_encoder, decode)
        try:
            for row in graph.iter_rows():
                yield Written.from_json(row[RESULT])
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise UserError(str(error.cause)) from error
            raise
