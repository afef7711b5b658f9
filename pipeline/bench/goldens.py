"""Whether the VAE gives the reference's numbers on a device, through every path."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from pipeline.config import LatentsConfig
from pipeline.encode import WindowEncoder, pixels_to_input
from pipeline.errors import UserError
from pipeline.weights import contract_for
from vae import WINDOW_FRAMES, AutoencoderKL

BOUNDS = {torch.float32: 1e-4, torch.bfloat16: 0.06, torch.float16: 0.01}
"""By compute dtype: largest absolute error in float32, relative error (L2) in halves."""

SETS = ("v2_small", "v1_small")

RUN_WINDOWS = {"cpu": (3, 32), "cuda": (9, 256)}
"""How many windows go the way of a run, and their height and width; a GPU copies small ones at
once."""

_Path = Callable[[AutoencoderKL, Tensor], Tensor]

_PATHS: tuple[tuple[str, _Path, _Path], ...] = (
    ("as they come", lambda vae, x: vae.posterior(x).mean, lambda vae, z: vae.decode(z)),
    (
        "finest slices",
        lambda vae, x: vae.posterior(x, memory_budget=1).mean,
        lambda vae, z: vae.decode(z, memory_budget=1),
    ),
    ("mean alone", lambda vae, x: vae.mean(x), lambda vae, z: vae.decode(z)),
    (
        "two at once",
        lambda vae, x: vae.posterior(torch.cat([x, x.flip(1)]), memory_budget=2**40).mean[: len(x)],
        lambda vae, z: vae.decode(torch.cat([z, z.flip(1)]), memory_budget=2**40)[: len(z)],
    ),
)


@dataclass(frozen=True)
class Check:
    """One comparison; ``error`` is None where it came to no number, ``message`` then says why."""

    name: str
    error: float | None
    bound: float
    message: str = ""

    @property
    def passed(self) -> bool:
        """Whether there is an error that keeps the bound."""
        return self.error is not None and self.error <= self.bound

    def __str__(self) -> str:
        found = self.message if self.error is None else f"{self.error:.2g} of {self.bound:.2g}"
        return f"{self.name}: {found}"


def checked(name: str, bound: float, measure: Callable[[], float]) -> Check:
    """The check of the error that ``measure`` returns; whatever it raises is a failure of it."""
    try:
        found = measure()
    except Exception as error:  # noqa: BLE001 (it is told, and fails the check)
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        return Check(name, None, bound, f"{kind}{error}")
    if not math.isfinite(found):
        return Check(name, None, bound, f"the error is {found}")
    return Check(name, found, bound)


def require_goldens(folder: Path) -> None:
    """Raises ``UserError`` where the reference's clips are not in ``folder``."""
    for name in SETS:
        file = folder / name / "weights.safetensors"
        if not file.exists():
            raise UserError(
                f"{file} is not there: run this in a checkout of the project, or give the folder "
                "of the reference's tensors with --goldens"
            )


def check_goldens(folder: Path, device: str, dtype: torch.dtype, compiled: bool) -> list[Check]:
    """Encode and decode the reference's clips of up to 17 frames, as kept in ``folder``.

    And encode windows the way of a run, against the same model called directly.
    """
    found = []
    for name in SETS:
        load = cache(partial(_load, folder / name, device, dtype, compiled))
        label = f"{name}, {str(dtype).removeprefix('torch.')}{', norms as one' * compiled}"
        for path, mean, decode in _PATHS:
            against = partial(_against_reference, load, mean, decode, folder / name)
            found.append(checked(f"{label}, {path}", BOUNDS[dtype], against))
        in_a_run = partial(_as_in_a_run, load)
        found.append(checked(f"{label}, as in a run", BOUNDS[dtype], in_a_run))
    return found


def without_tf32() -> Any:
    """A context in which float32 convolutions on CUDA are of float32."""
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


def _load(folder: Path, device: str, dtype: torch.dtype, compiled: bool) -> AutoencoderKL:
    vae = AutoencoderKL.from_file(folder / "weights.safetensors", device=device, dtype=dtype)
    if compiled:
        vae.compile_norms()
    return vae


def _against_reference(
    load: Callable[[], AutoencoderKL], mean: _Path, decode: _Path, folder: Path
) -> float:
    vae, errors = load(), []
    with without_tf32():
        for case in _cases(folder, vae.device, vae.dtype):
            errors.append(error_of(mean(vae, case["input"]), case["mean"], vae.dtype))
            if "decoded" in case:
                frames = decode(vae, case["mean"].to(vae.dtype))
                errors.append(error_of(frames, case["decoded"], vae.dtype))
    return max(errors)


def _as_in_a_run(load: Callable[[], AutoencoderKL]) -> float:
    """Windows in micro-batches over pinned memory and streams, two in flight, each another."""
    vae = load()
    count, side = RUN_WINDOWS[vae.device.type]
    shape = (count, WINDOW_FRAMES, side, side, 3)
    frames = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    latents = LatentsConfig(statistic="moments", dtype="float32")
    with without_tf32():
        encode = WindowEncoder(vae, contract_for(vae.config, latents, ""), 0, micro_batch=1)
        encoded = encode(frames, [str(n) for n in range(len(frames))])
        x = pixels_to_input(torch.from_numpy(frames).to(vae.device), vae.dtype)
        direct = [vae.posterior(part) for part in torch.split(x, 1)]
    wanted = {
        "mean": torch.cat([posterior.mean for posterior in direct]),
        "logvar": torch.cat([posterior.logvar for posterior in direct]),
    }
    errors = [
        error_of(torch.from_numpy(encoded.tensors[name]).to(vae.device), one, vae.dtype)
        for name, one in wanted.items()
    ]
    return max(errors)


def _cases(
    folder: Path, device: torch.device, dtype: torch.dtype
) -> Iterator[Mapping[str, Tensor]]:
    """Clips of one frame and of one window; black ones tell nothing of a relative error."""
    for case in json.loads((folder / "config.json").read_text())["cases"]:
        tensors = load_file(folder / case["file"])
        frames = tensors["input"].shape[1]
        if frames not in (1, 17) or (dtype != torch.float32 and "uint8" not in case["file"]):
            continue
        tensors["input"] = tensors["input"].to(device).float().div(127.5).sub(1).to(dtype)
        for name in tensors.keys() & {"mean", "decoded"}:
            tensors[name] = tensors[name].to(device)
        yield tensors


def error_of(found: Tensor, wanted: Tensor, dtype: torch.dtype) -> float:
    """The error of a computation in ``dtype``, as in ``BOUNDS``."""
    difference = found.float() - wanted.float()
    if dtype == torch.float32:
        return float(difference.abs().max())
    return float(difference.norm() / wanted.float().norm())
