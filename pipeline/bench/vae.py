"""How fast the VAE's encoder works on a device, against torch.mm there; and whether it is right.

Examples:
  python jobs/benchmark.py vae --height 256 --width 256
  python jobs/benchmark.py vae --height 544 --width 992 --dtype bfloat16 --device cuda --out gpu
  python jobs/benchmark.py vae --height 512 --width 512 --images --batch 4 --threads 2
  python jobs/benchmark.py vae --height 256 --width 256 --widths narrow --check

The encoder alone is made, with random weights or those of --checkpoint, and encodes random
windows; in turns with it, torch.mm multiplies large square matrices of the same dtype. Start-up
(weights, and the first call, which compiles and tunes) is told apart. FLOPs and bytes moved are
counted operator by operator, whatever the machine. `of torch.mm` is the ratio of the medians of
FLOP/s. Memory is the peak beyond weights and input: resident on the CPU, allocated on CUDA; beside
it is what the memory plan said.

With --device cuda, or --check anywhere, the reference's clips are encoded and decoded on the device
through every path in float32 and bfloat16. On CUDA the norms as one kernel are measured and checked
too, and whether a copy from pinned memory passes beside an encoding. --out writes all of it as JSON
with "passed": true or false; the exit code is 1 where something is wrong.
"""

import argparse
import ctypes
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pipeline.bench.goldens import Check, check_goldens
from pipeline.bench.measure import Cost, Rates, conditions, in_turns, measured, resident_bytes
from pipeline.buckets import Bucket
from pipeline.config import StorageConfig, VAESection, WidthsConfig
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

_MATRIX = {"cpu": 2048, "cuda": 8192}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.add_argument("--height", type=int, default=256, help="of the bucket, in pixels (256)")
    parser.add_argument("--width", type=int, default=256, help="of the bucket, in pixels (256)")
    parser.add_argument("--frames", type=int, choices=(1, 17), default=17, help="of a window (17)")
    parser.add_argument("--images", action="store_true", help="the same as --frames 1")
    parser.add_argument("--batch", type=int, default=1, help="windows of a call (1)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--threads", type=int, help="of torch on the CPU; its own choice if unset")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--checkpoint", metavar="URI", help="weights; random ones without it")
    parser.add_argument("--widths", choices=("full", "narrow"), default="full", help="if random")
    parser.add_argument("--budget", metavar="BYTES", type=int, help="for activations, both ways")
    parser.add_argument("--compile", action="store_true", help="norms as one kernel")
    parser.add_argument("--turns", type=int, default=3, help="turns of each way (3)")
    parser.add_argument(
        "--check", action="store_true", help="the reference's clips, on the CPU too"
    )
    parser.add_argument("--goldens", type=Path, default=GOLDENS, help="folder of the clips")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON object here too")


def run(args: argparse.Namespace) -> None:
    """Measure, check and print. Raises ``UserError`` also where a check fails."""
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    try:
        Bucket(args.height, args.width)
    except ValueError as error:
        raise UserError(str(error)) from error
    begun = time.monotonic()
    vae = load_encoder(_section(args), StorageConfig())
    if args.compile:
        vae.compile_norms()
    found: dict[str, Any] = {"device": _name(vae.device), "threads": torch.get_num_threads()}
    found |= {"dtype": args.dtype, "compiled": args.compile, **conditions()}
    found["loading_seconds"] = time.monotonic() - begun
    found |= _measure(vae, args)
    cuda = vae.device.type == "cuda"
    if cuda:
        found["copy_hidden"] = _copy_hidden(vae, _window(vae, args))
        vae.compile_norms()
        found["compiled_norms"] = asdict(Rates.of(_encode_turns(vae, args)))
    checks = _checks(args, vae.device.type) if cuda or args.check else []
    found["checks"] = [asdict(check) | {"passed": check.passed} for check in checks]
    found["passed"] = all(check.passed for check in checks) and found.get("copy_hidden", 1) > 0.5
    _print(found)
    if args.out is not None:
        args.out.write_text(json.dumps(found, indent=1))
    print(json.dumps(found))
    if not found["passed"]:
        wrong = [check.name for check in checks if not check.passed] or ["copies do not overlap"]
        raise UserError(f"the VAE is not right on {found['device']}: {'; '.join(wrong)}")


