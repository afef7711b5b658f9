"""Work that a signal must not cut in two."""

import contextlib
import signal
import threading
from collections.abc import Iterator

_STOPS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def stops_wait() -> Iterator[None]:
    """SIGINT and SIGTERM that arrive within are handled when the context has ended.

    Python handles signals in the main thread alone; in others nothing needs to be done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: arrived.append(number)) for number in _STOPS
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if arrived:
            signal.raise_signal(arrived[0])
