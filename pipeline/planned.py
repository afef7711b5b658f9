"""What a plan holds: its sources, in order and found by id, and its units; both compressed.

A plan may have millions of them, and of each but a few are looked at together.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, ValuesView
from typing import Any, Self, overload

import numpy as np
import numpy.typing as npt

from pipeline.buckets import Bucket
from pipeline.packed import Packed
from pipeline.sources import SourcePlan
from pipeline.units import Unit

_IDS = 8192
"""Ids that are gathered before they become bytes."""


def file_order(file: tuple[str, str | None]) -> tuple[str, str]:
    """Order of files."""
    return file[0], file[1] or ""


def place(source: SourcePlan) -> tuple[Any, ...]:
    """Order of sources: by file, and by start within it."""
    return file_order(source.file), source.start or 0.0, source.source_id


class PlannedSources(Mapping[str, SourcePlan]):
    """Sources by id, in the order of ``place``.

    Attributes:
        refused: how many are known not to be readable.
        buckets: at which some of them are to be encoded.
        known: samples held already that windows of theirs may turn out to be.
    """

    def __init__(self, sources: Iterable[SourcePlan] = ()) -> None:
        """``sources`` come in order; ``of`` takes them in any."""
        self.refused = self.known = 0
        self.buckets: set[Bucket] = set()
        self._sources: Packed[SourcePlan] = Packed()
        self._settled: list[int] = []
        ids: list[str] = []
        parts: list[npt.NDArray[np.bytes_]] = []
        for source in sources:
            if source.failure is not None:
                self.refused += 1
            self.known += sum(run.windows for run in source.known)
            if source.settled:
                self._settled.append(len(self._sources))
            else:
                self.buckets.update(source.buckets)
            self._sources.append(source)
            ids.append(source.source_id)
            if len(ids) == _IDS:
                parts.append(np.array(ids, np.bytes_))
                ids.clear()
        parts.append(np.array(ids, np.bytes_))
        every = np.concatenate(parts)
        del parts
        self._at = np.argsort(every).astype(np.uint32)
        self._ids = every[self._at]

    @classmethod
    def of(cls, sources: Iterable[SourcePlan]) -> Self:
        """From sources in any order."""
        return cls(sorted(sources, key=place))

    @property
    def nbytes(self) -> int:
        """Bytes that they take."""
        return self._sources.nbytes + self._ids.nbytes + self._at.nbytes

    def find(self, source_id: str) -> int | None:
        """The number of a source in the order; None for one that is not there."""
        wanted = source_id.encode()
        index = int(np.searchsorted(self._ids, np.bytes_(wanted)))
        if index == len(self._ids) or self._ids[index] != wanted:
            return None
        return int(self._at[index])

    def at(self, number: int) -> SourcePlan:
        """The source of a number."""
        return self._sources[number]

    def settled(self) -> Iterator[tuple[int, SourcePlan]]:
        """Numbers and sources that the plan alone brings to an end."""
        return ((number, self._sources[number]) for number in self._settled)

    def __getitem__(self, source_id: str) -> SourcePlan:
        number = self.find(source_id)
        if number is None:
            raise KeyError(source_id)
        return self._sources[number]

    def __len__(self) -> int:
        return len(self._sources)

    def __iter__(self) -> Iterator[str]:
        for index in np.argsort(self._at):
            yield self._ids[index].decode()

    def values(self) -> ValuesView[SourcePlan]:
        """The sources, in order."""
        return _Values(self)


class _Values(ValuesView[SourcePlan]):
    def __init__(self, mapping: PlannedSources) -> None:
        super().__init__(mapping)
        self._sources = mapping._sources

    def __iter__(self) -> Iterator[SourcePlan]:
        return iter(self._sources)


class PlannedUnits(Sequence[Unit]):
    """The units of a plan, in order.

    Attributes:
        packs: that they are expected to make.
        windows: estimated, to encode, by bucket.
    """

    def __init__(self, units: Iterable[Unit] = ()) -> None:
        self.packs = 0
        self.windows: Counter[Bucket] = Counter()
        self._units: Packed[Unit] = Packed()
        for unit in units:
            self.append(unit)

    def append(self, unit: Unit) -> None:
        """Add one at the end."""
        self.packs += unit.pack_count()
        for file in unit.files:
            for clip in file.clips:
                for bucket in clip.buckets:
                    self.windows[bucket] += clip.windows // len(clip.buckets)
        self._units.append(unit)

    def extend(self, units: "PlannedUnits") -> None:
        """Add those of another plan at the end."""
        self.packs += units.packs
        self.windows.update(units.windows)
        self._units.extend(units._units)

    @property
    def nbytes(self) -> int:
        """Bytes that they take."""
        return self._units.nbytes

    def __len__(self) -> int:
        return len(self._units)

    def __iter__(self) -> Iterator[Unit]:
        return iter(self._units)

    @overload
    def __getitem__(self, index: int) -> Unit: ...

    @overload
    def __getitem__(self, index: slice) -> list[Unit]: ...

    def __getitem__(self, index: int | slice) -> Unit | list[Unit]:
        """A unit, or a list of them."""
        return self._units[index]
