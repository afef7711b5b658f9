"""Reproducible random weights for tests and demonstrations."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
from torch import Tensor

from vae.autoencoder import AutoencoderKL
from vae.checkpoint import Parts
from vae.config import VAEConfig


def state_dict_shapes(config: VAEConfig, parts: Parts = "all") -> dict[str, tuple[int, ...]]:
    """Name → shape of every weight of a model (or of its encoder), without allocating any."""
    model = AutoencoderKL.from_config(config, device="meta", parts=parts)
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def seeded_state_dict(config: VAEConfig, seed: int, parts: Parts = "all") -> dict[str, Tensor]:
    """Random weights that depend on ``config``, ``seed`` and nothing else, in float32.

    Every tensor has a stream of its own: NumPy's ``RandomState``, seeded by the first four bytes
    (little-endian) of the SHA-256 of ``"{seed}:{name}"``, draws standard normals a. Weights of
    convolutions are a / sqrt(fan in), biases 0.05 a, weights of norms 1 + 0.1 a. All values are
    rounded to bfloat16, so that they survive storage in it. With ``parts="encoder"`` the decoder's
    are left out, and the others are the same.
    """
    shapes = state_dict_shapes(config, parts)
    return {name: _tensor(f"{seed}:{name}", shape) for name, shape in shapes.items()}


def _tensor(stream: str, shape: tuple[int, ...]) -> Tensor:
    """One tensor; ``stream`` ends with its name."""
    digest = hashlib.sha256(stream.encode()).digest()
    random = np.random.RandomState(int.from_bytes(digest[:4], "little"))
    values = random.standard_normal(math.prod(shape)).reshape(shape)
    if len(shape) > 1:
        values /= math.sqrt(math.prod(shape[1:]))
    elif stream.endswith("bias"):
        values *= 0.05
    else:
        values = 1 + 0.1 * values
    return torch.from_numpy(values.astype(np.float32)).to(torch.bfloat16).to(torch.float32)
