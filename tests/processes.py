"""Processes of this machine, by what they do and by their connections, from Linux's ``/proc``."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

_GONE = (FileNotFoundError, ProcessLookupError, PermissionError)


def command(process: int) -> str:
    """The command line, or the title that a process gave itself; empty once it is gone."""
    with contextlib.suppress(*_GONE):
        text = Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ")
        return text.decode(errors="replace").strip()
    return ""


def workers(folder: str, title: str) -> list[int]:
    """Ray workers that say ``title`` in theirs, of the cluster whose sessions lie in ``folder``."""
    return [p for p in _all() if title in command(p) and _is_worker_of(p, folder)]


def sender(port: int, server_port: int) -> int | None:
    """The process that holds the loopback connection from ``port`` to ``server_port``."""
    wanted = f":{port:04X}", f":{server_port:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if (fields[1][-5:], fields[2][-5:]) == wanted:
            return _owner(f"socket:[{fields[9]}]")
    return None


def _is_worker_of(process: int, folder: str) -> bool:
    title = command(process)
    return title.startswith("ray::") and folder in command(_parent(process))


def _parent(process: int) -> int:
    with contextlib.suppress(*_GONE):
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def _owner(link: str) -> int | None:
    for process in _all():
        with contextlib.suppress(*_GONE):
            for entry in Path(f"/proc/{process}/fd").iterdir():
                with contextlib.suppress(*_GONE):
                    if str(entry.readlink()) == link:
                        return process
    return None


def _all() -> Iterator[int]:
    for path in Path("/proc").glob("[0-9]*"):
        yield int(path.name)
