"""How fast the VAE's encoder works on a device, against torch.mm there; and whether it is right.

Examples:
  python jobs/benchmark.py vae --height 256 --width 256
  python jobs/benchmark.py vae --height 544 --width 992 --dtype bfloat16 --device cuda --out gpu
  python jobs/benchmark.py vae --height 512 --width 512 --images --batch 4 --threads 2
  python jobs/benchmark.py vae --height 256 --width 256 --widths narrow --check
  python jobs/benchmark.py vae --config configs/t2v_540p.yaml

The encoder alone is made, with random weights, those of --checkpoint or what a configuration says
of it, and encodes random windows; in turns with it, torch.mm multiplies large square matrices of
the same dtype. Start-up (weights, and the first call, which compiles and tunes) is told apart.
FLOPs and bytes moved are counted operator by operator, whatever the machine. `of torch.mm` is the
ratio of the medians of FLOP/s. Memory is the peak beyond weights and input: resident on the CPU,
allocated on CUDA; beside it is what the memory plan said.

With --device cuda, or --check anywhere, the reference's clips are encoded and decoded on the device
through every path in float32 and bfloat16, and windows the way of a run: in micro-batches, with
copies beside the work. On CUDA the norms as one kernel are measured and checked too, and whether a
copy from pinned memory passes beside an encoding (the median of three tries). A check that breaks
off has failed, with the error as its message, and the others go on. --out has all of it as JSON
with "passed": true or false, whatever happens; the exit code is 1 where something is wrong.
"""

import argparse
import ctypes
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pipeline.bench.goldens import (
    BOUNDS,
    Check,
    check_goldens,
    checked,
    error_of,
    require_goldens,
    without_tf32,
)
from pipeline.bench.measure import Cost, Rates, conditions, in_turns, measured, resident_bytes
from pipeline.bench.write import asked_bucket
from pipeline.buckets import Bucket
from pipeline.cli import positive
from pipeline.config import Config, WidthsConfig, load_config
from pipeline.errors import UserError
from pipeline.report import human_bytes
from pipeline.room import is_out_of_memory
from pipeline.weights import load_encoder
from vae import AutoencoderKL

GOLDENS = Path(__file__).parents[2] / "tests" / "data" / "goldens"
NARROW = WidthsConfig(
    encoder_ch=32, encoder_ch_mult=(1, 2, 1, 1), decoder_ch=32, decoder_ch_mult=(1, 2, 1, 1)
)
"""The widths of the reference's narrow model (``v2_small``)."""

_BUCKET = Bucket(256, 256)
"""Where nothing says another."""

_MATRIX = {"cpu": 2048, "cuda": 8192}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    given = parser.add_argument_group("from a configuration: the VAE, its threads, the bucket")
    given.add_argument("--config", metavar="YAML", help="configuration file")
    given.add_argument("--set", metavar="KEY=VALUE", action="append", default=[])
    parser.add_argument("--height", type=int, help="of the bucket, in pixels (256)")
    parser.add_argument("--width", type=int, help="of the bucket, in pixels (256)")
    parser.add_argument("--frames", type=int, choices=(1, 17), default=17, help="of a window (17)")
    parser.add_argument("--images", action="store_true", help="the same as --frames 1")
    parser.add_argument("--batch", type=positive, default=1, help="windows of a call (1)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="(float32)")
    parser.add_argument(
        "--threads", type=positive, help="of torch on the CPU; its own choice if unset"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), help="(auto)")
    parser.add_argument("--checkpoint", metavar="URI", help="weights; random ones without it")
    parser.add_argument("--widths", choices=("full", "narrow"), help="of random weights (full)")
    parser.add_argument(
        "--budget", metavar="BYTES", type=positive, help="for activations, both ways"
    )
    parser.add_argument("--compile", action="store_true", help="norms as one kernel")
    parser.add_argument("--turns", type=positive, default=3, help="turns of each way (3)")
    parser.add_argument(
        "--check", action="store_true", help="the reference's clips, on the CPU too"
    )
    parser.add_argument("--goldens", type=Path, default=GOLDENS, help="folder of the clips")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON object here too")


