"""Watching this process and all that it starts: CPU time and memory, while something runs."""

import contextlib
import os
import threading
import time
from bisect import bisect_left
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

SECONDS = 0.5
"""Time between two looks."""

_SHARED_MEMORY = "/dev/shm"
"""Where Ray keeps its object store."""

DECODER = "pipeline.isolated"
"""What names a decoder in a process of its own."""

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class _Process:
    """One process as seen so far; Ray shows in its name what a worker is at."""

    cpu_seconds: float = 0.0
    peak_bytes: int = 0
    names: set[str] = field(default_factory=set)


class Watch:
    """Looks at the processes every half second (Linux). A context manager.

    Memory is what a process holds for itself, without Ray's shared memory; of a decoder's process,
    with the frames that it shares with its parent.
    """

    def __init__(self) -> None:
        self._processes: dict[int, _Process] = {}
        self._times: list[float] = []
        self._cpu: list[float] = []
        self._spilled = 0
        self._shared = _shared_bytes()
        self._shared_peak = self._shared
        self._own_seconds = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look_until_stopped, daemon=True)

    def __enter__(self) -> Self:
        self._look()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._look()

    def cpu_seconds(self, begin: float, end: float) -> float:
        """CPU time of all processes between two times of the clock (seconds since the epoch).

        What looking at them takes is left out.
        """
        return self._at(end) - self._at(begin)

    def peak_bytes(self, words: tuple[str, ...]) -> dict[str, int]:
        """Peak memory by kind: this process (``driver``), workers with a word in their name.

        ``object store`` is what this machine's shared memory has ever held more than at the start:
        pages that Ray has once used stay there. ``spilled`` is what lay on disk besides.
        """
        peaks = {"driver": self._processes[os.getpid()].peak_bytes}
        peaks["object store"] = self._shared_peak - self._shared
        peaks["spilled"] = self._spilled
        for process in self._processes.values():
            for word in words:
                if any(word in name for name in process.names):
                    peaks[word] = max(process.peak_bytes, peaks.get(word, 0))
        return peaks

    def _at(self, moment: float) -> float:
        """CPU time so far, between looks in proportion."""
        after = bisect_left(self._times, moment)
        if after == 0:
            return self._cpu[0]
        if after == len(self._times):
            return self._cpu[-1]
        begin, end = self._times[after - 1], self._times[after]
        part = (moment - begin) / (end - begin)
        return self._cpu[after - 1] + part * (self._cpu[after] - self._cpu[after - 1])

    def _look_until_stopped(self) -> None:
        while not self._stop.wait(SECONDS):
            self._look()

    def _look(self) -> None:
        begun = time.thread_time()
        for process in family(os.getpid()):
            seen = self._processes.setdefault(process, _Process())
            with contextlib.suppress(OSError, IndexError, ValueError):
                seen.cpu_seconds = _cpu_seconds(process)
                name = process_name(process)
                held = _resident_bytes(process, shared=name == DECODER)
                seen.peak_bytes = max(seen.peak_bytes, held)
                seen.names.add(name)
        self._spilled = max(self._spilled, _spilled_bytes())
        self._shared_peak = max(self._shared_peak, _shared_bytes())
        self._times.append(time.time())
        seen_seconds = sum(process.cpu_seconds for process in self._processes.values())
        self._cpu.append(seen_seconds - self._own_seconds)
        self._own_seconds += time.thread_time() - begun


def family(root: int) -> set[int]:
    """A process and its descendants."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(path.parent.name))
    found, waiting = set(), [root]
    while waiting:
        process = waiting.pop()
        found.add(process)
        waiting.extend(children.get(process, []))
    return found


def _cpu_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _resident_bytes(process: int, *, shared: bool) -> int:
    """Memory of its own, and what it shares if asked for; one that has ended has none."""
    sizes = dict.fromkeys(("RssAnon", "RssFile", *(("RssShmem",) if shared else ())), 0)
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in sizes:
            sizes[name] = int(value.split()[0]) * 1024
    return sum(sizes.values())


def process_name(process: int) -> str:
    """What a process is called: a worker of Ray by what it does, ``DECODER`` a decoder."""
    command = Path(f"/proc/{process}/cmdline").read_text()
    return DECODER if DECODER in command else command.split("\0")[0]


def _shared_bytes() -> int:
    """Shared memory in use on this machine, of whatever kind of file."""
    with contextlib.suppress(OSError):
        found = os.statvfs(_SHARED_MEMORY)
        return (found.f_blocks - found.f_bfree) * found.f_frsize
    return 0


def _spilled_bytes() -> int:
    """Objects that Ray has put on disk now, where it keeps its sessions by default."""
    session = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "session_latest"
    whole = 0
    for path in session.glob("ray_spilled_objects*/*"):
        with contextlib.suppress(OSError):
            whole += path.stat().st_size
    return whole
