"""Encode: packs of windows become packs of latents, in an actor that holds one VAE."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from pipeline import metrics
from pipeline.buckets import Bucket
from pipeline.config import Config
from pipeline.effort import Effort
from pipeline.errors import Reason
from pipeline.metrics import SILENT, Meter
from pipeline.packs import FRAMES, Batch, Event, PackMeta, SegmentInfo, rows, to_batch
from pipeline.recipe import Recipe
from pipeline.weights import load_encoder

if TYPE_CHECKING:  # torch, which a driver does without
    from pipeline.encode import Encoded


class EncodesWindows(Protocol):
    """What turns uint8 windows ``[n, T, H, W, 3]`` and their sample ids into latents."""

    def __call__(self, frames: np.ndarray, sample_ids: list[str], /) -> Encoded:
        """Latents of the windows, in their order."""


MakeEncoder = Callable[[Config, Recipe], EncodesWindows]
"""Makes what encodes, where it is to work; travels to the workers of a cluster."""


def make_vae_encoder(config: Config, recipe: Recipe) -> EncodesWindows:
    """The VAE of the configuration, its weights loaded."""
    import torch

    from pipeline.encode import WindowEncoder

    if config.run.encoder_threads is not None:
        torch.set_num_threads(config.run.encoder_threads)
    vae = load_encoder(config.vae, config.storage, recipe.contract.encoder_sha256)
    if config.run.compile:
        vae.compile_norms()
    return WindowEncoder(
        vae, recipe.contract, recipe.seed, config.run.micro_batch, config.run.device_share
    )


class Encoder:
    """One replica of what encodes. Called with a batch of one pack; keeps nothing of it."""

    def __init__(
        self,
        config: Config,
        recipe: Recipe,
        make_encoder: MakeEncoder = make_vae_encoder,
        meter: Meter = SILENT,
    ) -> None:
        self.recipe = recipe
        self._meter = meter
        self._ended: float | None = None
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self.encode = make_encoder(config, recipe)

    def __call__(self, batch: Batch) -> Batch:
        """Latents of one pack; a source with numbers that must not be stored becomes ``failed``."""
        [(meta, tensors)] = rows(batch)
        if not meta.segments:
            nothing = np.zeros((0, 1, 1, 1, 1), self.recipe.contract.dtype)
            return to_batch(meta, dict.fromkeys(self.recipe.contract.tensors, nothing))
        frames = tensors[FRAMES]
        at, begun = time.time(), time.perf_counter()
        if self._ended is not None:
            self._meter.add(metrics.IDLE, begun - self._ended)
        encoded = self.encode(frames, meta.sample_ids)
        seconds = time.perf_counter() - begun
        self._tell(encoded, seconds, len(frames))
        self._ended = time.perf_counter()
        effort = Effort(self.name, at, seconds, len(frames), frames.nbytes, encoded.vae_seconds)
        return to_batch(*_without_bad(replace(meta, effort=effort), encoded))

    def _tell(self, encoded: Encoded, seconds: float, windows: int) -> None:
        meter = self._meter
        meter.add(metrics.BUSY, seconds)
        good = windows - len(encoded.bad)
        meter.add(metrics.WINDOWS, good, status="encoded", reason=metrics.NO_REASON)
        for reason, count in Counter(encoded.bad.values()).items():
            meter.add(metrics.WINDOWS, count, status="refused", reason=str(reason))
        for call in encoded.calls:
            meter.observe(metrics.MICRO_BATCH, call)
        meter.add(metrics.BACKOFFS, encoded.backoffs)


def _without_bad(meta: PackMeta, encoded: Encoded) -> tuple[PackMeta, dict[str, np.ndarray]]:
    """Drop the segments that hold a window which must not be stored."""
    if not encoded.bad:
        return meta, encoded.tensors
    kept: list[SegmentInfo] = []
    rows_kept: list[int] = []
    events = list(meta.events)
    row = 0
    for segment in meta.segments:
        span = range(row, row + segment.windows)
        row += segment.windows
        wrong = [r for r in span if r in encoded.bad]
        if wrong:
            events.append(_refused(segment, wrong[0] - span.start, encoded.bad[wrong[0]]))
        else:
            kept.append(segment)
            rows_kept.extend(span)
    tensors = {name: tensor[rows_kept] for name, tensor in encoded.tensors.items()}
    return replace(meta, segments=tuple(kept), events=tuple(events)), tensors


def _refused(segment: SegmentInfo, offset: int, reason: Reason) -> Event:
    window, bucket = segment.first_window + offset, Bucket.parse(segment.bucket)
    what = (
        "holds NaN or infinity"
        if reason is Reason.NOT_FINITE
        else "exceeds the stored dtype's range; set latents.dtype: float32"
    )
    return Event(
        "failed",
        segment.source_id,
        segment.generation,
        reason=str(reason),
        message=f"the latent of window {window} at {bucket.height}x{bucket.width} {what}",
    )
