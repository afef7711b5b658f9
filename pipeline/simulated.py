"""A stand-in for the VAE that waits and occupies no processor: shows what a fast one would meet."""

import time
from dataclasses import dataclass

import numpy as np

from pipeline.buckets import Bucket
from pipeline.config import Config
from pipeline.contract import Contract
from pipeline.encode import Encoded
from pipeline.recipe import Recipe, latent_shape


class SimulatedEncoder:
    """Latents of the right shape after a set time a window; worth nothing, but always the same.

    Every number of a window is the same fraction in [0, 1), which follows from its sample id.
    """

    def __init__(self, contract: Contract, seconds_per_window: float) -> None:
        self._contract = contract
        self._seconds = seconds_per_window

    def __call__(self, frames: np.ndarray, sample_ids: list[str], /) -> Encoded:
        """Wait as long as the windows are to take."""
        seconds = self._seconds * len(frames)
        until = time.perf_counter() + seconds
        bucket = Bucket(frames.shape[2], frames.shape[3])
        shape = (len(frames), *latent_shape(self._contract, bucket, frames.shape[1]))
        numbers = np.array([int(i[:4], 16) / 2**16 for i in sample_ids], self._contract.dtype)
        filled = np.empty(shape, self._contract.dtype)
        filled[:] = numbers.reshape(-1, 1, 1, 1, 1)
        time.sleep(max(0.0, until - time.perf_counter()))
        tensors = dict.fromkeys(self._contract.tensors, filled)
        return Encoded(tensors, {}, (len(frames),), vae_seconds=seconds)


@dataclass(frozen=True)
class MakeSimulated:
    """Makes simulated encoders in place of the configuration's VAE."""

    seconds_per_window: float

    def __call__(self, config: Config, recipe: Recipe, /) -> SimulatedEncoder:
        """One replica."""
        return SimulatedEncoder(recipe.contract, self.seconds_per_window)
