"""Runners: what carries units through decode, encode and write. The local one is a plain loop."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np

from pipeline.canary import CanaryReport, RunsCanary, run_canary
from pipeline.config import Config
from pipeline.errors import SourceError
from pipeline.isolated import choice as isolated
from pipeline.measured import NOTHING, Measured
from pipeline.metrics import SILENT, Command, Meter, RunState
from pipeline.packs import Batch
from pipeline.plan import ProbeAnswer
from pipeline.reading import open_source
from pipeline.recipe import Recipe
from pipeline.stages.decode import UNIT, make_decode_fn
from pipeline.stages.encode import Encoder, MakeEncoder, make_vae_encoder
from pipeline.stages.write import RESULT, Written, make_write_fn
from pipeline.units import Unit


class Runner(RunsCanary, Protocol):
    """Runs the stages over a plan; what it yields is durable but not committed."""

    @property
    def meter(self) -> Meter:
        """What metrics are told to."""
        ...

    def tell_end(self, command: Command, state: RunState) -> None:
        """Have the metrics say that a run ended."""
        ...

    def probe(self, files: Sequence[tuple[str, str | None]]) -> list[ProbeAnswer]:
        """What headers say of files, given as (URI, pinned version or None), in the same order."""
        ...

    def run(
        self,
        units: Sequence[Unit],
        recipe: Recipe,
        packs_per_shard: int,
        measured: Measured = NOTHING,
    ) -> Iterator[Written]:
        """Decode, encode and write; results come in any order."""
        ...


def probe_file(uri: str, pinned: str | None, config: Config) -> ProbeAnswer:
    """What the header says of one file, or why nothing does."""
    try:
        with open_source(uri, pinned, config.storage, "probe") as file:
            return isolated.look_at(file, config.decode)
    except SourceError as error:
        return error


class LocalRunner:
    """All stages in this process, one unit after the other. For tests, and machines without Ray."""

    def __init__(self, config: Config, make_encoder: MakeEncoder = make_vae_encoder) -> None:
        self.config = config
        self.meter: Meter = SILENT
        self._make_encoder = make_encoder

    def tell_end(self, command: Command, state: RunState) -> None:
        """Nobody to tell."""

    def probe(self, files: Sequence[tuple[str, str | None]]) -> list[ProbeAnswer]:
        """Probe in threads."""
        with ThreadPoolExecutor(self.config.run.probe_tasks) as pool:
            return list(pool.map(lambda file: probe_file(file[0], file[1], self.config), files))

    @property
    def accelerated(self) -> bool:
        """Whether the encoder is on a CUDA device."""
        import torch

        return self.config.vae.device != "cpu" and torch.cuda.is_available()

    def canary(self, units: Sequence[Unit], recipe: Recipe) -> CanaryReport | None:
        """Run it in this process."""
        return run_canary(self.config, units, recipe, self._make_encoder)

    def run(
        self,
        units: Sequence[Unit],
        recipe: Recipe,
        packs_per_shard: int,
        measured: Measured = NOTHING,
    ) -> Iterator[Written]:
        """Run the stages as Ray Data would, without it."""
        decode = make_decode_fn(self.config, recipe)
        encode = Encoder(self.config, recipe, self._make_encoder)
        write = make_write_fn(self.config, recipe)
        waiting: list[Batch] = []
        for unit in units:
            for pack in decode({UNIT: np.array([unit.to_json()], dtype=object)}):
                waiting.append(encode(pack))
                if len(waiting) >= packs_per_shard:
                    yield _write(write(_join(waiting)))
                    waiting = []
        if waiting:
            yield _write(write(_join(waiting)))


def _write(batch: Batch) -> Written:
    return Written.from_json(str(batch[RESULT][0]))


def _join(packs: Sequence[Batch]) -> Batch:
    """Packs of any shapes as one batch, with object columns as Ray Data makes them."""
    joined: Batch = {}
    for name in packs[0]:
        column = np.empty(len(packs), dtype=object)
        for index, pack in enumerate(packs):
            column[index] = pack[name][0]
        joined[name] = column
    return joined
