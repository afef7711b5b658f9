"""The whole pipeline over your data, against its stages alone: is the accelerator kept busy?

Examples:
  python jobs/benchmark.py pipeline --config configs/t2v_540p.yaml --limit 200
  python jobs/benchmark.py pipeline --config configs/t2v_540p.yaml --simulated-encoder 0.22
  python jobs/benchmark.py pipeline --config configs/demo.yaml --set run.decode_tasks=1 --turns 3

The configuration's dataset is encoded into a folder beneath --output (default: TMPDIR) that is
removed afterwards; the cache of output.uri is not touched. In turns, in processes of their own:

  decode   alone, in as many processes as run.decode_tasks, over parts of the plan
  encode   alone: one bare encoder over packs held in memory, times run.encoders
  write    alone: one process that writes shards
  whole    the run as jobs/encode_dataset.py does it

The stages are measured before and after each whole run, and medians told. --simulated-encoder S
replaces the VAE by a stand-in that waits S seconds a window and occupies no processor: it shows
whether a fast accelerator would starve on this machine.

Rates are from the end of the first pack to that of the last; start-up (joining Ray, loading the
weights, the first pack) and the end (write, commit, publish) are told apart. CPU seconds are of the
driver, Ray and all workers on this machine, over the same time; memory is a process's own, without
Ray's shared memory. The limit is the slowest of the stages alone, or what the processors allow
where all stages together want more of them than there are. Run for minutes: a share of the limit
over seconds says little.
"""

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.bench.alone import Alone, cores, decode_alone, encode_alone, write_alone
from pipeline.bench.apart import apart
from pipeline.bench.measure import conditions
from pipeline.bench.watch import DECODER, Watch
from pipeline.bench.write import removed
from pipeline.buckets import Bucket
from pipeline.catalog import read_catalog
from pipeline.config import Config, load_config
from pipeline.errors import UserError
from pipeline.forecast import window_flop
from pipeline.job import EXIT_DONE, EXIT_FAILURES, JobOptions, run_job
from pipeline.manifest import Manifest
from pipeline.plan import make_plan
from pipeline.recipe import Recipe
from pipeline.report import human_bytes
from pipeline.runner import LocalRunner
from pipeline.simulated import MakeSimulated
from pipeline.stages.encode import MakeEncoder, make_vae_encoder
from pipeline.storage import Store
from pipeline.units import Unit
from pipeline.weights import make_contract, resolve_vae

CORES = "processors"
_WORKERS = {"decode": "decode", "Encoder": "encode", "write": "write", DECODER: "decoder"}
"""Words in the names of Ray's workers, and the stage that they tell of; and decoders."""


def dataset_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of commands that encode a configuration's dataset into a folder of their own."""
    parser.add_argument("--config", metavar="YAML", required=True, help="configuration file")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[])
    parser.add_argument("--dataset", metavar="URI", help="overrides dataset.uri")
    parser.add_argument("--limit", metavar="N", type=int, help="the first N sources only")
    parser.add_argument("--output", metavar="URI", help="where a folder is made and removed")


def load_dataset_config(args: argparse.Namespace) -> Config:
    """The configuration that these arguments name, with an output of its own."""
    place = args.output or tempfile.gettempdir()
    fields = {
        "output.uri": f"{place.rstrip('/')}/benchmark-{time.time_ns():x}",
        "report.contact_sheet_windows": 0,
        "report.page": False,
        "dataset.uri": args.dataset,
        "dataset.limit": args.limit,
    }
    given = {name: value for name, value in fields.items() if value is not None}
    return load_config(args.config, args.set, given)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    dataset_arguments(parser)
    parser.add_argument(
        "--simulated-encoder",
        metavar="SECONDS_PER_WINDOW",
        type=float,
        help="wait so long a window in place of the VAE",
    )
    parser.add_argument("--seconds", type=float, default=20, help="for each stage alone (20)")
    parser.add_argument("--turns", type=int, default=1, help="whole runs (1)")


def run(args: argparse.Namespace) -> None:
    """Measure and print. Raises ``UserError``."""
    if args.simulated_encoder is not None and args.simulated_encoder < 0:
        raise UserError(f"--simulated-encoder {args.simulated_encoder}: give seconds of 0 or more")
    config = load_dataset_config(args)
    make_encoder: MakeEncoder = make_vae_encoder
    if args.simulated_encoder is not None:
        make_encoder = MakeSimulated(args.simulated_encoder)
    with removed(config):
        benchmark_pipeline(config, make_encoder, args.turns, args.seconds)


