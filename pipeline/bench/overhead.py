"""What Ray Data and the stages cost beside decoding and writing: CPU time for each window.

Examples:
  python jobs/benchmark.py overhead --config configs/t2v_540p.yaml --limit 8 --more 48
  python jobs/benchmark.py overhead --config clips.yaml --limit 200 --more 1200

Two whole runs, over the first --limit and the first --more sources, with a stand-in for the encoder
that takes no time, and packs as an accelerator gets them. What the longer one takes in addition, in
CPU time of all processes and for each window more, is free of start-up. Taken off it are decoding
and writing alone, measured before and after it, and what Ray's own processes (not Ray Data's) take
in a cluster that has nothing to do, as the longer run lasts longer. In turns, and the median told.
With sources of one window the figure is that of a source.
"""

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass

from pipeline.bench.alone import decode_alone, write_alone
from pipeline.bench.apart import apart
from pipeline.bench.measure import conditions
from pipeline.bench.pipeline import dataset_arguments, load_dataset_config, plan_of, whole_run
from pipeline.bench.watch import Watch
from pipeline.bench.write import removed
from pipeline.cli import positive
from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.ray_runner import RayRunner
from pipeline.recipe import Recipe
from pipeline.simulated import MakeSimulated
from pipeline.weights import make_contract, resolve_vae

_ENDLESS_TFLOPS = 1e6
"""A rate at which packs are as large as ``run.pack_bytes`` allows."""

_SETTLING_S = 5.0
"""Seconds in which a cluster starts its workers."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    dataset_arguments(parser)
    parser.add_argument(
        "--more", metavar="N", type=positive, required=True, help="sources of the longer"
    )
    parser.add_argument("--seconds", type=float, default=20, help="for decoding alone (20)")
    parser.add_argument("--turns", type=positive, default=3, help="pairs of runs (3)")


@dataclass(frozen=True)
class Overhead:
    """CPU seconds a window of one turn: all, what two stages take alone and a cluster that idles,
    and what is left.
    """

    windows: int
    whole: float
    decode: float
    write: float
    idle: float

    @property
    def left(self) -> float:
        """Of Ray Data and of what is around the stages."""
        return self.whole - self.decode - self.write - self.idle


def run(args: argparse.Namespace) -> None:
    """Measure and print. Raises ``UserError``."""
    if args.limit is None or not 0 < args.limit < args.more:
        raise UserError(f"--limit {args.limit}, --more {args.more}: give two, the second larger")
    config = load_dataset_config(args)
    config = config.model_copy(update={"vae": resolve_vae(config.vae, config.storage)})
    turns = []
    heads = "".join(f" {head:>8}" for head in ("decode", "write", "idle Ray", "left"))
    print(f"{'windows':>9} {'CPU ms each':>12}{heads}")
    with removed(config):
        for turn in range(args.turns):
            turns.append(_turn(config, args.more, args.seconds, turn))
            one = turns[-1]
            numbers = [1000 * n for n in (one.whole, one.decode, one.write, one.idle, one.left)]
            print(
                f"{one.windows:>9} {numbers[0]:>12.3g} "
                + " ".join(f"{number:>8.3g}" for number in numbers[1:]),
                flush=True,
            )
    left = statistics.median(one.left for one in turns)
    print(f"overhead: {1000 * left:.3g} ms of CPU time a window")
    print(json.dumps({**conditions(), "left": left, "turns": [asdict(one) for one in turns]}))


def _turn(config: Config, sources: int, seconds: float, turn: int) -> Overhead:
    made = MakeSimulated(0.0)
    recipe = Recipe.from_config(config, make_contract(config))
    units, windows = plan_of(_of(config, sources, "alone"), recipe)

    def alone() -> tuple[float, float]:
        decode = decode_alone(config, recipe, units, seconds / 2)
        write = write_alone(config, windows, seconds / 4)
        return decode.cpu_seconds_per_window, write.cpu_seconds_per_window

    before = alone()
    short = apart(whole_run, _of(config, config.dataset.limit, f"{turn}-short"), made)
    long = apart(whole_run, _of(config, sources, f"{turn}-long"), made)
    if long.windows <= short.windows:
        raise UserError(f"{long.windows} windows in the longer run, {short.windows} in the shorter")
    decode, write = map(statistics.mean, zip(before, alone(), strict=True))
    more = long.windows - short.windows
    duration = sum(long.seconds.values()) - sum(short.seconds.values())
    return Overhead(
        more,
        (long.cpu_seconds - short.cpu_seconds) / more,
        decode,
        write,
        apart(idle_cluster, config, seconds / 2) * duration / more,
    )


def idle_cluster(config: Config, seconds: float) -> float:
    """CPU seconds a second of a cluster as the run joins or starts it, with nothing to do; to be
    called in a process of its own. Nothing without Ray.
    """
    if config.run.runner == "local":
        return 0.0
    with Watch() as watch, RayRunner(config) as runner:
        runner.join()
        time.sleep(_SETTLING_S)
        begin = time.time()
        time.sleep(seconds)
        end = time.time()
    return watch.cpu_seconds(begin, end) / (end - begin)


def _of(config: Config, limit: int | None, name: str) -> Config:
    dataset = config.dataset.model_copy(update={"limit": limit})
    output = config.output.model_copy(update={"uri": f"{config.output.uri}/{name}"})
    forecast = config.forecast.model_copy(update={"tflops_per_encoder": _ENDLESS_TFLOPS})
    return config.model_copy(update={"dataset": dataset, "output": output, "forecast": forecast})
