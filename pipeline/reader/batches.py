"""Clips as tensors: which rows a clip needs, and what is made of them."""

from collections.abc import Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pipeline.reader.draw import Normalization, Statistic, draw, needed_tensors, noise_seed
from pipeline.reader.index import Array
from pipeline.reader.rows import RowReader
from pipeline.reader.view import View
from pipeline.recipe import latent_shape
from pipeline.shards import ShardError

Batch = dict[str, Any]

Rows = tuple[str, int, int]
"""Shard, first row, number of rows."""


@dataclass(frozen=True)
class Clip:
    """One clip: group, source, first output frame, real frames; rows in the windows' order."""

    group: int
    source: int
    first_frame: int
    valid_frames: int
    fps: float
    rows: tuple[Rows, ...]


@dataclass(frozen=True)
class Making:
    """What is made of the stored numbers."""

    statistic: Statistic
    seed: int
    dtype: torch.dtype | None
    normalization: Normalization | None
    first_frame: bool
    columns: tuple[str, ...]


Pending = list[tuple[Clip, list["Future[dict[str, Array]]"]]]


class BatchMaker:
    """Finds, reads and assembles clips of a view."""

    def __init__(self, view: View, making: Making) -> None:
        self._view, self._making = view, making
        self._contract = view.snapshot.contract
        self._names = needed_tensors(making.statistic, self._contract)
        self.reader = RowReader(view.manifest.store, self._contract, view.disk_cache)

    def find(self, group: int, numbers: Array, phase: int) -> list[Clip]:
        """Clips of a group by their numbers."""
        index, chosen = self._view.index, self._view.groups[group]
        selection = self._view.selections[group]
        found = []
        for record, offset in selection.locate(numbers, phase):
            pieces = selection.pieces(index.records, record, offset)
            head, tail = index.records[record], index.records[pieces[-1].record]
            ends = pieces[-1].offset + pieces[-1].windows == int(tail["windows"])
            missing = chosen.group.frames - int(tail["last_valid"]) if ends else 0
            rows = tuple(
                (
                    index.shard_path(chosen.group, int(index.records["shard"][p.record])),
                    int(index.records["first_row"][p.record]) + p.offset,
                    p.windows,
                )
                for p in pieces
            )
            first = int(head["first_frame"]) + offset * int(head["step"])
            if offset and offset == int(head["windows"]) - 1:
                first += int(head["last_step"]) - int(head["step"])
            valid = chosen.frames - missing
            source, fps = int(head["source"]), float(head["fps"])
            found.append(Clip(group, source, first, valid, fps, rows))
        return found

    def shape(self, group: int) -> tuple[int, int, int, int]:
        """Shape of one window's latents."""
        chosen = self._view.groups[group].group
        return latent_shape(self._contract, chosen.bucket, chosen.frames)

    def submit(self, pool: Executor, clips: Sequence[Clip]) -> Pending:
        """Start to read clips."""
        return [
            (clip, [pool.submit(self._read, clip.group, rows) for rows in clip.rows])
            for clip in clips
        ]

    def _read(self, group: int, rows: Rows) -> dict[str, Array]:
        return self.reader.read(*rows, self._names, self.shape(group))

    def gather(
        self, pending: Pending, failures: list[ShardError] | None = None
    ) -> list[tuple[Clip, list[dict[str, Array]]]]:
        """Clips that were read. Raises ``ShardError``, or puts it into ``failures``."""
        found = []
        for clip, parts in pending:
            try:
                found.append((clip, [part.result() for part in parts]))
            except ShardError as error:
                if failures is None:
                    raise
                failures.append(error)
        return found

    def assemble(self, found: Sequence[tuple[Clip, list[dict[str, Array]]]], epoch: int) -> Batch:
        """The batch of clips that were read: at least one, all of one group."""
        group = found[0][0].group
        chosen, shape = self._view.groups[group], self.shape(group)
        windows = chosen.clips.windows
        dtype = np.dtype(self._contract.dtype)
        stacked = {}
        for name in self._names:
            target = np.empty((len(found), windows, *shape), dtype)
            for row, (_, parts) in zip(target, found, strict=True):
                at = 0
                for part in parts:
                    row[at : at + len(part[name])] = part[name]
                    at += len(part[name])
            stacked[name] = torch.from_numpy(target)
        clips = [clip for clip, _ in found]
        ids = [self._view.index.source_id(clip.source) for clip in clips]
        batch: Batch = {
            **self._latents(stacked, clips, epoch),
            "ids": [
                f"{i}:{chosen.group.bucket.name}:{c.first_frame}"
                for i, c in zip(ids, clips, strict=True)
            ],
            "source_ids": ids,
            "bucket": chosen.group.bucket.name,
            "first_frames": torch.tensor([clip.first_frame for clip in clips]),
            "fps": torch.tensor([clip.fps for clip in clips]),
            "valid_frames": torch.tensor([clip.valid_frames for clip in clips]),
            "valid_mask": torch.stack([self._mask(clip, windows, shape[0]) for clip in clips]),
        }
        columns = self._view.columns
        if columns is not None and self._making.columns:
            rows = [columns.row(clip.source, self._making.columns) for clip in clips]
            batch |= {name: [row[name] for row in rows] for name in self._making.columns}
        return batch

    def _latents(
        self, stacked: dict[str, torch.Tensor], clips: Sequence[Clip], epoch: int
    ) -> Batch:
        making = self._making
        if making.statistic == "moments":
            made = {name: self._finish(tensor) for name, tensor in stacked.items()}
            return made
        latents = stacked[self._names[0]]
        if len(self._names) == 2:
            latents = draw(latents, stacked["logvar"], [self._seeds(c, epoch) for c in clips])
        if making.normalization is not None:
            latents = making.normalization.apply(latents)
        if making.dtype is None:
            latents = latents.to(stacked[self._names[0]].dtype)
        found = {"latents": self._finish(latents)}
        if making.first_frame:
            found["first_frame"] = found["latents"][:, :1]
        return found

    def _finish(self, tensor: torch.Tensor) -> torch.Tensor:
        """Clips ``(batch, latent frames, C, h, w)`` in the wanted dtype."""
        return tensor.flatten(1, 2).to(self._making.dtype or tensor.dtype)

    def _seeds(self, clip: Clip, epoch: int) -> list[int]:
        chosen = self._view.groups[clip.group]
        source = self._view.index.sources[clip.source].tobytes()
        return [
            noise_seed(
                self._making.seed,
                epoch,
                source,
                chosen.group.bucket.name,
                clip.first_frame + n * chosen.group.frames,
            )
            for n in range(chosen.clips.windows)
        ]

    def _mask(self, clip: Clip, windows: int, latents: int) -> torch.Tensor:
        """Latent frames that no repeated frame takes part in."""
        frames = self._view.groups[clip.group].frames
        free = windows * latents
        if clip.valid_frames < frames:
            last = clip.valid_frames - (frames - frames // windows)
            causal = 1 + (last - 1) // 8 if self._contract.vae_version == 2 else 0
            free = (windows - 1) * latents + causal
        return torch.arange(windows * latents) < free