@dataclass(frozen=True)
class Whole:
    """One whole run.

    Attributes:
        windows, packs: encoded.
        windows_per_second: from the end of each encoder's first pack to that of the run's last.
        cpu_seconds: of all processes, from start to end.
        cpu_seconds_per_window: of all processes, from the first pack to the last.
        driver_seconds_per_pack: CPU time of drivers.
        encoder_busy: share of that time.
        seconds: what its time went to.
        peak_bytes: highest memory by kind of process, of Ray's object store and of spilled objects.
    """

    windows: int
    packs: int
    windows_per_second: float
    cpu_seconds: float
    cpu_seconds_per_window: float
    driver_seconds_per_pack: float
    encoder_busy: float
    seconds: Mapping[str, float]
    peak_bytes: Mapping[str, int]


def benchmark_pipeline(
    config: Config, make_encoder: MakeEncoder, turns: int, seconds: float
) -> None:
    """Measure; print a table, what limits and what to change, and last JSON."""
    config = config.model_copy(update={"vae": resolve_vae(config.vae, config.storage)})
    recipe = Recipe.from_config(config, make_contract(config))
    units, windows = plan_of(config, recipe)
    alone: dict[str, list[Alone]] = {"decode": [], "encode": [], "write": []}

    def measure_alone() -> None:
        alone["decode"].append(decode_alone(config, recipe, units, seconds))
        alone["encode"].append(encode_alone(config, recipe, units, windows, make_encoder, seconds))
        alone["write"].append(write_alone(config, windows, seconds / 4))

    measure_alone()
    wholes = []
    for turn in range(turns):
        changed = _for_run(config, windows, alone["encode"][0], turn)
        wholes.append(apart(whole_run, changed, make_encoder))
        measure_alone()
    stages = {name: _median(found) for name, found in alone.items()}
    verdict = judge(stages, wholes, cores(config))
    _print(stages, wholes, verdict)
    found: dict[str, Any] = {
        "simulated_seconds_per_window": getattr(make_encoder, "seconds_per_window", None),
        "alone": {name: asdict(stage) for name, stage in stages.items()},
        "whole": [asdict(whole) for whole in wholes],
        **asdict(verdict),
    }
    print(json.dumps({**conditions(), **found}))


def plan_of(config: Config, recipe: Recipe) -> tuple[Sequence[Unit], dict[Bucket, int]]:
    """Units and windows of a run into an empty cache. Raises ``UserError`` where there are none."""
    manifest = Manifest(Store(config.output.uri, config.storage))
    catalog = read_catalog(config, keep=False)
    probe = LocalRunner(config).probe
    plan = make_plan(config, catalog, manifest, recipe, "benchmark", probe)
    if not plan.units:
        raise UserError(f"{config.dataset.uri} has nothing that can be encoded")
    return plan.units, dict(plan.windows)


def _for_run(config: Config, windows: dict[Bucket, int], encode: Alone, turn: int) -> Config:
    """A cache of its own, and a forecast as a second run would make it."""
    flop = window_flop(config, sorted(windows))
    total = sum(flop[bucket] * count for bucket, count in windows.items()) / sum(windows.values())
    rate = total * encode.windows_per_second / encode.processes
    output = config.output.model_copy(update={"uri": f"{config.output.uri}/{turn}"})
    changes: dict[str, Any] = {"output": output}
    if rate < float("inf"):
        forecast = config.forecast.model_copy(update={"tflops_per_encoder": rate / 1e12})
        changes["forecast"] = forecast
    return config.model_copy(update=changes)


@dataclass(frozen=True)
class Told:
    """What a run tells of itself, and when it began and ended, seconds since the epoch."""

    began: float
    ended: float
    report: Mapping[str, Any]


def told_run(config: Config, make_encoder: MakeEncoder) -> Told:
    """One run; to be called in a process of its own.

    Raises ``UserError`` when it fails, or is too short to tell a rate.
    """
    began = time.time()
    with contextlib.redirect_stdout(sys.stderr):
        code = run_job(config, JobOptions(), make_encoder)
    ended = time.time()
    if code not in (EXIT_DONE, EXIT_FAILURES):
        raise UserError(f"the run ended with exit code {code}")
    manifest = Manifest(Store(config.output.uri, config.storage))
    rows = manifest.descending("runs", ("state", "at", "report"), by="at")
    report = json.loads(next(row["report"] for row in rows if row["state"] == "finished"))
    if report["windows_per_second"] is None:
        raise UserError("the run made less than two packs, which gives no rate; take more data")
    return Told(began, ended, report)


