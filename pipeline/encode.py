"""From uint8 windows to stored latents: the VAE, the statistic, the stored dtype and its checks."""

import hashlib
from collections import deque
from dataclasses import dataclass, replace

import numpy as np
import torch

from pipeline.contract import Contract
from pipeline.errors import Reason
from pipeline.room import Room, is_out_of_memory
from pipeline.stopwatch import Stopwatch
from pipeline.transfer import Fetched, Transfer
from vae import AutoencoderKL, DiagonalGaussian

_IN_FLIGHT = 2
"""Micro-batches that are launched before the host waits for the first of them."""


@dataclass(frozen=True)
class Encoded:
    """Latents of n windows by statistic, each ``[n, t, C, h, w]`` in the stored dtype.

    ``bad`` names the windows whose numbers must not be stored, by row, with the reason.
    ``calls`` are the windows of each call of the VAE, ``vae_seconds`` is what the device took for
    these calls alone, and ``backoffs`` tells how often memory ran out.
    """

    tensors: dict[str, np.ndarray]
    bad: dict[int, Reason]
    calls: tuple[int, ...] = ()
    backoffs: int = 0
    vae_seconds: float = 0.0


@dataclass(frozen=True)
class _Launched:
    """One micro-batch on the device."""

    fetched: Fetched
    watch: Stopwatch

    def wait(self) -> tuple[dict[str, np.ndarray], float]:
        """The arrays, and the seconds that the device was in the VAE."""
        arrays = self.fetched.wait()
        return arrays, self.watch.seconds()


class WindowEncoder:
    """Encodes windows on the VAE's device, in micro-batches that fit into its memory.

    While the device works on one micro-batch, the next is copied to it and the last one back. One
    that does not fit is tried again in halves, and what held is remembered.
    """

    def __init__(
        self,
        vae: AutoencoderKL,
        contract: Contract,
        seed: int,
        micro_batch: int | None = None,
        device_share: float = 1.0,
    ) -> None:
        """Take up the device.

        Args:
            vae: the model, on its device.
            contract: what is stored.
            seed: of the noise of samples.
            micro_batch: windows of one call of the VAE at the most; None: by pixels.
            device_share: the part of a GPU's memory that is this encoder's, in (0, 1].
        """
        self.vae = vae
        self.room = Room(vae, micro_batch, device_share)
        self._contract, self._seed = contract, seed
        self._transfer = Transfer(vae.device)

    def __call__(self, frames: np.ndarray, sample_ids: list[str]) -> Encoded:
        """Encode windows ``frames``, uint8 RGB ``[n, T, H, W, 3]`` with T 17 or 1.

        The VAE sees x / 127.5 − 1 in its own dtype. With the statistic ``sample``, noise of a
        window follows from the seed and its sample id alone. Raises ``UserError`` when not even
        one window fits into the device's memory.
        """
        shape = (frames.shape[1], frames.shape[2], frames.shape[3])
        waiting: deque[_Launched] = deque()
        done: list[tuple[dict[str, np.ndarray], float]] = []
        calls: list[int] = []
        first = backoffs = 0
        while first < len(frames) or waiting:
            if first == len(frames) or len(waiting) == _IN_FLIGHT:
                done.append(waiting.popleft().wait())
                continue
            part = slice(first, first + self.room.windows(shape))
            launched = self._try(frames[part], sample_ids[part])
            if launched is None:
                done.extend(each.wait() for each in waiting)
                waiting.clear()
                self.room.shrink(shape, len(frames[part]))
                backoffs += 1
                continue
            waiting.append(launched)
            calls.append(len(frames[part]))
            first = min(part.stop, len(frames))
        joined = self._joined([arrays for arrays, _ in done])
        seconds = sum(seconds for _, seconds in done)
        return replace(joined, calls=tuple(calls), backoffs=backoffs, vae_seconds=seconds)

    def _try(self, frames: np.ndarray, sample_ids: list[str]) -> _Launched | None:
        """Launch one micro-batch; None where memory ran out (its error would hold on to some)."""
        try:
            return self._launch(frames, sample_ids)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        return None

    def _launch(self, frames: np.ndarray, sample_ids: list[str]) -> _Launched:
        budget = self.room.budget((frames.shape[1], frames.shape[2], frames.shape[3]))
        x = pixels_to_input(self._transfer.send(frames), self.vae.dtype)
        made: dict[str, torch.Tensor] = {}
        watch = Stopwatch(self.vae.device)
        found = self._encode(x, budget)
        watch.stop()
        for name, values in self._statistics(found, sample_ids).items():
            stored = values.to(getattr(torch, self._contract.dtype))
            made[name] = stored
            made[f"{name} is finite"] = torch.isfinite(values).flatten(1).all(1)
            made[f"{name} fits"] = torch.isfinite(stored).flatten(1).all(1)
        return _Launched(self._transfer.fetch(made), watch)

    def _encode(self, x: torch.Tensor, budget: int) -> torch.Tensor | DiagonalGaussian:
        """The VAE alone: the mean where only that is stored, else the posterior."""
        if self._contract.statistic == "mean":
            return self.vae.mean(x, memory_budget=budget)
        return self.vae.posterior(x, memory_budget=budget)

    def _statistics(
        self, found: torch.Tensor | DiagonalGaussian, sample_ids: list[str]
    ) -> dict[str, torch.Tensor]:
        if isinstance(found, torch.Tensor):
            return {"mean": found.float()}
        mean, logvar = found.mean.float(), found.logvar.float()
        if self._contract.statistic == "moments":
            return {"mean": mean, "logvar": logvar}
        shape = tuple(mean.shape[1:])
        noise = torch.stack([window_noise(self._seed, i, shape) for i in sample_ids])
        return {"sample": mean + torch.exp(logvar / 2) * self._transfer.send(noise.numpy())}

    def _joined(self, parts: list[dict[str, np.ndarray]]) -> Encoded:
        whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        names = self._contract.tensors
        bad: dict[int, Reason] = {}
        for check, reason in (("is finite", Reason.NOT_FINITE), ("fits", Reason.OVERFLOW)):
            for name in names:
                for row in np.flatnonzero(~whole[f"{name} {check}"]).tolist():
                    bad.setdefault(row, reason)
        return Encoded({name: whole[name] for name in names}, bad)


def pixels_to_input(frames: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The VAE's input ``(n, T, 3, H, W)`` in [-1, 1] of uint8 ``[n, T, H, W, 3]``, on its device.

    In memory the channels stay last, as the VAE works.
    """
    scaled = frames.to(torch.float32).div_(127.5).sub_(1.0)
    return scaled.to(dtype).permute(0, 1, 4, 2, 3)


def window_noise(seed: int, sample_id: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Standard normal noise of one window, float32: the same wherever and whenever it is drawn.

    The CPU generator is seeded with the first 8 bytes (little-endian, top bit cleared) of
    SHA-256(``"{seed}:{sample_id}"``).
    """
    digest = hashlib.sha256(f"{seed}:{sample_id}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") & (2**63 - 1))
    return torch.randn(shape, generator=generator)
