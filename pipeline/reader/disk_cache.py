"""A folder of bytes read from object storage, of limited size, shared by processes.

An entry is a file: a head with length and CRC-32, then the data. It appears at once, by a rename.
Its time of modification is that of its last use, and the entries longest unused go first. How much
room is taken, ``.used`` says: a number that is raised, under a lock, before a file grows, and set
right when the files are counted. It is never too low, so that the folder does not outgrow its
limit.
"""

import array
import contextlib
import fcntl
import hashlib
import math
import os
import re
import secrets
import struct
import time
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline.errors import UserError
from pipeline.reader.index import Array

_HEAD = struct.Struct("<8sQI4x")  # magic, bytes of the data, their CRC-32
_MAGIC = b"t2vrange"
_TOTAL = struct.Struct("<Q")
_BLOCK = 4096
_FOLDER = re.compile(r"[0-9a-f]{2}")
_ENTRY = re.compile(r"[0-9a-f]{30}(\.[0-9a-f]{12}\.tmp)?")
_ABANDONED_SECONDS = 3600.0
_KEPT_SHARE = 0.9
"""How full the folder is after entries were deleted: counting the files takes time, and pays so."""

Data = bytes | memoryview


class DiskCache:
    """Bytes by key, below one folder. Safe for many threads and processes of one machine.

    It never fails: where the disk is full, or refuses, ``get`` finds nothing and ``put`` keeps
    nothing, with one warning of each kind in each process.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        """Open or make the folder, to hold ``limit`` bytes.

        Raises ``UserError`` where it cannot be made or written.
        """
        self.folder, self.limit = folder, limit
        self._full = False
        self._unsaid = {"read", "damaged", "full", "small"}
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self._used():
                pass
        except OSError as error:
            raise UserError(
                f"disk_cache {folder}: {error}; name a folder that can be written, or leave "
                "disk_cache out"
            ) from error

    def get(self, key: str) -> memoryview | None:
        """The data of a key, or None: there are none, or they are damaged (and deleted)."""
        path = self._path(key)
        try:
            with path.open("rb") as file:
                found = file.read()
                os.utime(file.fileno())
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn("read", f"cannot be read: {error}; what it lacks is read from the store")
            return None
        data = memoryview(found)[_HEAD.size :]
        if found[: _HEAD.size] != _head(data):
            self._warn("damaged", f"is damaged ({path.name}); that is read again from the store")
            self.discard(key)
            return None
        return data

    def put(self, key: str, data: Data) -> None:
        """Keep the data of a key, and delete what was not used for longest to make room."""
        target = self._path(key)
        if self._full or target.exists():
            return
        try:
            self._write(target, data)
        except OSError as error:
            self._full = True
            self._warn("full", f"takes nothing more: {error}; reads go on without. Make room there")

    def discard(self, key: str) -> None:
        """Delete the data of a key, if there are any."""
        with contextlib.suppress(OSError):
            self._path(key).unlink()

    def _path(self, key: str) -> Path:
        name = hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
        return self.folder / name[:2] / name[2:]

    def _write(self, target: Path, data: Data) -> None:
        temporary = target.with_name(f"{target.name}.{secrets.token_hex(6)}.tmp")
        try:
            if self._reserve(temporary, _HEAD.size + len(data)):
                with temporary.open("r+b") as file:
                    file.write(_head(data))
                    file.write(data)
                temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)

    def _reserve(self, temporary: Path, size: int) -> bool:
        """Make a file that looks as large as it will be, if there is room or can be made."""
        wanted = _room(size)
        if wanted > self.limit * _KEPT_SHARE:
            self._warn("small", f"may hold {self.limit:,} bytes: too few for a read of {size:,}")
            return False
        temporary.parent.mkdir(exist_ok=True, mode=0o700)
        return self._take(temporary, size) or (self._evict(wanted) and self._take(temporary, size))

    def _take(self, temporary: Path, size: int) -> bool:
        with self._used() as file:
            used = _total(file)
            if used is None or used + _room(size) > self.limit:
                return False
            os.pwrite(file, _TOTAL.pack(used + _room(size)), 0)
            temporary.touch(0o600)
            os.truncate(temporary, size)
            return True

    def _evict(self, wanted: int) -> bool:
        """Count the files and delete those unused for longest. False: another process does it."""
        with self._locked(".evicting", fcntl.LOCK_NB) as lock:
            if lock is None:
                return False
            with self._used() as file:
                before = _total(file)
            if before is not None and before + wanted <= self.limit:
                return True  # another process did it
            times, sizes = self._count()
            count = int(sizes.sum())
            goal = min(int(self.limit * _KEPT_SHARE), self.limit - wanted)
            freed = self._delete_oldest(times, sizes, count - goal)
            with self._used() as file:
                # What came meanwhile may be counted twice: rather too much than too little.
                came = max(0, (_total(file) or 0) - (before or 0))
                os.pwrite(file, _TOTAL.pack(count - freed + came), 0)
        return True

    def _count(self) -> tuple[Array, Array]:
        """Times of last use, and sizes, of all entries. What a killed process left is deleted."""
        times, sizes = array.array("d"), array.array("q")
        abandoned = time.time() - _ABANDONED_SECONDS
        for entry, state in self._entries():
            unfinished = entry.name.endswith(".tmp")
            if unfinished and state.st_mtime < abandoned:
                _unlink(entry.path)
            else:
                times.append(math.inf if unfinished else state.st_mtime)
                sizes.append(_room(state.st_size))
        return np.array(times), np.array(sizes)

    def _delete_oldest(self, times: Array, sizes: Array, excess: int) -> int:
        """Delete entries until ``excess`` bytes are free; returns how many are."""
        if excess <= 0:
            return 0
        order = np.argsort(times)
        ends = np.cumsum(sizes[order])
        limit = times[order[min(int(np.searchsorted(ends, excess)), len(order) - 1)]]
        freed = 0
        for entry, state in self._entries():
            old = state.st_mtime <= limit and not entry.name.endswith(".tmp")
            if old and freed < excess:
                freed += _room(state.st_size) * _unlink(entry.path)
        return freed

    def _entries(self) -> Iterator[tuple["os.DirEntry[str]", os.stat_result]]:
        with os.scandir(self.folder) as folders:
            names = [folder.path for folder in folders if _FOLDER.fullmatch(folder.name)]
        for name in names:
            with os.scandir(name) as entries:
                for entry in entries:
                    if _ENTRY.fullmatch(entry.name):
                        with contextlib.suppress(FileNotFoundError):  # it went away meanwhile
                            yield entry, entry.stat(follow_symlinks=False)

    @contextlib.contextmanager
    def _used(self) -> Iterator[int]:
        """The open file that says how much room is taken, locked."""
        with self._locked(".used", 0) as file:
            assert file is not None
            yield file

    @contextlib.contextmanager
    def _locked(self, name: str, how: int) -> Iterator[int | None]:
        file = os.open(self.folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | how)
            except BlockingIOError:
                yield None
                return
            yield file
        finally:
            os.close(file)  # and with it the lock

    def _warn(self, kind: str, text: str) -> None:
        if kind in self._unsaid:
            self._unsaid.discard(kind)
            warnings.warn(f"disk_cache {self.folder} {text}", stacklevel=2)


def open_disk_cache(folder: str | Path | None, limit: int | None) -> DiskCache | None:
    """The disk cache that a user asks for. Raises ``UserError``."""
    if folder is None and limit is None:
        return None
    if folder is None or not isinstance(limit, int | float) or limit < 1:
        raise UserError(
            f"disk_cache {folder}, disk_cache_bytes {limit!r}: give both, a folder and how many "
            "bytes it may hold, or neither"
        )
    return DiskCache(Path(folder), limit)


def _head(data: Data) -> bytes:
    return _HEAD.pack(_MAGIC, len(data), zlib.crc32(data))


def _total(file: int) -> int | None:
    """What the file says; None where it is new."""
    text = os.pread(file, _TOTAL.size, 0)
    return int(_TOTAL.unpack(text)[0]) if len(text) == _TOTAL.size else None


def _room(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _unlink(path: str) -> bool:
    try:
        Path(path).unlink()
    except FileNotFoundError:
        return False
    return True
