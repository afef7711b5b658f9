"""What decoding asks of the process that it runs in."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Frames = npt.NDArray[np.uint8]


def _empty(shape: tuple[int, ...]) -> Frames:
    return np.empty(shape, np.uint8)


def _ignore(_seconds: float) -> None:
    pass


@dataclass(frozen=True)
class Host:
    """Memory for frames, and a listener.

    Attributes:
        empty: makes the array of a shape that frames of a segment are written into.
        progress: is told of seconds of video, each time some were decoded or scanned.
    """

    empty: Callable[[tuple[int, ...]], Frames] = _empty
    progress: Callable[[float], None] = _ignore


HERE = Host()
"""This process, with memory of its own, and nobody who listens."""
