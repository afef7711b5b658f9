"""The graph: a plan's units through decode, encode and write as one Ray Data execution."""

import contextlib
import logging
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import ray.data
import ray.exceptions
from ray.data import ActorPoolStrategy, DataContext, ExecutionResources, TaskPoolStrategy

from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.fitting import Decode
from pipeline.recipe import Recipe, window_bytes
from pipeline.stages.decode import UNIT, make_decode_fn
from pipeline.stages.encode import Encoder, MakeEncoder, make_vae_encoder
from pipeline.stages.in_actor import (
    DecodingEncoder,
    decoders_beside,
    threads_of_an_encoder,
)
from pipeline.stages.ray_meter import RayMeter
from pipeline.stages.write import RESULT, Written, make_write_fn
from pipeline.units import Unit

DECODE_CPUS = 1.0
WRITE_CPUS = 0.25

UNITS_AT_ONCE = 10_000
"""Units of one execution."""

_CODEC_RECYCLE_CALLS = 200


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
    DataContext.get_current().target_max_block_size = block_bytes(units, config, decode)
    rows = ray.data.from_items(
        [{UNIT: unit.to_json()} for unit in units], override_num_blocks=len(units)
    )
    arguments = {
        "config": config,
        "recipe": recipe,
        "make_encoder": make_encoder,
        "meter": RayMeter(),
    }
    if decode == "in_actor":
        encoded = _in_actor(rows, config, arguments)
    else:
        encoded = _in_stages(rows, config, arguments, min(config.run.decode_tasks, len(units)))
    return encoded.map_batches(
        make_write_fn(config, recipe),
        batch_size=refitted(packs_per_shard, units, config),
        num_cpus=WRITE_CPUS,
    )


def block_bytes(units: Sequence[Unit], config: Config, decode: Decode) -> int:
    """Bytes at which Ray Data ends a block: so few that a full pack is a block of its own.

    It would copy blocks of two to take them apart, and give both to one encoder. Packs of latents,
    which are small, it would keep until a unit's last is encoded.
    """
    if decode == "in_actor":
        return 1
    kinds = {(unit.packs, unit.frames): unit for unit in units}.values()
    full = (
        size * window_bytes(bucket, unit.frames)
        for unit in kinds
        for bucket, size in unit.pack_sizes(config.run.pack_bytes).items()
    )
    return max(1, min(full, default=config.run.pack_bytes) // 2)


def refitted(packs_per_shard: int, units: Sequence[Unit], config: Config) -> int:
    """As many packs more as these became smaller: ``run.pack_bytes`` may be less than planned."""
    planned = sum(unit.pack_count() for unit in units)
    fitted = sum(unit.pack_count(config.run.pack_bytes) for unit in units)
    return max(1, round(packs_per_shard * fitted / max(1, planned)))


def _in_stages(
    rows: ray.data.Dataset, config: Config, arguments: dict[str, Any], decoders: int
) -> ray.data.Dataset:
    """Decode in tasks; frames go to the encoders through the object store."""
    run = config.run
    return rows.map_batches(
        make_decode_fn(config, arguments["recipe"], arguments["meter"]),
        batch_size=1,
        num_cpus=DECODE_CPUS,
        max_calls=_CODEC_RECYCLE_CALLS,
        compute=TaskPoolStrategy(size=decoders),
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
        num_cpus=run.cpus_per_encoder + decoders_beside(config) * DECODE_CPUS,
        compute=ActorPoolStrategy(
            size=run.encoders,
            max_concurrent_calls_per_actor=threads,
            max_tasks_in_flight_per_actor=threads + 1,
            enable_true_multi_threading=True,
        ),
    )


def configure_context(store_bytes: float | None) -> None:
    """Settings of Ray Data; they hold for datasets made afterwards.

    Half of ``store_bytes`` of the object store is what an execution may take; None leaves it to
    Ray Data, which takes half of what the cluster has.
    """
    logger = logging.getLogger("ray.data")
    logger.setLevel(logging.WARNING)
    for handler in logger.handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.addFilter(_no_mistake)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # bars are off: below
    context = DataContext.get_current()
    context.execution_no_progress_timeout_s = -1  # waiting for a GPU is no failure
    context.max_consecutive_actor_init_deaths = 16  # a bad node must not end the run
    context.raise_original_map_exception = True  # so that a user's mistake is told as one
    context.enable_progress_bars = False  # progress is printed by the driver
    if store_bytes is not None:
        context.execution_options.resource_limits = ExecutionResources.for_limits(
            object_store_memory=store_bytes // 2
        )


def _no_mistake(record: logging.LogRecord) -> bool:
    """Whether a record does not tell a mistake of the user: that is told once, without a trace.

    Ray Data also says of it, without naming it, that it is an error of its own.
    """
    error = record.exc_info[1] if record.exc_info else sys.exc_info()[1]
    return not isinstance(error, UserError)


def execute(
    units: Sequence[Unit],
    config: Config,
    recipe: Recipe,
    packs_per_shard: int,
    make_encoder: MakeEncoder,
    decode: Decode,
) -> Iterator[Written]:
    """Run the graph over units; yields write results as they become durable.

    One execution after the other: each holds some kilobytes of the driver for every unit.
    """
    for first in range(0, len(units), UNITS_AT_ONCE):
        some = units[first : first + UNITS_AT_ONCE]
        graph = make_graph(some, config, recipe, packs_per_shard, make_encoder, decode)
        with user_errors():
            for row in graph.iter_rows():
                yield Written.from_json(row[RESULT])


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Raise a ``UserError`` of a task as one, rather than as Ray's error with a trace."""
    try:
        yield
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise type(error.cause)(str(error.cause)) from error
        raise
