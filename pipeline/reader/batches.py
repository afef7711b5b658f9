"""Clips as tensors: which rows a clip needs, and what is made of them."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from pipeline.reader.batch_memory import BatchMemory
from pipeline.reader.draw import Normalization, Statistic, draw, needed_tensors, noise_seed
from pipeline.reader.here import Part, Read, Together
from pipeline.reader.index import Array
from pipeline.reader.rows import RowReader
from pipeline.reader.view import View
from pipeline.recipe import latent_shape
from pipeline.shards import ShardError

Batch = dict[str, Any]

_Begin = Callable[[str, int, dict[str, Array]], Read]

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


@dataclass(frozen=True)
class Pending:
    """A batch whose clips are being read into its memory.

    ``tensors``: by statistic ``(clips, windows, t, C, h, w)``, in the stored dtype; ``reads``: of
    each clip.
    """

    clips: Sequence[Clip]
    tensors: dict[str, torch.Tensor]
    reads: Sequence[Sequence[Read]]

    def cancel(self) -> None:
        """Begin no more reads."""
        for reads in self.reads:
            for read in reads:
                read.cancel()


@dataclass(frozen=True)
class Found:
    """Clips that were read, and their tensors, as in ``Pending``."""

    clips: Sequence[Clip]
    tensors: dict[str, torch.Tensor]


def _each(
    begin: _Begin,
    clip: Clip,
    number: int,
    arrays: Mapping[str, Array],
) -> list[Read]:
    """A read for each of the rows of a clip, into its place in the batch."""
    reads, at = [], 0
    for path, first, count in clip.rows:
        into = {name: array[number, at : at + count] for name, array in arrays.items()}
        reads.append(begin(path, first, into))
        at += count
    return reads


def _following(clips: Sequence[Clip]) -> Iterator[range]:
    """Runs of clips, of one piece each, whose rows follow each other in one shard."""
    start = 0
    for number in range(1, len(clips) + 1):
        if number < len(clips):
            *others, (path, first, count) = clips[number - 1].rows
            if not others and clips[number].rows == ((path, first + count, count),):
                continue
        yield range(start, number)
        start = number


class BatchMaker:
    """Finds, reads and assembles clips of a view."""

    def __init__(self, view: View, making: Making, threads: int = 1) -> None:
        """``threads``: how many read at once."""
        self._view, self._making = view, making
        self._contract = view.snapshot.contract
        self._names = needed_tensors(making.statistic, self._contract)
        self._shapes = [
            latent_shape(self._contract, chosen.group.bucket, chosen.group.frames)
            for chosen in view.groups
        ]
        self._memory = BatchMemory()
        self.reader = RowReader(view.manifest.store, self._contract, view.disk_cache, threads)

    def find(self, group: int, numbers: Array, phase: int) -> list[Clip]:
        """Clips of a group by their numbers."""
        index, chosen = self._view.index, self._view.groups[group]
        selection = self._view.selections[group]
        found = []
        for record, offset in selection.locate(numbers, phase):
            pieces = selection.pieces(index.records, record, offset)
            parts = [index.record(piece.record) for piece in pieces]
            head, tail = parts[0], parts[-1]
            ends = pieces[-1].offset + pieces[-1].windows == tail.windows
            missing = chosen.group.frames - tail.last_valid if ends else 0
            rows = tuple(
                (index.shard_path(chosen.group, part.shard), part.first_row + p.offset, p.windows)
                for p, part in zip(pieces, parts, strict=True)
            )
            first = head.first_frame + offset * head.step
            if offset and offset == head.windows - 1:
                first += head.last_step - head.step
            valid = chosen.frames - missing
            found.append(Clip(group, head.source, first, valid, head.fps, rows))
        return found

    def shape(self, group: int) -> tuple[int, int, int, int]:
        """Shape of one window's latents."""
        return self._shapes[group]

    def expect(self, clips: Sequence[Clip]) -> None:
        """Clips of a local cache, of one group, that will be read soon."""
        values = math.prod(self.shape(clips[0].group))
        size = values * np.dtype(self._contract.dtype).itemsize
        for clip in clips:
            for path, first, count in clip.rows:
                self.reader.expect(path, first, count, self._names, size)

    def submit(self, clips: Sequence[Clip], pool: Executor | None = None) -> Pending:
        """Start to read clips, at least one, all of one group; without a pool ``gather`` reads."""
        group = clips[0].group
        shape = (len(clips), self._view.groups[group].clips.windows, *self.shape(group))
        given = self._memory.tensors(self._names, shape, self._contract.dtype)
        tensors = dict(zip(self._names, given, strict=True))
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        reads: list[Sequence[Read]] = []
        if pool is None:
            for run in _following(clips):
                reads += self._together(clips, run, arrays)
        else:
            submit = pool.submit

            def begin(path: str, first: int, into: dict[str, Array]) -> Read:
                return submit(self.reader.read, path, first, into)

            reads += [_each(begin, clip, number, arrays) for number, clip in enumerate(clips)]
        return Pending(clips, tensors, reads)

    def _together(
        self, clips: Sequence[Clip], run: range, arrays: Mapping[str, Array]
    ) -> list[Sequence[Read]]:
        """Reads of clips that follow each other in a shard, for each of them."""
        alone = [partial(_each, self.reader.later, clips[n], n, arrays) for n in run]
        if len(run) == 1:
            return [alone[0]()]
        path, first, _ = clips[run.start].rows[0]
        into = {
            name: array[run.start : run.stop].reshape(-1, *array.shape[2:])
            for name, array in arrays.items()
        }
        whole = Together(self.reader.later(path, first, into))
        return [[Part(whole, reads)] for reads in alone]

    def gather(self, pending: Pending, failures: list[ShardError] | None = None) -> Found:
        """The clips that were read. Raises ``ShardError``, or puts it into ``failures``."""
        sound = []
        for number, reads in enumerate(pending.reads):
            try:
                for read in reads:
                    read.result()
                sound.append(number)
            except ShardError as error:
                if failures is None:
                    raise
                failures.append(error)
        if len(sound) == len(pending.clips):
            return Found(pending.clips, pending.tensors)
        chosen = {name: tensor[sound] for name, tensor in pending.tensors.items()}
        return Found([pending.clips[number] for number in sound], chosen)

    def assemble(self, found: Found, epoch: int) -> Batch:
        """The batch of clips that were read: at least one, all of one group."""
        clips = found.clips
        group = clips[0].group
        chosen, shape = self._view.groups[group], self.shape(group)
        windows = chosen.clips.windows
        ids = [self._view.index.source_id(clip.source) for clip in clips]
        bucket = chosen.group.bucket.name
        batch: Batch = {
            **self._latents(found.tensors, clips, epoch),
            "ids": [f"{i}:{bucket}:{c.first_frame}" for i, c in zip(ids, clips, strict=True)],
            "source_ids": ids,
            "bucket": bucket,
            "first_frames": torch.tensor([clip.first_frame for clip in clips]),
            "fps": torch.tensor([clip.fps for clip in clips]),
            "valid_frames": torch.tensor([clip.valid_frames for clip in clips]),
            "valid_mask": self._mask(clips, windows, shape[0]),
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
            mean, latents = latents, self._memory.scratch(latents.shape)
            draw(latents, mean, stacked["logvar"], [self._seeds(c, epoch) for c in clips])
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

    def _mask(self, clips: Sequence[Clip], windows: int, latents: int) -> torch.Tensor:
        """Latent frames that no repeated frame takes part in, ``(clips, latent frames)``."""
        frames = self._view.groups[clips[0].group].frames
        free = []
        for clip in clips:
            free.append(windows * latents)
            if clip.valid_frames < frames:
                last = clip.valid_frames - (frames - frames // windows)
                causal = 1 + (last - 1) // 8 if self._contract.vae_version == 2 else 0
                free[-1] = (windows - 1) * latents + causal
        return torch.arange(windows * latents) < torch.tensor(free)[:, None]