def whole_run(config: Config, make_encoder: MakeEncoder) -> Whole:
    """One run, watched; to be called in a process of its own.

    Raises ``UserError`` when it fails, or is too short to tell a rate.
    """
    with Watch() as watch:
        told = told_run(config, make_encoder)
    report = told.report
    first, last = report["first_encoded_at"], report["last_encoded_at"]
    peaks = watch.peak_bytes(tuple(_WORKERS))
    return Whole(
        windows=report["windows"],
        packs=report["packs"],
        windows_per_second=report["windows_per_second"],
        cpu_seconds=watch.cpu_seconds(told.began, told.ended),
        cpu_seconds_per_window=watch.cpu_seconds(first, last) / report["windows"],
        driver_seconds_per_pack=report["driver_seconds_per_pack"],
        encoder_busy=report["encoder_busy"],
        seconds={"start-up": first - told.began, "encode": last - first, "end": told.ended - last},
        peak_bytes={_WORKERS.get(name, name): size for name, size in peaks.items()},
    )


def _median(found: Sequence[Alone]) -> Alone:
    return Alone(
        statistics.median(alone.windows_per_second for alone in found),
        statistics.median(alone.cpu_seconds_per_window for alone in found),
        found[0].processes,
    )


@dataclass(frozen=True)
class Verdict:
    """What limits the pipeline, how near to it the whole comes, and what to change."""

    bottleneck: str
    limit_windows_per_second: float
    share_of_limit: float
    advice: str


def judge(stages: Mapping[str, Alone], wholes: Sequence[Whole], processors: float) -> Verdict:
    """Compare the median of whole runs with the slowest of what it is made of."""
    limits = {name: stage.windows_per_second for name, stage in stages.items()}
    together = sum(stage.cpu_seconds_per_window for stage in stages.values())
    limits[CORES] = processors / together
    bottleneck = min(limits, key=lambda name: limits[name])
    rate = statistics.median(whole.windows_per_second for whole in wholes)
    share = rate / limits[bottleneck]
    return Verdict(bottleneck, limits[bottleneck], share, _advice(bottleneck, share))


def _advice(bottleneck: str, share: float) -> str:
    told = {
        "decode": "more run.decode_tasks as far as there are processors, then more of these; a "
        "lower windows.fps, or sources of a smaller size, take less of them",
        "encode": "nothing in the pipeline: this is the encoders' own speed. More run.encoders; "
        "vae.compute_dtype: bfloat16 and run.compile on GPUs",
        "write": "an output.uri that is nearer or faster; larger output.shard_bytes",
        CORES: "more processors: decode, encode and write together want all of them; on GPUs the "
        "encoder wants few",
    }[bottleneck]
    if share < 0.9:
        told += (
            ". The whole stays behind that limit: take longer runs, larger run.task_windows and "
            "run.pack_bytes where tasks are short, and leave processors to Ray itself"
        )
    return told


def _print(stages: Mapping[str, Alone], wholes: Sequence[Whole], verdict: Verdict) -> None:
    heads = ("windows / s", "CPU ms each", "busy", "processes")
    print(" " * 10 + " ".join(f"{head:>11}" for head in heads))
    lines = [
        (name, stage.windows_per_second, stage.cpu_seconds_per_window, "", stage.processes)
        for name, stage in stages.items()
    ] + [
        ("whole", w.windows_per_second, w.cpu_seconds_per_window, f"{w.encoder_busy:.2f}", "")
        for w in wholes
    ]
    for name, rate, cpu, busy, processes in lines:
        cells = (f"{rate:.4g}", f"{1000 * cpu:.3g}", busy, f"{processes}")
        print(f"{name:10}" + " ".join(f"{cell:>11}" for cell in cells))
    for whole in wholes:
        times = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in whole.seconds.items())
        sizes = ", ".join(f"{name} {human_bytes(n)}" for name, n in whole.peak_bytes.items())
        print(f"{whole.windows} windows: {times}; peak memory: {sizes}")
    print(
        f"bottleneck: {verdict.bottleneck}, {verdict.limit_windows_per_second:.4g} windows/s at "
        f"best; the whole reaches {verdict.share_of_limit:.3f} of it"
    )
    print(f"to change: {verdict.advice}")