def run(args: argparse.Namespace) -> None:
    """Measure, check and print. Raises ``UserError`` also where a check fails."""
    config = _config(args)
    args = _settled(args, config)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    found: dict[str, Any] = {"passed": False}
    _write(args.out, found)  # so that it is there, and says so, even where the process is killed
    try:
        checks = _fill(found, args, config)
        found["passed"] = all(check.passed for check in checks)
    except Exception as error:
        found["error"] = str(error)
        raise
    finally:
        _write(args.out, found)
    _print(found, checks)
    print(json.dumps(found))
    if not found["passed"]:
        wrong = [str(check) for check in checks if not check.passed]
        raise UserError(f"the VAE is not right on {found['device']}: {'; '.join(wrong)}")


def _fill(found: dict[str, Any], args: argparse.Namespace, config: Config) -> list[Check]:
    """Measure and check."""
    begun = time.monotonic()
    vae = load_encoder(config.vae, config.storage)
    cuda = vae.device.type == "cuda"
    if cuda or args.check:
        require_goldens(args.goldens)
    if args.compile:
        vae.compile_norms()
    found |= {"device": _name(vae.device), "threads": torch.get_num_threads()}
    found |= {"dtype": args.dtype, "compiled": args.compile, **conditions()}
    found["loading_seconds"] = time.monotonic() - begun

    def measure() -> float:
        found.update(_measure(vae, args))
        return 0.0

    checks = [check for check in (checked("measuring", 0.0, measure),) if not check.passed]
    if cuda:
        checks.append(check_copies(vae, _window(vae, args), args.budget, found))
        if not args.compile:
            checks.append(check_compiled_norms(vae, args, found))
    if cuda or args.check:
        checks += _checks(args, vae.device.type)
    found["checks"] = [asdict(check) | {"passed": check.passed} for check in checks]
    return checks


def _write(path: Path | None, found: dict[str, Any]) -> None:
    if path is not None:
        try:
            path.write_text(json.dumps(found, indent=1))
        except OSError as error:
            raise UserError(
                f"--out {path}: {error.strerror or error}; name a file that can be written to"
            ) from error


def _config(args: argparse.Namespace) -> Config:
    """The configuration of ``--config``, or one of defaults, with what the arguments say."""
    fields: dict[str, Any] = {
        "vae.checkpoint": args.checkpoint,
        "vae.compute_dtype": args.dtype,
        "vae.device": args.device,
        "run.encoder_threads": args.threads,
        "run.compile": args.compile or None,
        "run.runner": "local",  # which needs no GPUs of Ray's
    }
    if args.config is None:
        bucket = asked_bucket(args, _BUCKET)
        fields |= {"dataset.uri": "unused", "output.uri": "unused", "buckets": [asdict(bucket)]}
        if args.checkpoint is None:
            fields["vae.random_seed"] = 0
            if args.widths == "narrow":
                fields |= {"vae.widths": NARROW, "vae.z_channels": 2}
    elif args.widths or args.checkpoint:
        raise UserError("the weights are those of --config: set vae.checkpoint or vae.widths there")
    given = {name: value for name, value in fields.items() if value is not None}
    return load_config(args.config, args.set, given)


def _settled(args: argparse.Namespace, config: Config) -> argparse.Namespace:
    """The arguments, with what the configuration says where they are silent."""
    bucket = asked_bucket(args, config.bucket_list[0])
    threads = config.run.encoder_threads
    if args.config is not None and threads is None:
        threads = max(1, int(config.run.cpus_per_encoder))  # as in a run on Ray
    found: dict[str, Any] = {"height": bucket.height, "width": bucket.width, "threads": threads}
    found |= {"dtype": config.vae.compute_dtype, "compile": config.run.compile}
    return argparse.Namespace(**vars(args) | found)


def _window(vae: AutoencoderKL, args: argparse.Namespace) -> torch.Tensor:
    frames = 1 if args.images else args.frames
    shape = (args.batch, frames, 3, args.height, args.width)
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(vae.device, vae.dtype)