def _section(args: argparse.Namespace) -> VAESection:
    weights: dict[str, Any] = {"checkpoint": args.checkpoint}
    if args.checkpoint is None:
        weights = {"random_seed": 0}
        if args.widths == "narrow":
            weights |= {"widths": NARROW, "z_channels": 2}
    return VAESection(**weights, compute_dtype=args.dtype, device=args.device)


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
    except RuntimeError as error:
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


def _copy_hidden(vae: AutoencoderKL, x: torch.Tensor) -> float:
    """Share of the time of a copy from pinned memory that passes beside an encoding."""
    host = torch.empty(256 * 2**20, dtype=torch.uint8, pin_memory=True)
    stream = torch.get_device_module(vae.device).Stream()

    def seconds(encode: bool, copy: bool) -> float:
        torch.cuda.synchronize()
        begun = time.monotonic()
        if copy:
            with torch.cuda.stream(stream):
                host.to(vae.device, non_blocking=True)
        if encode:
            vae.posterior(x)
        torch.cuda.synchronize()
        return time.monotonic() - begun

    seconds(True, True)
    encoding, copying, both = seconds(True, False), seconds(False, True), seconds(True, True)
    return (encoding + copying - both) / min(encoding, copying)


def _checks(args: argparse.Namespace, device: str) -> list[Check]:
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        found += check_goldens(args.goldens, device, dtype, compiled=args.compile)
    if device == "cuda" and not args.compile:
        found += check_goldens(args.goldens, device, torch.float32, compiled=True)
    return found


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


@dataclass(frozen=True)
class _Line:
    what: str
    value: str


def _print(found: dict[str, Any]) -> None:
    counted = found["counted"]
    peak = found["peak_bytes"]
    lines = [
        _Line("device", f"{found['device']}, {found['threads']} thread(s), {found['dtype']}"),
        _Line("loading", f"{found['loading_seconds']:.2f} s"),
        _Line("first call", f"{found['first_call_seconds']:.2f} s"),
        _Line("a call", f"{found['seconds']:.3f} s"),
        _Line("windows", f"{found['windows_per_second']:.3f}/s"),
        _Line("CPU time", f"{found['cpu_seconds_per_window']:.3f} s a window"),
        _Line("rate", f"{found['flops_per_second'] / 1e12:.3g} TFLOP/s"),
        _Line("torch.mm", f"{found['mm_flops_per_second'] / 1e12:.3g} TFLOP/s"),
        _Line(
            "of torch.mm",
            f"{found['of_mm']:.2f} ({found['of_mm_by_cpu_seconds']:.2f} by CPU seconds)",
        ),
        _Line("memory", "not known" if peak is None else human_bytes(peak)),
        _Line("planned", f"{human_bytes(found['planned_bytes'])}: {found['plan']}"),
        _Line(
            "counted",
            f"{counted['flops'] / 1e12:.3g} TFLOP, {human_bytes(counted['bytes_moved'])} moved, "
            f"{human_bytes(counted['minimal_bytes'])} of it by convolutions, linear maps and "
            f"attention; {counted['operators']} operators",
        ),
    ]
    if "copy_hidden" in found:
        lines.append(_Line("copies", f"{found['copy_hidden']:.0%} beside an encoding"))
        rate = found["compiled_norms"]["per_second"]
        lines.append(_Line("norms as one", f"{rate:.3f} windows/s"))
    for line in lines:
        print(f"{line.what:<12} {line.value}")
    for check in found["checks"]:
        verdict = "ok   " if check["passed"] else "WRONG"
        print(f"{verdict} {check['name']}: {check['error']:.2g} of {check['bound']:.2g}")
