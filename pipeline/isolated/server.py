"""The process that decoders are forked from, as its parent sees it."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import UserError
from pipeline.isolated import wire

_PASSED_ON = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONHOME")
"""Environment of decoders: nothing that could be a secret."""

_START = "from pipeline.isolated.child import main; main()"
_END_S = 10.0


class Server:
    """A small process that forks decoders. Safe to share between threads.

    Its standard input is a pipe from here: when this process ends, in whatever way, so do the
    server and all that it has forked.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._control, theirs = socket.socketpair()
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        environment["PYTHONPATH"] = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
        # A thread in the server would make forking unsafe.
        environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", _START, str(theirs.fileno())],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=environment,
                start_new_session=True,  # Ctrl-C is for the parent alone
            )
        self.close = weakref.finalize(self, _end, self.process, self._control)

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.process.poll() is None

    def fork(self, descriptors: Sequence[int]) -> int:
        """A new decoder, given these; its process id. Raises ``UserError`` where there is none."""
        try:
            return self._ask(wire.FORK, b"", descriptors)
        except (EOFError, OSError) as error:
            raise UserError(
                "the process that decodes videos cannot be started "
                f"({type(error).__name__}: {error}; its exit code is {self.process.poll()}). Its "
                "own words are above, or in the worker's log. With decode.isolate: false videos "
                "are decoded without one"
            ) from error

    def wait(self, process: int) -> int | None:
        """Wait for the end of a decoder; its wait status, or None where the server is gone."""
        try:
            return self._ask(wire.WAIT, wire.NUMBER.pack(process), ())
        except (EOFError, OSError):
            return None

    def _ask(self, kind: bytes, payload: bytes, descriptors: Sequence[int]) -> int:
        with self._lock:
            wire.send(self._control, kind, payload, descriptors)
            [number] = wire.NUMBER.unpack(wire.receive(self._control).payload)
            return int(number)


def _end(process: "subprocess.Popen[bytes]", control: socket.socket) -> None:
    control.close()
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()