def _measure(vae: AutoencoderKL, args: argparse.Namespace) -> dict[str, Any]:
    x = _window(vae, args)
    frames, batch = x.shape[1], len(x)
    try:
        plan = vae.memory_plan(args.height, args.width, frames, budget=args.budget)
        cost = vae.cost(args.height, args.width, frames)
        begun = time.monotonic()
        _encode(vae, x, args.budget)
        first = time.monotonic() - begun
        side = _MATRIX[vae.device.type]
        kinds: dict[str, Callable[[], Cost]] = {
            "torch.mm": partial(measured, partial(_multiply, side, vae)),
            "encode": partial(_measured_encoding, vae, x, args.budget),
        }
        costs = in_turns(args.turns, kinds)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(f"memory ran out; try a smaller --batch or --budget: {error}") from error
    rates = {name: Rates.of(turns) for name, turns in costs.items()}
    flops = cost.flops * rates["encode"].per_second
    matrix = rates["torch.mm"].per_second
    return {
        "first_call_seconds": first,
        "seconds": batch / rates["encode"].per_second,
        "windows_per_second": rates["encode"].per_second,
        "cpu_seconds_per_window": 1 / rates["encode"].per_cpu_second,
        "flops_per_second": flops,
        "mm_flops_per_second": matrix,
        "of_mm": flops / matrix,
        "of_mm_by_cpu_seconds": cost.flops
        * rates["encode"].per_cpu_second
        / rates["torch.mm"].per_cpu_second,
        "peak_bytes": rates["encode"].peak_bytes,
        "planned_bytes": min(batch, plan.batch) * plan.peak_bytes,
        "plan": str(plan),
        "counted": {
            "flops": cost.flops,
            "bytes_moved": cost.bytes_moved,
            "minimal_bytes": cost.minimal_bytes,
            "operators": cost.operators,
        },
        "turns": {name: [asdict(turn) for turn in turns] for name, turns in costs.items()},
    }


def _encode(vae: AutoencoderKL, x: torch.Tensor, budget: int | None) -> int:
    vae.posterior(x, memory_budget=budget)
    torch.get_device_module(vae.device).synchronize()
    return len(x)


def _measured_encoding(vae: AutoencoderKL, x: torch.Tensor, budget: int | None) -> Cost:
    if vae.device.type != "cuda":
        getattr(ctypes.CDLL(None), "malloc_trim", int)(0)  # what is free already counts as such
        before = resident_bytes(os.getpid(), "VmRSS")
        cost = measured(_encode, vae, x, budget)
        highest = resident_bytes(os.getpid())
        return replace(
            cost, peak_bytes=None if before is None or highest is None else highest - before
        )
    torch.cuda.reset_peak_memory_stats(vae.device)
    allocated = torch.cuda.memory_allocated(vae.device)
    cost = measured(_encode, vae, x, budget)
    peak = torch.cuda.max_memory_allocated(vae.device) - allocated
    return replace(cost, peak_bytes=peak)


def _encode_turns(vae: AutoencoderKL, args: argparse.Namespace) -> list[Cost]:
    x = _window(vae, args)
    _encode(vae, x, args.budget)
    return [_measured_encoding(vae, x, args.budget) for _ in range(args.turns)]


def _multiply(side: int, vae: AutoencoderKL) -> int:
    """FLOPs of some products of square matrices."""
    a = torch.ones(side, side, device=vae.device, dtype=vae.dtype)
    times = 8
    for _ in range(times):
        torch.mm(a, a)
    torch.get_device_module(vae.device).synchronize()
    return times * 2 * side**3


def check_copies(
    vae: AutoencoderKL, x: torch.Tensor, budget: int | None, found: dict[str, Any]
) -> Check:
    """Whether copies pass beside an encoding, for the most part: the median of three tries."""

    def seen() -> float:
        found["copy_hidden"] = statistics.median(_copies_hidden(vae, x, budget, 3))
        return 1 - float(found["copy_hidden"])

    return checked("time of a copy that is not beside an encoding", 0.5, seen)


