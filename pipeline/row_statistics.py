"""Statistics of the samples of a shard, stored beside them: what the numbers were when written."""

import base64
import json
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

NAMES = ("mean", "standard deviation", "minimum", "maximum")
"""Columns of ``row_statistics``."""

_TOLERANCE = 1e-5
"""Of the numbers' scale: sums in another order differ in the last digits."""

Statistics = npt.NDArray[np.float32]


def row_statistics(tensor: npt.NDArray[np.generic]) -> Statistics:
    """Mean, standard deviation, minimum and maximum of each row: float32 ``(N, 4)``.

    ``tensor`` is ``(N, …)``; sums are in float64, a row at a time.
    """
    found = np.zeros((len(tensor), len(NAMES)), np.float32)
    with np.errstate(invalid="ignore"):  # of what is not finite there is no mean
        for row, values in enumerate(tensor):
            wide = np.asarray(values, np.float64)
            found[row] = wide.mean(), wide.std(), wide.min(), wide.max()
    return found


def to_text(tensors: Mapping[str, npt.NDArray[np.generic]]) -> str:
    """The statistics of tensors by name as a shard's metadata hold them; of one length for N rows.

    JSON: name to base64 of little-endian float32 ``(N, 4)``.
    """
    return json.dumps(
        {
            name: base64.b64encode(row_statistics(tensor).astype("<f4").tobytes()).decode()
            for name, tensor in tensors.items()
        }
    )


def from_text(text: str) -> dict[str, Statistics]:
    """Inverse of ``to_text``. Raises ``ValueError`` for what is none."""
    return {
        name: np.frombuffer(base64.b64decode(data, validate=True), "<f4").reshape(-1, len(NAMES))
        for name, data in json.loads(text).items()
    }


def same(stored: Statistics, found: Statistics) -> npt.NDArray[np.bool_]:
    """Which rows have the statistics that are stored: bool ``(N,)``."""
    scale = np.abs(found[:, 2:]).max(axis=1, keepdims=True)
    close = np.abs(stored - found) <= _TOLERANCE * scale
    return np.asarray(close.all(axis=1))
