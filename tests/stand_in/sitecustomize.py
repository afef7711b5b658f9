"""A decoder that breaks down, for files that ask it to, and a clock that is wrong.

Python runs this at its start where its folder is on the path: a decoder process then obeys what
``stand_in.marked`` wrote at the end of a file. The rest of such a file is decoded as always. The
clock of leases and commits is fast by the seconds of ``STAND_IN_CLOCK``.
"""

import datetime
import importlib.abc
import importlib.machinery
import importlib.util
import io
import os
import signal
import sys
import time
from types import ModuleType

MARK = b"STAND-IN"
LENGTH = 64
TARGET = os.environ.get("STAND_IN", "pipeline.isolated.child")
"""The module whose decoder is replaced: that of decoder processes."""
CLOCK = "STAND_IN_CLOCK"
"""Seconds by which the clock of leases and commits is fast."""


def _spin() -> None:
    while True:
        pass


def _allocate() -> None:
    held = []
    while True:
        held.append(bytearray(16 * 2**20))


def _nonsense() -> None:
    for descriptor in range(3, 20):
        try:
            os.write(descriptor, b"nonsense" * 4)
        except OSError:
            continue


def _close() -> None:
    """Close the connection, and live on."""
    os.closerange(3, 20)
    time.sleep(1000)


WAYS = {
    "sleep": lambda: time.sleep(1000),
    "spin": _spin,
    "allocate": _allocate,
    "segv": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "abort": os.abort,
    "exit": lambda: os._exit(7),
    "raise": lambda: 1 // 0,
    "nonsense": _nonsense,
    "close": _close,
    "once": lambda: None,
}


def _order(file: object) -> tuple[str, str, int]:
    """When (``look`` or ``decode``), how, and behind how many results the decoder breaks down."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - LENGTH))
    tail = file.read(LENGTH)
    file.seek(0)
    if not tail.startswith(MARK):
        return "", "", 0
    _, when, how, count = tail.decode().strip("\0").split(":")
    return when, how, int(count)


def _obey(module: ModuleType) -> None:
    decode_clips, look = module.decode_clips, module.look

    def broken_decode(file, clips, *rest):
        when, how, count = _order(file)
        for number, found in enumerate(decode_clips(file, clips, *rest)):
            if when == "decode" and number == count:
                WAYS[how]()
            yield found
        if how == "once" and when == "decode":
            # Leaves the process damaged: whatever it decodes next kills it.
            module.decode_clips = lambda *_: WAYS["segv"]()

    def broken_look(file, *rest):
        when, how, _ = _order(file)
        if when == "look":
            WAYS[how]()
        return look(file, *rest)

    module.decode_clips, module.look = broken_decode, broken_look


class _Finder(importlib.abc.MetaPathFinder):
    """Changes a module right after it was executed, before who imports it sees it."""

    def __init__(self, target, change) -> None:
        self._target, self._change = target, change

    def find_spec(self, name, path, target=None):
        if name != self._target:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def then(module: ModuleType) -> None:
            execute(module)
            self._change(module)

        spec.loader.exec_module = then
        return spec


def _put_clock_forward(manifest: ModuleType) -> None:
    true, fast = manifest.now, datetime.timedelta(seconds=float(os.environ[CLOCK]))
    manifest.now = lambda: true() + fast


sys.meta_path.insert(0, _Finder(TARGET, _obey))
if CLOCK in os.environ:
    sys.meta_path.insert(0, _Finder("pipeline.manifest", _put_clock_forward))
