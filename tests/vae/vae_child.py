"""What a piece of the autoencoder's work takes at its peak, in a process of its own.

``python vae_child.py JOB``, with a job in JSON, prints the bytes of resident memory at the peak of
the job beyond those before it. Everything that outlives the job is made first: the weights where
they stay, the input, and what libraries set up at their first use.
"""

from __future__ import annotations

import ctypes
import gc
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from vae import AutoencoderKL, VAEConfig, attention
from vae.heap import return_freed_blocks


def taken(**job: object) -> int:
    """Bytes that a job takes in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, json.dumps(job)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def peak_of(work: Callable[[], object]) -> int:
    """Bytes at the peak of ``work`` beyond those resident before it."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again
    before = _resident("VmRSS")
    work()
    return _resident("VmHWM") - before


def model_job(
    config: dict[str, object],
    part: str,
    size: tuple[int, int, int, int],
    dtype: str = "float32",
    slice_frames: int | None = None,
    whole: bool = False,
) -> Callable[[], object]:
    """A window of ``size`` (batch, frames, height, width) through the encoder or the decoder.

    With ``whole`` through ``posterior`` or ``decode``, by the default plan.
    """
    torch.set_default_dtype(getattr(torch, dtype))
    parts = "encoder" if part == "encoder" else "all"
    model = AutoencoderKL.from_config(VAEConfig(**config), parts=parts)
    small, x = (_input(model.config, part, each) for each in ((1, 17, 32, 32), size))
    half = model.encoder if part == "encoder" else model.decoder
    method = model.posterior if part == "encoder" else model.decode

    def work(given: torch.Tensor) -> object:
        return method(given) if whole else half(given.transpose(1, 2), slice_frames)

    if whole:  # counting what a plan needs is not part of the work
        method(x[:1, :, :, :16, :16])
    work(small)
    return lambda: work(x)


def _input(config: VAEConfig, part: str, size: tuple[int, int, int, int]) -> torch.Tensor:
    batch, frames, height, width = size
    if part == "encoder":
        return torch.rand(batch, frames, config.in_channels, height, width)
    scale = config.compression
    latents = -(-frames // 17) * scale.window_latents
    return torch.rand(
        batch, latents, config.z_channels, height // scale.spatial, width // scale.spatial
    )


def attention_job(n: int, channels: int, way: str) -> Callable[[], object]:
    """Attention over ``n`` positions by a function of ``vae.attention``."""
    function = getattr(attention, way)
    q, k, v = torch.rand(3, 1, n, channels)
    function(q[:, :64], k[:, :64], v[:, :64])
    return lambda: function(q, k, v)


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no {field}")


if __name__ == "__main__":
    return_freed_blocks()
    job = json.loads(sys.argv[1])
    make = {"model": model_job, "attention": attention_job}[job.pop("kind")]
    with torch.no_grad():
        print(peak_of(make(**job)))
