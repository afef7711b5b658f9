"""Whether the VAE gives the reference's numbers on a device, through every path."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from pipeline.errors import UserError
from vae import AutoencoderKL

BOUNDS = {torch.float32: 1e-4, torch.bfloat16: 0.06, torch.float16: 0.01}
"""By compute dtype: largest absolute error in float32, relative error (L2) in halves."""

SETS = ("v2_small", "v1_small")


@dataclass(frozen=True)
class Check:
    """One comparison with the reference; ``error`` is as in ``BOUNDS``."""

    name: str
    error: float
    bound: float

    @property
    def passed(self) -> bool:
        """Whether the error keeps the bound; NaN does not."""
        return self.error <= self.bound


def check_goldens(folder: Path, device: str, dtype: torch.dtype, compiled: bool) -> list[Check]:
    """Encode and decode the reference's clips of up to 17 frames, as kept in ``folder``.

    Raises ``UserError`` where they are not there.
    """
    found = []
    for name in SETS:
        file = folder / name / "weights.safetensors"
        if not file.exists():
            raise UserError(
                f"{file} is not there: run this in a checkout of the project, or give the folder "
                "of the reference's tensors with --goldens"
            )
        vae = AutoencoderKL.from_file(file, device=device, dtype=dtype)
        if compiled:
            vae.compile_norms()
        for path, mean, decode in _paths(vae):
            errors = [0.0]
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                for case in _cases(folder / name, device, dtype):
                    errors.append(_error(mean(case["input"]), case["mean"], dtype))
                    if "decoded" in case:
                        frames = decode(case["mean"].to(dtype))
                        errors.append(_error(frames, case["decoded"], dtype))
            label = f"{name}, {str(dtype).removeprefix('torch.')}, {path}"
            found.append(Check(label, max(errors), BOUNDS[dtype]))
    return found


def _paths(
    vae: AutoencoderKL,
) -> Iterator[tuple[str, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]]:
    yield "as they come", lambda x: vae.posterior(x).mean, vae.decode
    yield (
        "finest slices",
        lambda x: vae.posterior(x, memory_budget=1).mean,
        lambda z: vae.decode(z, memory_budget=1),
    )
    yield "mean alone", vae.mean, vae.decode
    yield (
        "two at once",
        lambda x: vae.posterior(torch.cat([x, x.flip(1)]), memory_budget=2**40).mean[: len(x)],
        lambda z: vae.decode(torch.cat([z, z.flip(1)]), memory_budget=2**40)[: len(z)],
    )


def _cases(folder: Path, device: str, dtype: torch.dtype) -> Iterator[Mapping[str, Tensor]]:
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


def _error(found: Tensor, wanted: Tensor, dtype: torch.dtype) -> float:
    difference = found.float() - wanted
    if dtype == torch.float32:
        return float(difference.abs().max())
    return float(difference.norm() / wanted.norm())
