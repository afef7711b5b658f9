"""Bytes of shards: what is told of a store that cannot be read, and the disk cache before one."""

import contextlib
import errno
from collections.abc import Callable, Iterator, Sequence

from pipeline.contract import CONTRACT_PATH
from pipeline.errors import StoreError, UserError
from pipeline.reader.disk_cache import Data, DiskCache
from pipeline.reader.pieces import Piece, adjoining
from pipeline.reader.signed import SignedRanges
from pipeline.storage import Store

_UNSATISFIABLE = ("InvalidRange", "416")


@contextlib.contextmanager
def reaching(store: Store) -> Iterator[None]:
    """Raise ``StoreError`` where reading in the context says nothing of the file that is read.

    ``FileNotFoundError`` passes where the cache is there, and a range behind a file's end becomes
    ``ValueError``: these two tell of the file.
    """
    try:
        yield
    except FileNotFoundError as error:
        if not store.exists(CONTRACT_PATH):
            raise StoreError(
                f"{store.uri} cannot be read: its {CONTRACT_PATH} cannot be found any more, as "
                "little as its shards; see whether the store answers and the path is mounted"
            ) from error
        raise
    except UserError:  # a path that leads out of the cache
        raise
    except Exception as error:
        response = getattr(error.__cause__, "response", None) or {}
        code = str(response.get("Error", {}).get("Code"))
        if isinstance(error, OSError) and error.errno == errno.EINVAL and code in _UNSATISFIABLE:
            raise ValueError("it ends too early") from error
        raise StoreError(
            f"{store.uri} cannot be read: {type(error).__name__}: {error}; this tells nothing of "
            f"the shards. See whether the store answers and its credentials hold (it was asked for "
            f"{store.storage.retry_seconds:g} s, storage.retry_seconds); then resume"
        ) from error


class RemoteShard:
    """A shard that is read by ranges, through a disk cache if there is one.

    With ``fresh`` what the disk cache holds is not believed, and replaced.
    """

    def __init__(
        self, ranges: SignedRanges, path: str, cache: DiskCache | None, *, fresh: bool = False
    ) -> None:
        self._store, self._ranges = ranges.store, ranges
        self.path, self._cache, self._fresh = path, cache, fresh

    def head(self, begin: int, end: int) -> bytes:
        """The bytes ``[begin, end)``, as far as there are any."""
        return self._kept(f"{begin}-{end}", lambda: self._read(begin, end))

    def tail(self, count: int) -> bytes:
        """The last bytes of the file, as far as there are any."""
        return self._kept(f"last {count}", lambda: self._last(count))

    def _last(self, count: int) -> bytes:
        with reaching(self._store):
            end = self._store.size(self.path)
            return self._store.read(self.path, max(0, end - count), end)

    def fill(self, pieces: Sequence[Piece], gap: int = 0) -> None:
        """Read pieces, each where it belongs; those no more than ``gap`` apart with one request.

        Raises ``ValueError`` where the file ends before.
        """
        missing = [piece for piece in pieces if not self._fill(piece)]
        for whole in adjoining(sorted(missing, key=lambda piece: piece.begin), gap):
            self._fetch(whole)
        for piece in missing if self._cache is not None else ():
            self._keep(f"{piece.begin}-{piece.end}", b"".join(piece.into))

    def _fetch(self, piece: Piece) -> None:
        """Read a piece with one request; with more where that did not work."""
        if not self._ranges.fill(self.path, piece):
            data = memoryview(self._read(piece.begin, piece.end))
            if len(data) != piece.end - piece.begin:
                raise ValueError(f"it ends {piece.end - piece.begin - len(data)} bytes too early")
            piece.fill(data)

    def _fill(self, piece: Piece) -> bool:
        """Read a piece from the disk cache, if it is there."""
        held = self._held(f"{piece.begin}-{piece.end}")
        if held is None or len(held) != piece.end - piece.begin:
            return False
        piece.fill(held)
        return True

    def _read(self, begin: int, end: int) -> bytes:
        with reaching(self._store):
            return self._store.read(self.path, begin, end)

    def _kept(self, what: str, read: Callable[[], bytes]) -> bytes:
        held = self._held(what)
        if held is not None:
            return bytes(held)
        data = read()
        self._keep(what, data)
        return data

    def _key(self, what: str) -> str:
        return f"{self._store.storage.endpoint_url} {self._store.uri} {self.path} {what}"

    def _held(self, what: str) -> memoryview | None:
        return None if self._cache is None or self._fresh else self._cache.get(self._key(what))

    def _keep(self, what: str, data: Data) -> None:
        if self._cache is not None:
            if self._fresh:
                self._cache.discard(self._key(what))
            self._cache.put(self._key(what), data)
