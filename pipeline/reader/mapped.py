"""Bytes of shards of a local cache: files that are mapped."""

import mmap
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from pipeline.reader.disk_cache import Data
from pipeline.reader.remote import Range, reaching
from pipeline.storage import Store

_KEPT_MAPS = 64
_POPULATE_READ = 22  # Linux 5.14: the pages at once, without a fault for each


class Maps:
    """Files of a store that were mapped lately."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._maps: OrderedDict[str, mmap.mmap] = OrderedDict()

    def get(self, path: str) -> mmap.mmap:
        """The map of a file. Raises ``FileNotFoundError``, ``ValueError`` (empty), ``StoreError``.

        It is unmapped when it is no longer kept and its last view is gone.
        """
        mapped = self._maps.get(path)
        if mapped is None:
            with reaching(self._store), (Path(self._store.uri) / path).open("rb") as file:
                mapped = _map(file.fileno())
            if mapped is None:
                raise ValueError("it is empty")
            self._maps[path] = mapped
            if len(self._maps) > _KEPT_MAPS:
                self._maps.popitem(last=False)
        self._maps.move_to_end(path)
        return mapped

    def release(self) -> None:
        """Let go of the pages that were read: the memory stays small."""
        for mapped in self._maps.values():
            mapped.madvise(mmap.MADV_DONTNEED)


def _map(file: int) -> mmap.mmap | None:
    try:
        return mmap.mmap(file, 0, prot=mmap.PROT_READ)
    except ValueError:  # nothing can be mapped
        return None


class MappedShard:
    """A shard of a local cache."""

    splits = False

    def __init__(self, maps: Maps, path: str) -> None:
        self._maps, self.path = maps, path

    def head(self, begin: int, end: int) -> bytes:
        """The bytes ``[begin, end)``, as far as there are any."""
        return self._maps.get(self.path)[begin:end]

    def tail(self, count: int) -> bytes:
        """The last bytes of the file, as far as there are any."""
        return self._maps.get(self.path)[-count:]

    def ranges(self, wanted: Sequence[Range], gap: int = 0) -> list[Data]:
        """The data of ranges. Raises ``ValueError`` where the file ends before."""
        mapped = self._maps.get(self.path)
        found: list[Data] = []
        for begin, end in wanted:
            if end > len(mapped):
                raise ValueError(f"it ends {end - len(mapped)} bytes too early")
            _advise(mapped, begin, end)
            found.append(memoryview(mapped)[begin:end])
        return found


def _advise(mapped: mmap.mmap, begin: int, end: int) -> None:
    """Bring pages in with one call."""
    aligned = begin // mmap.PAGESIZE * mmap.PAGESIZE
    try:
        mapped.madvise(_POPULATE_READ, aligned, end - aligned)
    except OSError:  # an older kernel: the pages come one by one
        return
