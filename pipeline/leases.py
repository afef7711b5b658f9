"""Leases on ranges of the source hash: two runs never work on the same sources.

A range is the first hexadecimal digit of a source id. Its lease is the file of the highest number
under ``leases/<digit>/``: the fencing token. A run takes a range by creating the next number, which
only one can; it renews its file while it lives and marks it released at the end. A lease that is
released, was not renewed in time, or belongs to a dead process of this machine is free.
"""

import datetime
import json
import os
import socket
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from pipeline.errors import UserError
from pipeline.manifest import now
from pipeline.storage import Store

RANGES = tuple("0123456789abcdef")
LEASE_SECONDS = 60.0
"""How long a lease holds without renewal; it is renewed three times as often."""

_POLL_SECONDS = 1.0


def range_of(source_id: str) -> str:
    """The range that a source belongs to."""
    return source_id[0]


class LeaseLostError(UserError):
    """Another run took over a range; nothing more may be committed for it."""


@dataclass(frozen=True)
class _Lease:
    token: int
    run_id: str
    host: str
    process: int
    expires: str
    released: bool

    def to_json(self) -> bytes:
        return (json.dumps(self.__dict__) + "\n").encode()

    @property
    def free(self) -> bool:
        """Whether another run may take the range."""
        if self.released or datetime.datetime.fromisoformat(self.expires) < now():
            return True
        return self.host == socket.gethostname() and not _alive(self.process)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class Leases:
    """The ranges that a run holds; a context manager that releases them.

    ``take`` waits for ranges that another run holds; ``check`` is to be called before each commit.
    """

    def __init__(self, store: Store, run_id: str, seconds: float = LEASE_SECONDS) -> None:
        self._store = store
        self._run_id = run_id
        self._seconds = seconds
        self._held: dict[str, int] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._renewer = threading.Thread(target=self._renew_until_stopped, daemon=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._renewer.is_alive():
            self._renewer.join()
        for name, token in self._held.items():
            if self._newest(name) == token:
                self._write(name, token, released=True)
        self._held = {}

    def take(self, names: Iterable[str], notify: Any) -> None:
        """Take ranges, in ascending order so that two runs never wait for each other.

        ``notify`` is called with the other run's id once for each range that has to be waited for.
        """
        for name in sorted(names):
            told = False
            while (holder := self._try(name)) is not None:
                if not told:
                    notify(name, holder)
                    told = True
                time.sleep(_POLL_SECONDS)
        if not self._renewer.is_alive():
            self._renewer.start()

    def check(self) -> None:
        """Raise ``LeaseLostError`` when a range is another run's by now."""
        for name, token in self._held.items():
            if self._newest(name) != token:
                raise LeaseLostError(
                    f"{self._store.uri}: another run took over range {name} of the sources; this "
                    "run stops. What it committed stays; run again to go on"
                )

    def _try(self, name: str) -> str | None:
        """Take a range; the run id of its holder when it is not free."""
        newest = self._newest(name)
        if newest > 0:
            lease = _read(self._store, name, newest)
            if lease is not None and not lease.free:
                return lease.run_id
        token = newest + 1
        if not self._store.create(_path(name, token), self._lease(token, False).to_json()):
            return "another run"
        with self._lock:
            self._held[name] = token
        if newest > 0:
            self._store.delete(_path(name, newest))
        return None

    def _newest(self, name: str) -> int:
        names = self._store.names(f"leases/{name}")
        tokens = [int(n.removesuffix(".json")) for n in names if n.removesuffix(".json").isdigit()]
        return max(tokens, default=0)

    def _lease(self, token: int, released: bool) -> _Lease:
        expires = now() + datetime.timedelta(seconds=self._seconds)
        host, process = socket.gethostname(), os.getpid()
        return _Lease(token, self._run_id, host, process, expires.isoformat(), released)

    def _write(self, name: str, token: int, released: bool) -> None:
        self._store.write(_path(name, token), self._lease(token, released).to_json())

    def _renew_until_stopped(self) -> None:
        while not self._stop.wait(self._seconds / 3):
            with self._lock:
                held = dict(self._held)
            for name, token in held.items():
                if self._newest(name) == token:
                    self._write(name, token, released=False)


def _path(name: str, token: int) -> str:
    return f"leases/{name}/{token}.json"


def _read(store: Store, name: str, token: int) -> _Lease | None:
    """A lease; None when its file went away, for a newer one."""
    try:
        return _Lease(**json.loads(store.read(_path(name, token))))
    except FileNotFoundError:
        return None