def _copies_hidden(
    vae: AutoencoderKL, x: torch.Tensor, budget: int | None, tries: int
) -> list[float]:
    """Shares of the time of a copy from pinned memory that pass beside an encoding."""
    host = torch.empty(256 * 2**20, dtype=torch.uint8, pin_memory=True)
    stream = torch.get_device_module(vae.device).Stream(vae.device)

    def seconds(encode: bool, copy: bool) -> float:
        torch.cuda.synchronize(vae.device)
        begun = time.monotonic()
        if copy:
            with torch.cuda.stream(stream):
                host.to(vae.device, non_blocking=True)
        if encode:
            vae.posterior(x, memory_budget=budget)
        torch.cuda.synchronize(vae.device)
        return time.monotonic() - begun

    seconds(True, True)
    shares = []
    for _ in range(tries):
        encode, copy, both = seconds(True, False), seconds(False, True), seconds(True, True)
        shares.append((encode + copy - both) / min(encode, copy))
    return shares


def check_compiled_norms(
    vae: AutoencoderKL, args: argparse.Namespace, found: dict[str, Any]
) -> Check:
    """Compile the norms and measure with them; the error is against the plain operators."""

    def seen() -> float:
        x = _window(vae, args)
        with without_tf32():
            plain = vae.posterior(x, memory_budget=args.budget).mean
            vae.compile_norms()
            compiled = vae.posterior(x, memory_budget=args.budget).mean
        found["compiled_norms"] = asdict(Rates.of(_encode_turns(vae, args)))
        return error_of(compiled, plain, vae.dtype)

    return checked("norms as one kernel, against plain ones", BOUNDS[vae.dtype], seen)


def _checks(args: argparse.Namespace, device: str) -> list[Check]:
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        found += check_goldens(args.goldens, device, dtype, compiled=args.compile)
    if device == "cuda" and not args.compile:
        found += check_goldens(args.goldens, device, torch.float32, compiled=True)
    return found


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def _print(found: dict[str, Any], checks: Sequence[Check]) -> None:
    for what, value in _table(found) if "counted" in found else []:
        print(f"{what:<12} {value}")
    for check in checks:
        print(f"{'ok   ' if check.passed else 'WRONG'} {check}")


def _table(found: dict[str, Any]) -> list[tuple[str, str]]:
    counted = found["counted"]
    peak = found["peak_bytes"]
    lines = [
        ("device", f"{found['device']}, {found['threads']} thread(s), {found['dtype']}"),
        ("loading", f"{found['loading_seconds']:.2f} s"),
        ("first call", f"{found['first_call_seconds']:.2f} s"),
        ("a call", f"{found['seconds']:.3f} s"),
        ("windows", f"{found['windows_per_second']:.3f}/s"),
        ("CPU time", f"{found['cpu_seconds_per_window']:.3f} s a window"),
        ("rate", f"{found['flops_per_second'] / 1e12:.3g} TFLOP/s"),
        ("torch.mm", f"{found['mm_flops_per_second'] / 1e12:.3g} TFLOP/s"),
        (
            "of torch.mm",
            f"{found['of_mm']:.2f} ({found['of_mm_by_cpu_seconds']:.2f} by CPU seconds)",
        ),
        ("memory", "not known" if peak is None else human_bytes(peak)),
        ("planned", f"{human_bytes(found['planned_bytes'])}: {found['plan']}"),
        (
            "counted",
            f"{counted['flops'] / 1e12:.3g} TFLOP, {human_bytes(counted['bytes_moved'])} moved, "
            f"{human_bytes(counted['minimal_bytes'])} of it by convolutions, linear maps and "
            f"attention; {counted['operators']} operators",
        ),
    ]
    if "copy_hidden" in found:
        lines.append(("copies", f"{found['copy_hidden']:.0%} beside an encoding"))
    if "compiled_norms" in found:
        rate = found["compiled_norms"]["per_second"]
        lines.append(("norms as one", f"{rate:.3f} windows/s"))
    return lines
