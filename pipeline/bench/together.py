"""Stand-ins for encoders that write down when they worked: the rate of the time when all did.

They start one after the other, which on few processors takes the others' time, and at the end some
have nothing left to do: neither says how fast they are together.
"""

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.config import Config
from pipeline.encode import Encoded
from pipeline.errors import UserError
from pipeline.recipe import Recipe
from pipeline.simulated import SimulatedEncoder

Calls = Sequence[tuple[float, int]]
"""Of one encoder: when each call was done, seconds since the epoch, and its windows."""


class _Noting:
    """A simulated encoder that appends a line to a file of its own at the end of each call."""

    def __init__(self, encode: SimulatedEncoder, path: Path) -> None:
        self._encode, self._path = encode, path

    def __call__(self, frames: np.ndarray, sample_ids: list[str], /) -> Encoded:
        encoded = self._encode(frames, sample_ids)
        with self._path.open("a") as file:
            file.write(f"{time.time()} {len(frames)}\n")
        return encoded


@dataclass(frozen=True)
class MakeNoting:
    """Makes simulated encoders of this machine that note in a folder when they worked."""

    folder: str
    seconds_per_window: float

    def __call__(self, config: Config, recipe: Recipe, /) -> _Noting:
        """One replica."""
        encode = SimulatedEncoder(recipe.contract, self.seconds_per_window)
        return _Noting(encode, Path(self.folder) / uuid.uuid4().hex)


def noted(folder: str) -> dict[str, Calls]:
    """What the encoders of a folder noted, by name."""
    found: dict[str, Calls] = {}
    for path in sorted(Path(folder).iterdir()):
        lines = [line.split() for line in path.read_text().splitlines()]
        found[path.name] = [(float(when), int(windows)) for when, windows in lines]
    return found


@dataclass(frozen=True)
class Together:
    """The time when all encoders were at work: from when the last of them had ended its first call
    to when the first had ended its last; and the windows that were done in it.
    """

    begin: float
    end: float
    windows: int

    @property
    def windows_per_second(self) -> float:
        """Of all encoders."""
        return self.windows / (self.end - self.begin)


def together(calls: Mapping[str, Calls], encoders: int) -> Together:
    """When all of so many encoders were at work. Raises ``UserError`` where they never were."""
    begin = max((done[0][0] for done in calls.values()), default=0.0)
    end = min((done[-1][0] for done in calls.values()), default=0.0)
    if len(calls) < encoders or begin >= end:
        raise UserError(
            f"{encoders} encoders were never all at work at once; take more sources for each"
        )
    windows = sum(n for done in calls.values() for when, n in done if begin < when <= end)
    return Together(begin, end, windows)
