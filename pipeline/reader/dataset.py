"""``LatentDataset``: batches of clips of a pinned snapshot, for ``torch.utils.data.DataLoader``."""

import contextlib
import itertools
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import pyarrow.compute as pc
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from pipeline.config import StorageConfig
from pipeline.contract import Contract, Expectation
from pipeline.errors import UserError
from pipeline.identity import stable_hash
from pipeline.manifest import Manifest
from pipeline.reader.arguments import (
    check_choices,
    check_counts,
    check_kinds,
    check_steps,
    expectation,
    lengths,
    ranks,
)
from pipeline.reader.batches import Batch, BatchMaker, Clip, Found, Making, Pending
from pipeline.reader.disk_cache import open_disk_cache
from pipeline.reader.draw import Normalization, Statistic, needed_tensors
from pipeline.reader.epoch import Epoch
from pipeline.reader.local import LocalFolder, default_folder
from pipeline.reader.map_style import LatentMap
from pipeline.reader.order import Division, Remainder
from pipeline.reader.state import Position, SharedPosition, shared_bytes
from pipeline.reader.statistics import normalization_of
from pipeline.reader.view import Choice, Weights, open_view
from pipeline.shards import ShardError
from pipeline.storage import Store

_SUBSTITUTES = 64
"""Clips that are tried where all of a batch are damaged."""


