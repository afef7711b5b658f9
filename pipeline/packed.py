"""Sequences of millions of small objects, kept as compressed bytes and read some at a time."""

import bisect
import io
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from itertools import islice
from operator import attrgetter
from typing import Any, Generic, TypeVar, overload

import pyarrow as pa

T = TypeVar("T")

CHUNK = 128
"""Items that are compressed together."""

_RECENT = 32
"""Chunks that stay objects where items are looked up one by one."""

_CODEC = "zstd"


class Packed(Sequence[T], Generic[T]):
    """Items in chunks, each pickled and compressed; those added last are objects until a chunk
    is full.

    What is read is equal to what was added, and not the same object.
    """

    def __init__(self, items: Iterable[T] = ()) -> None:
        self._chunks: list[tuple[bytes, int]] = []  # and the size of what was compressed
        self._starts: list[int] = []
        self._sealed = 0
        self._last: list[T] = []
        self._recent: dict[int, list[T]] = {}
        self.extend(items)

    def append(self, item: T) -> None:
        """Add one item at the end."""
        self._last.append(item)
        if len(self._last) == CHUNK:
            self._seal()

    def extend(self, items: Iterable[T]) -> None:
        """Add items at the end; those of a ``Packed`` as they are."""
        if not isinstance(items, Packed):
            for item in items:
                self.append(item)
            return
        self._seal()
        self._chunks += items._chunks
        self._starts += [self._sealed + start for start in items._starts]
        self._sealed += items._sealed
        for item in items._last:
            self.append(item)

    @property
    def nbytes(self) -> int:
        """Bytes of the chunks."""
        return sum(len(data) for data, _ in self._chunks)

    def __len__(self) -> int:
        return self._sealed + len(self._last)

    def __iter__(self) -> Iterator[T]:
        return self._from(0)

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> list[T]: ...

    def __getitem__(self, index: int | slice) -> T | list[T]:
        """An item, or a list of them."""
        if isinstance(index, slice):
            wanted = range(*index.indices(len(self)))
            if wanted.step != 1:
                return [self[n] for n in wanted]
            return list(islice(self._from(wanted.start), len(wanted)))
        at = range(len(self))[index]
        if at >= self._sealed:
            return self._last[at - self._sealed]
        number = bisect.bisect_right(self._starts, at) - 1
        if number not in self._recent:
            if len(self._recent) == _RECENT:
                del self._recent[next(iter(self._recent))]
            self._recent[number] = self._load(number)
        return self._recent[number][at - self._starts[number]]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_recent": {}}

    def _from(self, first: int) -> Iterator[T]:
        """The items from one on."""
        begin = bisect.bisect_right(self._starts, first) - 1 if first < self._sealed else None
        if begin is not None:
            yield from self._load(begin)[first - self._starts[begin] :]
            for number in range(begin + 1, len(self._chunks)):
                yield from self._load(number)
        yield from self._last[max(0, first - self._sealed) :]

    def _load(self, number: int) -> list[T]:
        data, size = self._chunks[number]
        items: list[T] = pickle.loads(pa.decompress(data, size, _CODEC, asbytes=True))
        return items

    def _seal(self) -> None:
        if not self._last:
            return
        sink = io.BytesIO()
        pickler = pickle.Pickler(sink, pickle.HIGHEST_PROTOCOL)
        pickler.dispatch_table = _Reducers()  # type: ignore[assignment]
        pickler.dump(self._last)
        data = sink.getvalue()
        self._chunks.append((pa.compress(data, _CODEC, asbytes=True), len(data)))
        self._starts.append(self._sealed)
        self._sealed += len(self._last)
        self._last = []


def in_batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Items in order, so many at a time."""
    left = iter(items)
    while batch := list(islice(left, size)):
        yield batch


class _Reducers:
    """How dataclasses are pickled here: as a call with their fields, in a third of the time."""

    def __getitem__(self, kind: type) -> Callable[[Any], tuple[type, tuple[Any, ...]]]:
        return _reducer(kind)


@cache
def _reducer(kind: type) -> Callable[[Any], tuple[type, tuple[Any, ...]]]:
    if not is_dataclass(kind) or not all(field.init for field in fields(kind)):
        raise KeyError(kind)
    names = [field.name for field in fields(kind)]
    if len(names) < 2:
        return lambda value: (kind, tuple(getattr(value, name) for name in names))
    values = attrgetter(*names)
    return lambda value: (kind, values(value))
