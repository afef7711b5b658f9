"""Mean, spread and range of a stream of numbers, channel by channel, in one pass and float64."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from pipeline.reader.index import Array


@dataclass(frozen=True)
class Spread:
    """What was seen of each channel: all arrays ``(channels,)``, float64.

    ``squares``: sum of squared distances from the mean. It is that which is gathered, and not the
    sum of squares: large numbers of little spread lose no digits (Chan, Golub and LeVeque 1983).
    """

    count: int
    mean: Array
    squares: Array
    low: Array
    high: Array

    @classmethod
    def of(cls, values: Array) -> Self:
        """The spread of values ``(channels, n)``, n at least 1."""
        exact = values.astype(np.float64)
        mean = exact.mean(axis=1)
        exact -= mean[:, None]
        squares = np.einsum("cn,cn->c", exact, exact)
        low, high = (f(axis=1).astype(np.float64) for f in (values.min, values.max))
        return cls(values.shape[1], mean, squares, low, high)

    def __add__(self, other: "Spread") -> "Spread":
        """The spread of the values of both."""
        count = self.count + other.count
        apart = other.mean - self.mean
        share = other.count / count
        return Spread(
            count,
            self.mean + apart * share,
            self.squares + other.squares + apart**2 * self.count * share,
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
        )

    @property
    def variance(self) -> Array:
        """Mean squared distance from the mean (divided by n)."""
        found: Array = self.squares / self.count
        return found
