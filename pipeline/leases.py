"""Leases on ranges of the source hash: two runs never work on the same sources.

A range is the first hexadecimal digit of a source id. Its lease is the file of the highest number
under ``leases/<digit>/``: the fencing token. A run takes a range by creating the next number, which
only one can; it renews its file while it lives and marks it released at the end. A lease that is
released, was not renewed in time, or belongs to a dead process of this machine and container is
free.
"""

import datetime
import json
import os
import socket
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pipeline.errors import UserError
from pipeline.explain import explained
from pipeline.logs import tell, warn
from pipeline.manifest import now
from pipeline.storage import STORE_ERRORS, Store

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
    boot: str | None = None
    namespace: int | None = None

    def to_json(self) -> bytes:
        return (json.dumps(self.__dict__) + "\n").encode()

    @property
    def free(self) -> bool:
        """Whether another run may take the range."""
        if self.released or datetime.datetime.fromisoformat(self.expires) < now():
            return True
        here = (socket.gethostname(), _boot(), _namespace())
        return (self.host, self.boot, self.namespace) == here and not _alive(self.process)


def _boot() -> str | None:
    """Which start of which machine this is; containers of a machine share it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None


def _namespace() -> int | None:
    """The namespace that process ids count in: containers have their own."""
    try:
        return Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return None


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@dataclass(frozen=True)
class Fence:
    """The fencing tokens of the ranges that a run holds: may what it made still be committed?"""

    store: Store
    tokens: Mapping[str, int]

    def check(self) -> None:
        """Raise ``LeaseLostError`` when a range is another run's by now."""
        for name, token in self.tokens.items():
            with explained(self.store.uri, "read"):
                newest = _newest(self.store, name)
            if newest != token:
                raise LeaseLostError(
                    f"{self.store.uri}: another run took over range {name} of the sources; this "
                    "run stops. What it committed stays; run again to go on"
                )


class Leases:
    """The ranges that a run holds; a context manager that releases them.

    ``take`` waits for ranges that another run holds; ``check`` is to be called before each commit.
    """

    def __init__(self, store: Store, run_id: str, seconds: float = LEASE_SECONDS) -> None:
        self._store = store
        # A renewal that fails is not repeated for long: the next one comes soon.
        patience = min(store.storage.retry_seconds, seconds / 12)
        storage = store.storage.model_copy(update={"retry_seconds": patience})
        self._hasty = Store(store.uri, storage)
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
        self._release()

    @property
    def held(self) -> set[str]:
        """The ranges that were taken."""
        return set(self._held)

    def take(self, names: Iterable[str], notify: Any) -> None:
        """Take ranges besides those held. In between, the latter may be another run's.

        All are taken anew, in ascending order, so that two runs never wait for each other.
        ``notify`` is called with the other run's id once for each range that has to be waited for.
        """
        wanted = self.held.union(names)
        self._release()
        if not self._renewer.is_alive():
            self._renewer.start()
        for name in sorted(wanted):
            told = False
            while (holder := self._try(name)) is not None:
                if not told:
                    notify(name, holder)
                    told = True
                time.sleep(_POLL_SECONDS)

    def check(self) -> None:
        """Raise ``LeaseLostError`` when a range is another run's by now."""
        self.fence().check()

    def fence(self) -> Fence:
        """What is checked, for committers elsewhere."""
        return Fence(self._store, dict(self._held))

    def _try(self, name: str) -> str | None:
        """Take a range; the run id of its holder when it is not free."""
        with explained(self._store.uri, "written"):
            return self._create_next(name)

    def _create_next(self, name: str) -> str | None:
        newest = _newest(self._store, name)
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

    def _lease(self, token: int, released: bool) -> _Lease:
        expires = now() + datetime.timedelta(seconds=self._seconds)
        return _Lease(
            token,
            self._run_id,
            socket.gethostname(),
            os.getpid(),
            expires.isoformat(),
            released,
            _boot(),
            _namespace(),
        )

    def _renew_until_stopped(self) -> None:
        while not self._stop.wait(self._seconds / 3):
            for name in sorted(self.held):
                with self._lock:
                    self._mark(name, released=False)

    def _release(self) -> None:
        with self._lock:
            for name in sorted(self._held):
                self._mark(name, released=True)
            self._held = {}

    def _mark(self, name: str, released: bool) -> None:
        """Renew or release a range, if it is held still; warn where that fails."""
        token = self._held.get(name)
        try:
            if token is not None and _newest(self._hasty, name) == token:
                self._hasty.write(_path(name, token), self._lease(token, released).to_json())
        except STORE_ERRORS as error:
            warn(
                f"the lease on range {name} of the sources could not be "
                f"{'released' if released else 'renewed'}: {type(error).__name__}: {error}"
            )


def tell_of_waiting(name: str, holder: str) -> None:
    """Say that a range of another run is waited for."""
    tell(f"waiting for run {holder}, which holds range {name} of the sources")


def _path(name: str, token: int) -> str:
    return f"leases/{name}/{token}.json"


def _newest(store: Store, name: str) -> int:
    names = store.names(f"leases/{name}")
    tokens = [int(n.removesuffix(".json")) for n in names if n.removesuffix(".json").isdigit()]
    return max(tokens, default=0)


def _read(store: Store, name: str, token: int) -> _Lease | None:
    """A lease; None when its file went away, for a newer one."""
    try:
        return _Lease(**json.loads(store.read(_path(name, token))))
    except FileNotFoundError:
        return None
