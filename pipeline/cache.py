"""Reading a published cache: a pinned snapshot as tables and tensors."""

from functools import cached_property
from typing import TYPE_CHECKING, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.buckets import Bucket
from pipeline.config import StorageConfig
from pipeline.contract import Contract
from pipeline.live import explode, join_columns, live_generations, present_sources
from pipeline.manifest import Manifest, Snapshot
from pipeline.reader.rows import RowReader
from pipeline.recipe import latent_shape
from pipeline.shards import ShardError, checksum, repair
from pipeline.storage import Store

if TYPE_CHECKING:
    import torch


class LatentCache:
    """One snapshot of a cache. It never changes, whatever runs write meanwhile.

    Make one with ``open``. Attributes: ``snapshot`` (number, run, table versions) and ``contract``.
    """

    def __init__(self, manifest: Manifest, snapshot: Snapshot) -> None:
        self._manifest = manifest
        self.snapshot = snapshot

    @classmethod
    def open(
        cls, uri: str, snapshot: int | None = None, storage: StorageConfig | None = None
    ) -> Self:
        """Open a cache at a snapshot (default: the newest at this moment).

        ``storage`` holds endpoint and region of an S3 store. Raises ``UserError`` when there is no
        cache or no such snapshot, ``ContractError`` when its format is of another version.
        """
        manifest = Manifest(Store(uri, storage or StorageConfig()))
        return cls(manifest, manifest.snapshot(snapshot))

    @property
    def contract(self) -> Contract:
        """What holds for every sample."""
        return self.snapshot.contract

    def _table(self, name: str) -> pa.Table:
        version = self.snapshot.tables.get(name)
        # A table without a version had no row when the snapshot was published.
        if version is None:
            return self._manifest.empty(name)
        return self._manifest.read(name, version)

    @cached_property
    def _sources(self) -> pa.Table:
        return self._table("sources")

    def sources(self) -> pa.Table:
        """One row per source of the dataset: its newest state, caption and pass-through columns.

        ``status`` is ok, skipped or failed, with ``reason`` and ``message``; the other columns are
        those of the table ``sources`` (``docs/cache-format.md``).
        """
        return join_columns(present_sources(self._sources), self._table("captions"))

    def samples(self) -> pa.Table:
        """One row per live window, ordered by source, bucket and window.

        Columns: sample_id, source_id, generation, bucket, height, width, window, first_frame (the
        source's output frame that it begins with), frames (17, or 1 for an image), valid_frames,
        fps, start_time and frame_times (seconds), pts with time_base_num and time_base_den,
        geometry, shard, row, checksum, statistic, dtype, and more of the table ``samples``.
        """
        return self._samples

    @cached_property
    def _samples(self) -> pa.Table:
        live = live_generations(self._sources, self.contract.contract_id)
        segments = self._table("samples")
        wanted = pc.is_in(segments["generation"], live["generation"].combine_chunks())
        return explode(segments.filter(wanted))

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self._samples["sample_id"].to_pylist())}

    @cached_property
    def _rows(self) -> RowReader:
        return RowReader(self._manifest.store, self.contract)

    def __getitem__(self, sample_id: str) -> "dict[str, torch.Tensor]":
        """``read``."""
        return self.read(sample_id)

    def read(self, sample_id: str) -> "dict[str, torch.Tensor]":
        """The tensors of a sample by statistic: ``mean`` (and ``logvar``), or ``sample``.

        Each is ``(t, C, h, w)`` in the stored dtype. Raises ``KeyError`` for an unknown id,
        ``ShardError`` when the stored bytes are missing or are not those that were written, and
        ``StoreError`` when the store cannot be read: nothing is known of them then.
        """
        import torch

        if sample_id not in self._places:
            raise KeyError(f"no live sample {sample_id!r} in snapshot {self.snapshot.number}")
        row = self._samples.slice(self._places[sample_id], 1).to_pylist()[0]
        shape = latent_shape(self.contract, Bucket.parse(row["bucket"]), row["frames"])
        found = {name: np.empty((1, *shape), self.contract.dtype) for name in self.contract.tensors}
        self._rows.read(row["shard"], row["row"], found)
        if checksum([array[0] for array in found.values()]) != row["checksum"]:
            uri = self._manifest.store.uri
            raise ShardError(
                f"{uri}/{row['shard']}, row {row['row']}: the bytes of sample {sample_id} are not "
                f"those that were written; {repair(uri)}"
            )
        return {name: torch.from_numpy(array[0]) for name, array in found.items()}
