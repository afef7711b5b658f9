"""The stages of a pipeline, each alone on this machine: what the whole could reach at best."""

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np
import torch

from pipeline.bench.measure import cpu_seconds, process_of_its_own
from pipeline.bench.write import contract_of, latents, prepare, write_shard
from pipeline.buckets import Bucket
from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.packs import FRAMES, META, rows
from pipeline.recipe import Recipe, latent_values
from pipeline.stages.decode import UNIT, make_decode_fn
from pipeline.stages.encode import MakeEncoder
from pipeline.units import Unit


@dataclass(frozen=True)
class Alone:
    """One stage without the others.

    Attributes:
        windows_per_second: of all its processes together.
        cpu_seconds_per_window: user and system time.
        processes: how many that is said of.
    """

    windows_per_second: float
    cpu_seconds_per_window: float
    processes: int


# ---- decode


def decode_alone(config: Config, recipe: Recipe, units: Sequence[Unit], seconds: float) -> Alone:
    """As many processes as the run has decode tasks, over units from all over the plan.

    They decode themselves: decoders of their own (``decode.isolate``) are the pipeline's doing.

    Raises ``UserError`` where they hold no window.
    """
    count = min(config.run.decode_tasks, len(units))
    plain = config.decode.model_copy(update={"isolate": False})
    config = config.model_copy(update={"decode": plain})
    windows, wall, cpu = 0, 0.0, 0.0
    with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
        list(pool.map(_warm, [0.5] * count))
        begun, queue = time.monotonic(), _spread(units)
        running: set[Future[tuple[int, float, float]]] = set()
        while True:
            while len(running) < count and time.monotonic() - begun < seconds:
                unit = next(queue, None)
                if unit is None:
                    break
                running.add(pool.submit(_decode, config, recipe, unit))
            if not running:
                break
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                costs = future.result()
                windows, wall, cpu = windows + costs[0], wall + costs[1], cpu + costs[2]
    if windows == 0:
        raise UserError("nothing that the plan names can be decoded")
    return Alone(windows / wall * count, cpu / windows, count)


def _spread(units: Sequence[Unit]) -> Iterator[Unit]:
    """All units, the first few of them from all over the plan."""
    order = sorted(range(len(units)), key=lambda n: int(f"{n:032b}"[::-1], 2))
    return (units[n] for n in order)


def _warm(seconds: float) -> None:
    """Keep a process for itself, so that each of a pool has loaded its code."""
    time.sleep(seconds)


def _decode(config: Config, recipe: Recipe, unit: Unit) -> tuple[int, float, float]:
    begun, before = time.monotonic(), cpu_seconds()
    windows = sum(len(frames) for frames in _frames(config, recipe, unit))
    return windows, time.monotonic() - begun, cpu_seconds() - before


def _frames(config: Config, recipe: Recipe, unit: Unit) -> Iterator[np.ndarray]:
    """The frames of the packs of a unit."""
    batch = {UNIT: np.array([unit.to_json()], dtype=object)}
    for pack in make_decode_fn(config, recipe)(batch):
        for meta, tensors in rows(pack):
            if meta.segments:
                yield tensors[FRAMES]


# ---- encode


def encode_alone(
    config: Config,
    recipe: Recipe,
    units: Sequence[Unit],
    windows: dict[Bucket, int],
    make_encoder: MakeEncoder,
    seconds: float,
) -> Alone:
    """One encoder over packs as it gets them, times the run's encoders; weighted as the plan is."""
    with process_of_its_own() as call:
        costs: dict[Bucket, tuple[float, float]] = call(
            _encode, config, recipe, units, make_encoder, seconds
        )
    total = sum(windows[bucket] for bucket in costs)
    wall, cpu = (sum(windows[b] * costs[b][n] for b in costs) / total for n in (0, 1))
    count = config.run.encoders
    return Alone(count / wall if wall else float("inf"), cpu, count)


def _encode(
    config: Config,
    recipe: Recipe,
    units: Sequence[Unit],
    make_encoder: MakeEncoder,
    seconds: float,
) -> dict[Bucket, tuple[float, float]]:
    """Seconds and CPU seconds a window, by bucket."""
    if config.run.encoder_threads is None and config.run.runner == "ray":
        torch.set_num_threads(max(1, int(config.run.cpus_per_encoder)))  # as Ray does
    encode = make_encoder(config, recipe)
    samples = _samples(config, recipe, units)
    costs = {}
    for bucket, frames in samples.items():
        names = [f"{n:032x}" for n in range(len(frames))]
        encode(frames[:1], names[:1])  # what is slow only once
        done, begun, before = 0, time.perf_counter(), cpu_seconds()
        while True:
            encode(frames, names)
            done += len(frames)
            wall = time.perf_counter() - begun
            if wall >= seconds / len(samples):
                break
        costs[bucket] = wall / done, (cpu_seconds() - before) / done
    return costs


def _samples(config: Config, recipe: Recipe, units: Sequence[Unit]) -> dict[Bucket, np.ndarray]:
    """The frames of one pack of every bucket that can be decoded."""
    found: dict[Bucket, np.ndarray] = {}
    for unit in _spread(units):
        buckets = {bucket for file in unit.files for clip in file.clips for bucket in clip.buckets}
        if buckets <= found.keys():
            continue
        for frames in _frames(config, recipe, unit):
            found.setdefault(Bucket(frames.shape[2], frames.shape[3]), frames)
            if buckets <= found.keys():
                break
    return found


# ---- write


def write_alone(config: Config, windows: dict[Bucket, int], seconds: float) -> Alone:
    """One process that writes shards of the plan's most frequent bucket, as large as it fills."""
    bucket = max(windows, key=lambda bucket: windows[bucket])
    contract = contract_of(config)
    stored = latent_values(contract, bucket) * np.dtype(contract.dtype).itemsize
    whole = stored * len(contract.tensors) * windows[bucket]
    size = min(config.output.shard_bytes, max(1, whole))
    output = config.output.model_copy(update={"shard_bytes": size})
    with process_of_its_own() as call:
        rate, cpu = call(_write, config.model_copy(update={"output": output}), bucket, seconds)
    return Alone(rate, cpu, 1)


def _write(config: Config, bucket: Bucket, seconds: float) -> tuple[float, float]:
    """Windows a second, and CPU seconds a window."""
    prepare(config, bucket)
    batch = latents(config, bucket)
    shape = next(tensor.shape for name, tensor in batch.items() if name != META)
    count = shape[0] * shape[1]
    done, begun, before = 0, time.perf_counter(), cpu_seconds()
    while True:
        write_shard(config.output.format, config, bucket)
        done += count
        wall = time.perf_counter() - begun
        if wall >= seconds:
            return done / wall, (cpu_seconds() - before) / done


def cores(config: Config) -> float:
    """Processors that the pipeline may use."""
    if config.run.num_cpus is not None and not os.environ.get("RAY_ADDRESS"):
        return min(config.run.num_cpus, len(os.sched_getaffinity(0)))
    with contextlib.suppress(AttributeError):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
