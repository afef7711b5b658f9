"""Golden cases, narrow architectures and random clips shared by the tests of the autoencoder."""

import dataclasses
import json
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from vae import AutoencoderKL, VAEConfig

GOLDENS = Path(__file__).parents[1] / "data" / "goldens"
TINY = VAEConfig(
    z_channels=2,
    num_res_blocks=1,
    encoder_ch=8,
    encoder_ch_mult=(1, 2, 1, 1),
    decoder_ch=8,
    decoder_ch_mult=(1, 2, 1, 1),
    norm_groups=4,
)


NARROW = ("v2_small", "v1_small")
"""Golden sets whose weights are stored."""


def golden_set(name: str) -> dict:
    return json.loads((GOLDENS / name / "config.json").read_text())


def golden_config(name: str) -> VAEConfig:
    facts = golden_set(name)
    return VAEConfig(**{f.name: facts[f.name] for f in dataclasses.fields(VAEConfig)})


def golden_cases(name: str) -> list[str]:
    return [case["file"] for case in golden_set(name)["cases"]]


def load_case(name: str, file: str) -> dict[str, Tensor]:
    case = load_file(GOLDENS / name / file)
    case["input"] = case["input"].float() / 127.5 - 1
    seeds = {c["file"]: c["noise_seed"] for c in golden_set(name)["cases"]}
    case["noise_seed"] = seeds[file]
    return case


def random_clip(frames: int, height: int = 32, width: int = 32, batch: int = 1, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, frames, 3, height, width, generator=generator) * 2 - 1


@cache
def narrow(name: str, dtype: torch.dtype = torch.float32) -> AutoencoderKL:
    """The model of a golden set."""
    path = GOLDENS / name / "weights.safetensors"
    return AutoencoderKL.from_file(path, golden_config(name), dtype=dtype)


def windows_of(x: Tensor, length: int) -> list[Tensor]:
    """(B, T, C, H, W) → windows (B, C, length, H, W), the last as long as there are frames."""
    return list(x.transpose(1, 2).split(length, dim=2))


@torch.no_grad()
def one_by_one(function, windows, size=None):
    """Each window by itself, in slices of ``size`` (None: as large as there are), joined again."""
    return torch.cat([function(window, size) for window in windows], dim=2).transpose(1, 2)
