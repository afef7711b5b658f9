"""The order of an epoch, computed and never stored: which clips step ``s`` gives to which rank.

A *step* is one batch for every rank, all of one group (a bucket at one clip length), so that ranks
work on equal shapes. The groups' steps are spread evenly over the epoch. Within a group the clips
are permuted by a keyed Feistel network.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from pipeline.reader.index import Array

Remainder = Literal["short", "drop"]
"""What becomes of the clips of a group that make no whole step: the last step is shorter (and the
last two share them where fewer clips than ranks are left over), or they are left out."""

_ROUNDS = 6
_TICKS = 1 << 62


def keys_of(*parts: object, count: int = _ROUNDS) -> list[int]:
    """``count`` integers of 64 bits that follow from ``parts``."""
    text = ":".join(map(str, parts)).encode()
    data = b"".join(hashlib.sha256(text + b":%d" % n).digest() for n in range(-(-count // 4)))
    return [int.from_bytes(data[8 * n : 8 * n + 8], "little") for n in range(count)]


def permute(positions: Array, size: int, keys: Sequence[int]) -> Array:
    """Images of positions under a permutation of ``range(size)`` that ``keys`` choose."""
    half = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    mask, shift = np.uint64((1 << half) - 1), np.uint64(half)
    found = positions.astype(np.uint64)
    walking = np.ones(len(found), bool)
    while walking.any():  # outside of range(size): go on, and come back in
        left, right = found[walking] >> shift, found[walking] & mask
        for key in keys:
            left, right = right, left ^ (_mix(right ^ np.uint64(key)) & mask)
        found[walking] = (left << shift) | right
        walking = found >= size
    return found.astype(np.int64)


def _mix(values: Array) -> Array:
    """The finaliser of splitmix64."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Array = values ^ (values >> np.uint64(31))
    return mixed


@dataclass(frozen=True)
class Division:
    """How the clips that are left of an epoch are divided into steps, and these over the ranks.

    ``sizes``: clips of each group in the whole epoch; ``begun``: how many of them earlier divisions
    gave out; ``batch_size``: clips of one batch; ``remainder``: see ``Remainder``.
    """

    sizes: tuple[int, ...]
    begun: tuple[int, ...]
    world_size: int
    batch_size: int
    remainder: Remainder

    @cached_property
    def group_steps(self) -> tuple[int, ...]:
        """Steps of each group."""
        return tuple(self._steps(group) for group in range(len(self.sizes)))

    @cached_property
    def steps(self) -> int:
        """Steps of all groups: batches of every rank."""
        return sum(self.group_steps)

    @property
    def left_out(self) -> tuple[int, ...]:
        """Clips of each group that no rank gets: fewer than ranks, but for ``drop``."""
        return tuple(
            size - self._begin(group, steps)
            for group, (size, steps) in enumerate(zip(self.sizes, self.group_steps, strict=True))
        )

    @property
    def _unit(self) -> int:
        return self.world_size * self.batch_size

    def _rest(self, group: int) -> tuple[int, int]:
        return divmod(self.sizes[group] - self.begun[group], self._unit)

    def _shares(self, group: int) -> bool:
        """Whether the last two steps of a group share what one and a bit would hold."""
        full, rest = self._rest(group)
        few = self.remainder == "short" and 0 < rest < self.world_size
        return few and full > 0 and self.batch_size > 1

    def _steps(self, group: int) -> int:
        full, rest = self._rest(group)
        more = self.remainder == "short" and rest >= self.world_size
        return full + (more or self._shares(group))

    def _begin(self, group: int, step: int) -> int:
        """Position in the group's order at which its step begins; the end for the last and one."""
        full, rest = self._rest(group)
        begun, steps = self.begun[group], self._steps(group)
        if self._shares(group) and step >= full:
            both = self._unit + rest
            return begun + (full - 1) * self._unit + (both if step == steps else (both + 1) // 2)
        if step > full:
            return begun + full * self._unit + rest
        return begun + step * self._unit

    def batch(self, step: int, rank: int) -> tuple[int, range]:
        """Group and positions in its order of the batch of a rank at a step."""
        group, number = self.place(step)
        begin, stop = self._begin(group, number), self._begin(group, number + 1)
        first, last = (begin + (stop - begin) * r // self.world_size for r in (rank, rank + 1))
        return group, range(first, last)

    def place(self, step: int) -> tuple[int, int]:
        """Group of a step, and its number among the steps of the group.

        Step i of a group of n has the time (2i + 1) / 2n; steps follow each other by time.
        """
        total, groups = self.steps, len(self.sizes)
        early = max(0, step - groups) * _TICKS // total
        late = (step + groups + 1) * _TICKS // total
        before = self._before(early)
        near = sorted(
            ((2 * number + 1) * _TICKS // (2 * steps), group, number)
            for group, (steps, first, stop) in enumerate(
                zip(self.group_steps, before, self._before(late), strict=True)
            )
            for number in range(first, stop)
        )
        _, group, number = near[step - sum(before)]
        return group, number

    def _before(self, time: int) -> list[int]:
        """Steps of each group before a time."""
        return [
            min(steps, max(0, ((2 * steps * time - 1) // _TICKS + 1) // 2))
            for steps in self.group_steps
        ]

    def given(self, steps: int) -> tuple[int, ...]:
        """Clips of each group that were given out when ``steps`` steps are done."""
        done = [0] * len(self.sizes)
        if steps >= self.steps:
            done = list(self.group_steps)
        else:
            group, number = self.place(steps)
            time = (2 * number + 1) * _TICKS // (2 * self.group_steps[group])
            for other, count in enumerate(self._before(time)):
                done[other] = count
                of = self.group_steps[other]
                tied = count < of and (2 * count + 1) * _TICKS // (2 * of) == time
                done[other] += tied and other < group
            done[group] = number
        return tuple(self._begin(group, count) for group, count in enumerate(done))
