"""What a piece of work costs, and how costs of several turns are put together."""

import contextlib
import os
import resource
import signal
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Cost:
    """Of one turn.

    Attributes:
        units: what was done: frames, bytes.
        cpu_seconds: user and system time, also of processes that it has started.
        wall_seconds: time on the clock.
        peak_bytes: highest resident memory in the turn, beyond what the process held before its
            first (its code); None where it is not known.
    """

    units: int
    cpu_seconds: float
    wall_seconds: float
    peak_bytes: int | None


@dataclass(frozen=True)
class Rates:
    """Medians over the turns."""

    units: int
    per_cpu_second: float
    per_second: float
    peak_bytes: int | None

    @classmethod
    def of(cls, costs: Sequence[Cost]) -> "Rates":
        """The medians of turns that did the same work."""
        peaks = [cost.peak_bytes for cost in costs if cost.peak_bytes is not None]
        return cls(
            units=costs[0].units,
            per_cpu_second=statistics.median(c.units / c.cpu_seconds for c in costs),
            per_second=statistics.median(c.units / c.wall_seconds for c in costs),
            peak_bytes=max(peaks, default=None),
        )


_held: list[int] = []
"""Resident memory before this process measured anything."""


def measured(function: Callable[..., int], *arguments: object) -> Cost:
    """Call a function that returns how much it did, and say what it cost this process."""
    if not _held:
        _held.append(resident_bytes(os.getpid(), "VmRSS") or 0)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the highest so far is forgotten
    before, begun = cpu_seconds(), monotonic()
    units = function(*arguments)
    wall = monotonic() - begun
    peak = resident_bytes(os.getpid())
    return Cost(units, cpu_seconds() - before, wall, None if peak is None else peak - _held[0])


def resident_bytes(process: int, field: str = "VmHWM") -> int | None:
    """Highest resident memory of a process, where the system tells (Linux).

    ``ru_maxrss`` would begin with the memory of the process that started it.
    """
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    return None


def share(costs: Sequence[Cost], of: Sequence[Cost]) -> float:
    """Median over the turns of the work a CPU second, as a share of another's in the same turn."""
    ratios = (
        (one.units / one.cpu_seconds) / (other.units / other.cpu_seconds)
        for one, other in zip(costs, of, strict=True)
    )
    return statistics.median(ratios)


def wall_share(costs: Sequence[Cost], of: Sequence[Cost]) -> float:
    """The same by the clock: work a second."""
    ratios = (
        (one.units / one.wall_seconds) / (other.units / other.wall_seconds)
        for one, other in zip(costs, of, strict=True)
    )
    return statistics.median(ratios)


def in_turns(turns: int, kinds: Mapping[str, Callable[[], Cost]]) -> dict[str, list[Cost]]:
    """Each kind once in every turn, one after the other, so that all meet the same disturbances.

    Each turn begins with another: what comes first finds less in the caches below this machine.
    """
    names = list(kinds)
    costs: dict[str, list[Cost]] = {name: [] for name in names}
    for turn in range(turns):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            costs[name].append(kinds[name]())
    return costs


@contextlib.contextmanager
def process_of_its_own() -> Iterator[Callable[..., Any]]:
    """A fresh process that lives on; yields what calls a function in it and waits.

    It is started at once, and loads what it is asked for while others do so too. Whoever is
    interrupted while it works has it end.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        started = pool.submit(os.getpid)

        def call(function: Callable[..., T], *arguments: object) -> T:
            return pool.submit(function, *arguments).result()

        try:
            yield call
        except KeyboardInterrupt:
            with contextlib.suppress(ProcessLookupError, BrokenProcessPool):
                os.kill(started.result(), signal.SIGTERM)
            raise


def as_json(costs: Mapping[str, Sequence[Cost]]) -> dict[str, Any]:
    """Medians of every kind, and its turns."""
    return {
        name: asdict(Rates.of(found)) | {"turns": [asdict(cost) for cost in found]}
        for name, found in costs.items()
    }


def conditions() -> dict[str, Any]:
    """What else the figures depend on: processors and the load on them."""
    return {"cpus": len(os.sched_getaffinity(0)), "load": os.getloadavg()}


def cpu_seconds() -> float:
    """Of this process so far, user and system time, and of those it has started."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime + _cpu_seconds_below(os.getpid())


def _cpu_seconds_below(process: int) -> float:
    """Of the processes that a process has started and theirs, where the system tells (Linux)."""
    seconds = 0.0
    for listed in Path(f"/proc/{process}/task").glob("*/children"):
        for child in listed.read_text().split():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
                ticks = sum(int(field) for field in fields[11:15])  # its own, and those it reaped
                seconds += ticks / os.sysconf("SC_CLK_TCK") + _cpu_seconds_below(int(child))
    return seconds
