"""The processes that drive a run: the CPU time they take, and a share of a processor for each.

A machine of few processors is busy with everything else before a driver is. Held to a share of a
processor, a driver meets its limit earlier, while decoders, encoders and Ray have all the rest.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Self

import numpy as np

from pipeline.bench.watch import family, process_name

PERIOD_SECONDS = 0.05
"""A driver that was idle may take its share of so much time at once."""

LOOK_SECONDS = 1.0
"""Time between two looks at which processes there are."""

_LEAST_SECONDS = 0.002
"""Time between two looks at what a process has taken."""

_DRIVER = "ray::CellDriver"
_ENCODER = "Encoder)"
"""What Ray calls the workers of cells' drivers, and those of encoders."""


def can_hold() -> bool:
    """Whether this system lets a process be stopped by a handle (Linux 5.3, unless it is kept from
    it).
    """
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (OSError, AttributeError):
        return False
    return True


class Allowance:
    """CPU time that a process may take: a share of the clock's.

    What it takes too much is waited for, so that the share holds in the long run, of any number of
    threads.
    """

    def __init__(self, share: float, now: float, used: float) -> None:
        self._share, self._now, self._used = share, now, used
        self._most = self._left = share * PERIOD_SECONDS

    def settle(self, now: float, used: float) -> tuple[bool, float]:
        """Whether the process may run, and for how many seconds that stands."""
        earned = self._share * (now - self._now)
        self._left = min(self._most, self._left + earned - (used - self._used))
        self._now, self._used = now, used
        if self._left > 0:
            return True, max(self._left, _LEAST_SECONDS)
        return False, (self._most - self._left) / self._share


class Driver:
    """One process that drives, and may be held to a share.

    Raises ``OSError`` where the process has ended.
    """

    def __init__(self, process: int) -> None:
        self._clock = (~process << 3) | 2  # as clock_getcpuclockid(3) makes it
        self._allowance: Allowance | None = None
        self._stopped = False
        self.cpu_seconds = time.clock_gettime(self._clock)
        self.due = 0.0
        self._process, self._handle = process, -1

    def look(self) -> None:
        """Take in the CPU time so far. Raises ``OSError`` where the process has ended."""
        self.cpu_seconds = time.clock_gettime(self._clock)

    def hold(self, share: float) -> None:
        """Stop or continue it, as its share wants; to be called again when it is ``due``."""
        self.look()
        now = time.monotonic()
        if self._allowance is None:
            self._allowance = Allowance(share, now, self.cpu_seconds)
        runs, seconds = self._allowance.settle(now, self.cpu_seconds)
        self.due = now + seconds
        if runs == self._stopped:
            self._send(signal.SIGCONT if runs else signal.SIGSTOP)
            self._stopped = not runs

    def release(self) -> None:
        """Hold it no longer."""
        self._allowance = None
        if self._stopped:
            self._stopped = False
            with contextlib.suppress(ProcessLookupError):
                self._send(signal.SIGCONT)

    def close(self) -> float:
        """Let go of it; returns its CPU time."""
        if self._handle >= 0:
            os.close(self._handle)
        return self.cpu_seconds

    def _send(self, number: signal.Signals) -> None:
        if self._handle < 0:
            self._handle = os.pidfd_open(self._process)
        signal.pidfd_send_signal(self._handle, number)


@dataclass
class Taken:
    """CPU time of all drivers together, by the clock (seconds since the epoch)."""

    times: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def between(self, begin: float, end: float) -> float:
        """What they took from one time to another; between looks, in proportion."""
        first, last = np.interp([begin, end], self.times, self.seconds)
        return float(last - first)


class Drivers:
    """Watches the drivers of one run, which this process or one below it has started (Linux).

    A context manager. A process of its own does it, which continues what it has stopped when the
    context is left, and also when this process dies. Drivers are held to their share while there
    are encoders, so that neither start-up nor end takes long.
    """

    def __init__(self, run: int, cells: int, share: float | None) -> None:
        """``run`` is the process of the run: with one cell the driver itself."""
        context = get_context("spawn")
        self._end, end = context.Pipe()
        alone = run if cells == 1 else None
        arguments = (os.getpid(), alone, share, end)
        self._process = context.Process(target=_watch, args=arguments, daemon=True)
        self._others = end
        self.taken = Taken()

    def __enter__(self) -> Self:
        self._process.start()
        self._others.close()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._end.send(None)
                self.taken = self._end.recv()
        finally:
            self._end.close()
            self._process.join()


def _watch(root: int, alone: int | None, share: float | None, end: Connection) -> None:
    """Look and hold until told to end, or nobody is at the other end any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    watched = _Watched(root, alone, share)
    try:
        while not end.poll(watched.step()):
            pass
    finally:
        watched.release()
    with contextlib.suppress(EOFError):
        end.recv()
        watched.look()
        end.send(watched.taken)


class _Watched:
    """The drivers that are there, and what all that ever were have taken."""

    def __init__(self, root: int, alone: int | None, share: float | None) -> None:
        self._root, self._alone, self._share = root, alone, share
        self._drivers: dict[int, Driver] = {}
        self._ended = 0.0
        self._encoding = False
        self._due = 0.0
        self.taken = Taken()

    def step(self) -> float:
        """Do what is due; returns the seconds until something is."""
        if time.monotonic() >= self._due:
            self.look()
            self._due = time.monotonic() + LOOK_SECONDS
        due = self._due
        if self._encoding and self._share is not None:
            for process, driver in list(self._drivers.items()):
                with self._forgotten_if_ended(process):
                    if time.monotonic() >= driver.due:
                        driver.hold(self._share)
                    due = min(due, driver.due)
        return max(0.0, due - time.monotonic())

    def look(self) -> None:
        """See which drivers there are, and what they have taken."""
        names = {}
        for process in family(self._root):
            with contextlib.suppress(OSError):
                names[process] = process_name(process)
        for process, name in names.items():
            drives = process == self._alone or name.startswith(_DRIVER)
            if drives and process not in self._drivers:
                with contextlib.suppress(OSError):
                    self._drivers[process] = Driver(process)
        for process, driver in list(self._drivers.items()):
            with self._forgotten_if_ended(process):
                driver.look()
        self._encoding = any(_ENCODER in name for name in names.values())
        if not self._encoding:
            self.release()
        there = sum(driver.cpu_seconds for driver in self._drivers.values())
        self.taken.times.append(time.time())
        self.taken.seconds.append(self._ended + there)

    def release(self) -> None:
        """Continue all that is stopped."""
        for driver in self._drivers.values():
            driver.release()

    @contextlib.contextmanager
    def _forgotten_if_ended(self, process: int) -> Iterator[None]:
        """What is asked of a process that has ended does nothing; what it took still counts."""
        try:
            yield
        except OSError:
            self._ended += self._drivers.pop(process).close()