class LatentDataset(IterableDataset[Batch]):
    """Batches of clips of one snapshot; give it to a ``DataLoader`` with ``batch_size=None``.

    A batch is a dict: ``latents`` ``(batch, latent frames, channels, h, w)`` (for
    ``statistic="moments"``: ``mean`` and ``logvar``), ``ids`` (``<source_id>:<bucket>:<first
    frame>``), ``source_ids``, ``bucket``, ``first_frames`` (output frame of the source at which
    each begins), ``fps``, ``valid_frames`` (real pixel frames), ``valid_mask`` ``(batch, latent
    frames)`` (false where repeated frames took part), ``position`` and every column asked for.

    All clips of a batch, and of a step on all ranks, are of one bucket. The order follows from
    ``seed`` and the epoch (``set_epoch``), whatever the number of workers.
    """

    def __init__(
        self,
        uri: str,
        snapshot: int | None = None,
        *,
        clip_frames: int | Sequence[int] = 17,
        batch_size: int = 1,
        expect: Expectation | Contract | None = None,
        statistic: Statistic = "sample",
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        shuffle: bool = True,
        columns: Sequence[str] = (),
        clip_stride: int | None = None,
        allow_padded: bool = False,
        first_frame: bool = False,
        filter: pc.Expression | None = None,  # noqa: A002
        weights: Weights | None = None,
        remainder: Remainder = "short",
        dtype: torch.dtype | None = None,
        normalize: Normalization | str | Path | None = None,
        on_damage: Literal["raise", "skip"] = "raise",
        storage: StorageConfig | None = None,
        local_dir: str | Path | None = None,
        disk_cache: str | Path | None = None,
        disk_cache_bytes: int | None = None,
        prefetch: int = 2,
        reads: int = 16,
    ) -> None:
        """Open a snapshot (default: the newest at this moment; it stays pinned).

        Args:
            uri: root of the cache, a path or ``s3://…``.
            snapshot: its number.
            clip_frames: pixel frames of a clip: 17·k, or 1 for images; or several of these.
            batch_size: clips of a batch on each rank.
            expect: what the trainer needs (``Contract.matching(...)``), or a whole contract.
            statistic: ``sample`` (drawn anew in each epoch, or as stored), ``mean``, ``moments``.
            seed: decides order and draws.
            rank, world_size: default: those of ``torch.distributed`` if it is initialised.
            shuffle: whether clips are permuted within their bucket.
            columns: columns of ``LatentCache.sources()``, as lists in the batch.
            clip_stride: windows from one clip's begin to the next; default: as many as a clip has,
                1: clips at all offsets.
            allow_padded: whether a clip may end with a window that repeats frames.
            first_frame: also give ``first_frame``, ``(batch, 1, channels, h, w)``: the latent of
                the first frame alone (version 2).
            filter: an expression over the columns of ``LatentCache.sources()`` and ``bucket``,
                ``bucket_height``, ``bucket_width``, ``frames``, ``fps``, ``first_frame`` of a
                segment; what it leaves out is a gap.
            weights: by bucket name, or the column that holds them: how often a clip stands in an
                epoch on average, 0 to 1000.
            remainder: ``short``: the last steps of a bucket are shorter, and only where a bucket
                has fewer clips than ranks (or ``batch_size`` is 1) are some left out; ``drop``:
                whole batches alone.
            dtype: of the latents; default: as stored.
            normalize: applied to the latents: ``Normalization``, or the path or URI of what
                ``jobs/maintain_cache.py stats`` wrote (then each channel gets mean 0 and standard
                deviation 1). Refused where the cache is normalised.
            on_damage: ``skip`` leaves clips of damaged or missing shards out, warns, and counts
                them in the batch (``skipped``). A store that cannot be read is ``StoreError``.
            storage: endpoint and region of an S3 store.
            local_dir: what readers of this machine share; default: below the temporary folder.
            disk_cache: a folder of this machine that keeps what was read from S3, for all its
                processes; unused where the cache is local.
            disk_cache_bytes: how much it may hold; what was not used for longest goes first.
            prefetch: batches that are read ahead, in each worker: from S3, or from a disk into the
                system's page cache.
            reads: requests to S3 at once, in each worker.

        Raises:
            UserError: no such snapshot, column, or value; ``ContractError`` among these: the cache
                does not fit ``expect``, ``statistic`` or ``normalize``.
        """
        super().__init__()
        check_counts(batch_size=(batch_size, 1), prefetch=(prefetch, 0), reads=(reads, 1))
        check_choices(
            statistic=(statistic, ("sample", "mean", "moments")),
            remainder=(remainder, ("short", "drop")),
            on_damage=(on_damage, ("raise", "skip")),
        )
        check_kinds(
            columns=columns,
            condition=filter,
            weights=weights,
            dtype=dtype,
            normalize=normalize,
            first_frame=first_frame,
            statistic=statistic,
        )
        storage = storage or StorageConfig()
        manifest = Manifest(Store(uri, storage))
        self.snapshot = manifest.snapshot(snapshot)
        contract = self.snapshot.contract
        origin = f"{manifest.store.uri}, snapshot {self.snapshot.number},"
        expectation(expect).check(contract, origin)
        if first_frame and contract.vae_version != 2:
            raise UserError("first_frame: only version 2 of the VAE encodes the first frame alone")
        needed_tensors(statistic, contract)
        self.normalization = normalization_of(normalize, statistic, contract, storage)
        self.rank, self.world_size = ranks(rank, world_size)
        self.batch_size, self._seed, self._shuffle = batch_size, seed, shuffle
        self._remainder: Remainder = remainder
        self._on_damage, self._prefetch, self._reads = on_damage, prefetch, reads
        choice = Choice(
            lengths(clip_frames), clip_stride, allow_padded, filter, weights, tuple(columns)
        )
        local = LocalFolder(Path(local_dir) if local_dir is not None else default_folder())
        kept = open_disk_cache(disk_cache, disk_cache_bytes)
        self._view = open_view(manifest, self.snapshot, local, choice)
        self._view.disk_cache = None if manifest.store.local else kept
        self._making = Making(
            statistic, seed, dtype, self.normalization, first_frame, tuple(columns)
        )
        self._sizes = tuple(len(selection) for selection in self._view.selections)
        self._identity = stable_hash(
            [seed, shuffle, remainder, *(g.folder.name for g in self._view.groups)]
        )
        first = self._begin(0)
        check_steps(origin, clip_frames, self.clips, self._division(first))
        self._position = SharedPosition(first)
        self._by_workers, self._loaded = shared_bytes(1), shared_bytes(1)
        self._own: Position | None = None  # of the batches that this process makes
        self._counted: Position | None = None  # of those that ``loader`` gives out
        self._resumed: Position | None = None  # a worker's own state, for its next iteration

    @property
    def contract(self) -> Contract:
        """What holds for every sample of the snapshot."""
        return self.snapshot.contract

    @property
    def clips(self) -> dict[str, int]:
        """Clips of an epoch, of all ranks, by bucket and length (``h544w992x34``)."""
        names = (group.name for group in self._view.groups)
        return dict(zip(names, self._sizes, strict=True))

    def __len__(self) -> int:
        """Batches that this rank (every rank) gets in what is left of the epoch."""
        position = self._position.get()
        return self._division(position).steps - position.steps

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch, counted from 0: another order, other draws. Workers may be at rest.

        Where ``load_state_dict`` went into the middle of this epoch and nothing was read since, the
        place stays.
        """
        check_counts(epoch=(epoch, 0))
        resumed = bool(self._loaded[0]) and self._position.get().epoch == epoch
        self._go_to(self._position.get() if resumed else self._begin(epoch))

    def _go_to(self, position: Position) -> None:
        """Where the next iteration begins, in this process or in workers."""
        self._own = self._counted = None
        self._by_workers[0] = self._loaded[0] = 0
        self._position.set(position)

    def _begin(self, epoch: int) -> Position:
        return Position(epoch, (0,) * len(self._sizes), self.world_size, self.batch_size, 0)

    def _division(self, position: Position) -> Division:
        return Division(
            self._sizes,
            position.begun,
            position.world_size,
            position.batch_size,
            self._remainder,
        )

    # ---- state

    def state_dict(self, batch: Batch | None = None) -> dict[str, Any]:
        """Where the epoch stands, as JSON can hold it; the same on all ranks.

        ``batch``: the last batch that was trained on. It may be left out where this process makes
        the batches (no workers), or within ``loader`` or ``StatefulDataLoader``. Raises
        ``UserError`` where it would be wrong without.
        """
        if batch is not None:
            position = self._after(Position.from_dict(batch["position"]))
        elif self._counted is not None:
            position = self._counted
        elif get_worker_info() is None and bool(self._by_workers[0]):
            raise UserError(
                "state_dict: the batches were made by worker processes, which read ahead; give the "
                "last batch, state_dict(batch), or iterate over dataset.loader(num_workers=...)"
            )
        else:
            position = self._own or self._position.get()
        return {"reader": self._identity, **asdict(position)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` stood: at the next batch, with any number of workers.

        With another ``world_size`` or ``batch_size`` the rest of the epoch is divided anew. Raises
        ``UserError`` for a state of other clips, another order or another snapshot.
        """
        if state.get("reader") != self._identity:
            raise UserError(
                "load_state_dict: the state is of another snapshot, seed, selection of clips or "
                "order; open the dataset with the arguments that it was saved with"
            )
        position = Position.from_dict({n: v for n, v in state.items() if n != "reader"})
        info = get_worker_info()
        if position.worker is not None:
            mine = (0, 1) if info is None else (info.id, info.num_workers)
            if position.worker != mine:
                raise UserError(
                    f"load_state_dict: the state is of worker {position.worker[0]} of "
                    f"{position.worker[1]}; resume with the same num_workers"
                )
        if (position.world_size, position.batch_size) != (self.world_size, self.batch_size):
            if position.worker is not None and position.worker[1] > 1:
                raise UserError(
                    "load_state_dict: the states of StatefulDataLoader's workers are each of "
                    "another step, and cannot be divided anew; resume with world_size "
                    f"{position.world_size} and batch_size {position.batch_size}, or keep "
                    "dataset.state_dict(batch) instead"
                )
            begun = self._division(position).given(position.steps)
            position = Position(position.epoch, begun, self.world_size, self.batch_size, 0)
        if info is not None:  # the others have states of their own
            self._resumed = position
            return
        self._go_to(position)
        self._loaded[0] = 1

    def _after(self, position: Position) -> Position:
        """The position behind a batch; behind the last, the next epoch's first."""
        behind = replace(position, steps=position.steps + 1)
        if behind.steps >= self._division(behind).steps:
            return self._begin(position.epoch + 1)
        return behind

    def loader(self, num_workers: int = 0, **options: Any) -> Iterator[Batch]:
        """The epoch through a ``DataLoader``; ``state_dict()`` needs no batch then.

        It begins where ``set_epoch`` or ``load_state_dict`` went, and at its end the next epoch
        begins. ``options`` are the DataLoader's own.
        """
        for batch in DataLoader(self, batch_size=None, num_workers=num_workers, **options):
            self._counted = self._after(Position.from_dict(batch["position"]))
            yield batch
        self.set_epoch(self._position.get().epoch + 1)

    # ---- reading

    def __iter__(self) -> Iterator[Batch]:
        """Batches of this rank (in a worker: every ``num_workers``-th) from the position on."""
        # At once and not with the first batch: StatefulDataLoader asks for the state before.
        begun, self._resumed = self._resumed or self._position.get(), None
        self._own, self._counted = begun, None
        self._by_workers[0] = get_worker_info() is not None
        self._loaded[0] = 0
        return self._batches(begun)

    def _batches(self, begun: Position) -> Iterator[Batch]:
        info = get_worker_info()
        number, workers = (0, 1) if info is None else (info.id, info.num_workers)
        own = begun.worker is not None
        division = self._division(begun)
        steps = range(begun.steps + (0 if own else number), division.steps, workers)
        maker = BatchMaker(self._view, self._making, self._reads)
        remote = not self._view.manifest.store.local
        epoch = Epoch(maker, self.clips, self._seed, begun.epoch, self._shuffle)
        with ThreadPoolExecutor(self._reads) if remote else contextlib.nullcontext() as pool:
            ahead: deque[tuple[int, range, int, Sequence[Clip], Pending | None]] = deque()
            todo = iter(steps)

            def fill() -> None:
                for step in itertools.islice(todo, 1 + self._prefetch - len(ahead)):
                    group, positions = division.batch(step, self.rank)
                    clips = epoch.clips(group, positions)
                    pending = None if pool is None else maker.submit(clips, pool)
                    if pending is None:
                        maker.expect(clips)
                    ahead.append((group, positions, step, clips, pending))

            try:
                while True:
                    fill()
                    if not ahead:
                        break
                    group, positions, step, clips, pending = ahead.popleft()
                    if pending is None:
                        pending = maker.submit(clips)
                    position = replace(begun, steps=step, worker=None)
                    found, skipped = self._found(maker, epoch, group, positions, pending)
                    batch = maker.assemble(found, begun.epoch)
                    if self._on_damage == "skip":
                        batch["skipped"] = skipped
                    batch["position"] = dict(vars(position))
                    del pending, found
                    if info is None:
                        self._own = self._after(position)
                    else:
                        self._own = replace(
                            position, steps=step + workers, worker=(number, workers)
                        )
                    yield batch
                    del batch
            finally:
                for *_, pending in ahead:
                    if pending is not None:
                        pending.cancel()

    def _found(
        self, maker: BatchMaker, epoch: Epoch, group: int, positions: range, pending: Pending
    ) -> tuple[Found, int]:
        """The clips of a batch that were read, and how many were skipped."""
        if self._on_damage == "raise":
            return maker.gather(pending), 0
        failures: list[ShardError] = []
        found = maker.gather(pending, failures)
        size = self._sizes[group]
        for n in range(_SUBSTITUTES):  # only where nothing is left: a batch is never empty
            if found.clips:
                break
            at = (positions.stop + n) % size
            clips = epoch.clips(group, range(at, at + 1))
            found = maker.gather(maker.submit(clips), failures)
        for error in failures:
            warnings.warn(f"skipped: {error}", stacklevel=2)
        if not found.clips:
            raise failures[0]
        return found, len(failures)

    def map_style(self) -> LatentMap:
        """All clips of the snapshot that fit, one by one, in a fixed order: for evaluation."""
        return LatentMap(self._view, self._making)
