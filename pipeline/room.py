"""How many windows a device takes at once: what its memory is planned to hold, and did hold."""

import torch

from pipeline.errors import UserError
from vae import AutoencoderKL, MemoryPlan
from vae.memory import default_budget

Shape = tuple[int, int, int]
"""Frames, height and width of a window."""

SATURATING_PIXELS = 17 * 544 * 992
"""Pixels of a call from which on an accelerator gains nothing from more of them: one window of
544x992. Smaller ones are batched up to it."""


_TOLD = ("can't allocate memory", "out of memory", "alloc_failed", "unable to find an engine")
"""What errors say of a lack of memory that are not torch's own: of the CPU, CUDA, cuBLAS, cuDNN."""


class Room:
    """Windows of a call of the VAE, and the bytes that their activations may take, by their shape.

    The bytes are the device's free memory when the weights are on it. A shape for which they turn
    out too many gets fewer windows, then fewer bytes, for as long as this lives.
    """

    def __init__(
        self, vae: AutoencoderKL, micro_batch: int | None, device_share: float = 1.0
    ) -> None:
        """With a ``device_share`` below 1 this process is held to that part of a GPU's memory."""
        self._vae, self._micro_batch = vae, micro_batch
        if vae.device.type == "cuda" and device_share < 1:
            torch.cuda.set_per_process_memory_fraction(device_share, vae.device)
        self._whole = default_budget(vae.device, device_share)
        self._bytes: dict[Shape, int] = {}
        self._most: dict[Shape, int] = {}

    def budget(self, shape: Shape) -> int:
        """Bytes for the activations of windows of this shape."""
        return self._bytes.get(shape, self._whole)

    def windows(self, shape: Shape) -> int:
        """Windows of one call; the VAE takes them in parts where the budget wants it."""
        frames, height, width = shape
        enough = self._micro_batch or -(-SATURATING_PIXELS // (frames * height * width))
        if shape in self._most:  # memory ran out over more
            return min(enough, self._most[shape])
        return enough if self._micro_batch else min(enough, self._plan(shape).batch)

    def shrink(self, shape: Shape, windows: int) -> None:
        """Memory ran out over a call of so many windows: take half of those that went at once.

        When it was one, the next finer slices of time. Raises ``UserError`` when there are none.
        """
        if self._vae.device.type == "cuda":
            torch.cuda.empty_cache()
        plan = self._plan(shape)
        tried = min(plan.batch, windows)
        self._most[shape] = max(1, tried // 2)
        if tried > 1:
            return
        finer = [peak for peak in plan.options.values() if peak < plan.peak_bytes]
        if finer:
            self._bytes[shape] = max(finer)
            return
        frames, height, width = shape
        raise UserError(
            f"the memory of {self._vae.device} ran out over one window of {frames} frames of "
            f"{height}x{width}, whose activations take {plan.peak_bytes / 1e9:.1f} GB at the least "
            f"in {str(self._vae.dtype).removeprefix('torch.')}. Use a smaller bucket, "
            "vae.compute_dtype: bfloat16, fewer encoders on a device, or one with more memory"
        )

    def _plan(self, shape: Shape) -> MemoryPlan:
        frames, height, width = shape
        return self._vae.memory_plan(height, width, frames, budget=self.budget(shape))


def is_out_of_memory(error: RuntimeError | MemoryError) -> bool:
    """Whether an allocation failed, on an accelerator or on the CPU."""
    told = str(error).lower()
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or any(part in told for part in _TOLD)
