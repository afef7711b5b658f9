"""Windows to encode, a model that gives the numbers of a table, and a call of the encoder."""

from types import MappingProxyType

import numpy as np
import torch
from helpers import make_contract

from pipeline.encode import WindowEncoder
from vae import DiagonalGaussian, MemoryPlan

MOMENTS = make_contract(dtype="float32")


def random_frames(count, length=17, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, length, 32, 32, 3), np.uint8)


def ids(count):
    return [f"id{n}" for n in range(count)]


def encode_windows(vae, frames, sample_ids, contract, seed, micro_batch):
    return WindowEncoder(vae, contract, seed, micro_batch)(frames, sample_ids)


class FakeVAE:
    """Gives the numbers of a table: window n's mean and logvar, whatever its frames show.

    Frames carry the window's number in their first pixel. Bytes by frames of a slice are like those
    of the published encoder at 256x256, of which ``FIXED`` do not grow with the batch; calls beyond
    ``memory`` bytes run out of it. ``tried``: windows at once and frames of a slice, by call.
    """

    device, dtype = torch.device("cpu"), torch.float32
    OPTIONS = MappingProxyType({8: 60, 4: 45, 2: 35, 1: 31})
    FIXED = 6
    error: Exception = torch.OutOfMemoryError("CUDA out of memory")

    def __init__(self, means, logvars=None, memory=10**9):
        self.means = means
        self.logvars = logvars or [0.0] * len(means)
        self.memory = memory
        self.calls = []
        self.tried = []

    def memory_plan(self, height, width, frames, *, budget):
        sizes = self.OPTIONS if frames > 1 else (8,)
        options = {size: self.OPTIONS[size] for size in sizes}
        size = next((s for s, peak in options.items() if peak <= budget), min(options))
        batch = max(1, (budget - self.FIXED) // (options[size] - self.FIXED))
        return MemoryPlan(batch, size, budget, options)

    def mean(self, x, memory_budget):
        return self.posterior(x, memory_budget).mean

    def posterior(self, x, memory_budget):
        plan = self.memory_plan(32, 32, x.shape[1], budget=memory_budget)
        at_once = min(plan.batch, len(x))
        self.tried.append((at_once, plan.slice_frames))
        if self.FIXED + at_once * (plan.peak_bytes - self.FIXED) > self.memory:
            raise self.error
        self.calls.append(len(x))
        numbers = ((x[:, 0, 0, 0, 0] + 1) * 127.5).round().int().tolist()
        shape = (len(x), 3, 2, 2, 2)
        mean, logvar = torch.zeros(shape), torch.zeros(shape)
        for row, number in enumerate(numbers):
            mean[row, -1, -1, -1, -1] = self.means[number]
            logvar[row, 0, 0, 0, 0] = self.logvars[number]
        return DiagonalGaussian(mean, logvar)


def numbered_frames(count):
    frames = np.zeros((count, 17, 32, 32, 3), np.uint8)
    frames[:, 0, 0, 0, 0] = np.arange(count)
    return frames
