"""Statistics of latents for each channel, over windows that were drawn."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.contract import Contract
from pipeline.page.pick import Pick
from pipeline.shards import read_sample
from pipeline.storage import Store

FAR = 5.0
"""Values further from their channel's mean than so many standard deviations are outliers."""

_BYTES_HELD = 64 << 20

Channels = npt.NDArray[np.float64]
"""One figure a channel: ``(C,)``."""


@dataclass(frozen=True, eq=False)
class LatentStatistics:
    """Figures of each channel of what is stored (the posterior's mean, or the sample).

    Attributes:
        windows: windows drawn.
        values: numbers of one channel.
        mean, std, least, most: of the numbers.
        outliers: numbers further than ``FAR`` standard deviations from the mean.
        posterior_std: mean of exp(logvar / 2) where logvar is stored.
    """

    windows: int
    values: int
    mean: Channels
    std: Channels
    least: Channels
    most: Channels
    outliers: npt.NDArray[np.int64]
    posterior_std: Channels | None


def measure_latents(
    picks: Iterable[Pick], store: Store, contract: Contract
) -> LatentStatistics | None:
    """Read the windows and sum them up; None for none.

    No more of them are read than fit into some megabytes. Raises ``ShardError``.
    """
    held: list[npt.NDArray[np.generic]] = []
    spread: list[Channels] = []
    size = 0
    for pick in picks:
        tensors = read_sample(store, pick.shard, pick.row, contract)
        stored = tensors[contract.tensors[0]]
        held.append(np.moveaxis(stored, 1, 0).reshape(contract.z_channels, -1))
        size += stored.nbytes
        if "logvar" in tensors:
            logvar = tensors["logvar"].astype(np.float64)
            spread.append(np.exp(logvar / 2).mean(axis=(0, 2, 3)))
        if size >= _BYTES_HELD:
            break
    if not held:
        return None
    values = np.concatenate(held, axis=1)
    rows = [channel.astype(np.float64) for channel in values]
    mean = np.array([row.mean() for row in rows])
    std = np.array([row.std() for row in rows])
    far = [
        int((np.abs(row - mean[k]) > FAR * std[k]).sum()) if std[k] > 0 else 0
        for k, row in enumerate(rows)
    ]
    return LatentStatistics(
        windows=len(held),
        values=values.shape[1],
        mean=mean,
        std=std,
        least=np.array([row.min() for row in rows]),
        most=np.array([row.max() for row in rows]),
        outliers=np.array(far),
        posterior_std=np.mean(spread, axis=0) if spread else None,
    )
