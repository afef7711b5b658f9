"""An encoder with a mistake, where worker processes can import it too."""

import numpy as np

from pipeline.encode import Encoded
from pipeline.stages.encode import make_vae_encoder


class Changed:
    """An encoder with a mistake, in the frames that it is given or in the latents that it makes."""

    def __init__(self, frames, latents, config, recipe) -> None:
        self._frames, self._latents = frames, latents
        self._encode = make_vae_encoder(config, recipe)

    def __call__(self, frames: np.ndarray, sample_ids: list[str]) -> Encoded:
        found = self._encode(np.ascontiguousarray(self._frames(frames)), sample_ids)
        tensors = {n: np.ascontiguousarray(self._latents(t)) for n, t in found.tensors.items()}
        return Encoded(tensors, found.bad)


def same(values: np.ndarray) -> np.ndarray:
    return values


def as_bgr(frames: np.ndarray) -> np.ndarray:
    """Frames with red and blue exchanged."""
    return frames[..., ::-1]


def as_if_in_0_to_1(frames: np.ndarray) -> np.ndarray:
    """Pixels for which x / 127.5 - 1 is what x / 255 should have been."""
    return (127.5 + frames / 2).round().astype(np.uint8)
