"""Which way computations go: a CPU's, or an accelerator's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

_counted: ContextVar[str] = ContextVar("counted", default="cuda")


def on_cpu(x: Tensor) -> bool:
    """Whether ``x`` takes the CPU's way; on the meta device that of what is counted for."""
    return (_counted.get() if x.is_meta else x.device.type) == "cpu"


@contextmanager
def counting_for(kind: str) -> Iterator[None]:
    """Have the meta device go the way of this kind of device, an accelerator's otherwise."""
    token = _counted.set(kind)
    try:
        yield
    finally:
        _counted.reset(token)
