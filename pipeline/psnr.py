"""How near decoded frames are to what went in: peak signal-to-noise ratio."""

import math

import numpy as np
import numpy.typing as npt


def mean_squared_error(given: npt.NDArray[np.uint8], decoded: npt.NDArray[np.float32]) -> float:
    """Mean of the squared differences over all frames, pixels and channels, summed in float64.

    Args:
        given: uint8 ``(T, H, W, 3)``, taken as x / 255.
        decoded: float32 ``(T, H, W, 3)`` around [-1, 1], taken as (clamp(x) + 1) / 2: not rounded
            to 8 bits.

    Raises:
        ValueError: the shapes differ, or there is no frame.
    """
    if given.shape != decoded.shape or not len(given):
        raise ValueError(f"shapes {given.shape} and {decoded.shape} are not of the same frames")
    frames = zip(given, decoded, strict=True)  # one by one: copies in float64 stay small
    return math.fsum(_frame_error(*pair) for pair in frames) / len(given)


def _frame_error(given: npt.NDArray[np.uint8], decoded: npt.NDArray[np.float32]) -> float:
    pixels = (np.clip(decoded, -1, 1).astype(np.float64) + 1) / 2
    return float(np.mean(np.square(pixels - given / 255)))


def psnr(error: float) -> float:
    """Decibels of a mean squared error over pixels in [0, 1]; infinite where nothing differs.

    Raises:
        ValueError: the error is negative or NaN.
    """
    if not error >= 0:
        raise ValueError(f"a mean squared error is not negative, but {error} was given")
    return math.inf if error == 0 else -10 * math.log10(error)
