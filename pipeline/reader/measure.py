"""Measuring the latents of a snapshot, channel by channel, in one pass and bounded memory."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from pipeline.config import StorageConfig
from pipeline.contract import Contract
from pipeline.errors import UserError
from pipeline.manifest import Manifest
from pipeline.reader.batches import Batch
from pipeline.reader.dataset import LatentDataset
from pipeline.reader.draw import Statistic
from pipeline.reader.index import Array
from pipeline.reader.spread import Spread
from pipeline.reader.statistics import Numbers, Statistics
from pipeline.storage import Store
from pipeline.windows import WINDOW_FRAMES

_BATCH = 8
"""Windows looked at at once, in each worker."""

_VARIANCE = "variance"
"""Where the spread of the posteriors' variances is gathered, beside those of stored tensors."""

Spreads = dict[str, Spread]


def measure(
    uri: str,
    snapshot: int | None = None,
    storage: StorageConfig | None = None,
    *,
    windows: int | None = None,
    workers: int = 0,
    local_dir: str | Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Statistics:
    """Measure all windows of a snapshot, or ``windows`` of them (up to 7 more), drawn evenly.

    Windows that overlap count each. ``progress`` is told how many windows are done, and of how
    many. The result does not depend on ``workers``. Raises ``UserError``, and ``ShardError`` for a
    damaged shard.
    """
    manifest = Manifest(Store(uri, storage or StorageConfig()))
    pinned = manifest.snapshot(snapshot)
    dataset = LatentDataset(
        uri,
        pinned.number,
        clip_frames=(1, WINDOW_FRAMES),
        batch_size=_BATCH,
        statistic=cast(Statistic, pinned.contract.statistic),
        shuffle=windows is not None,
        allow_padded=True,
        storage=storage,
        local_dir=local_dir,
    )
    found = sum(dataset.clips.values())
    wanted = found if windows is None else min(windows, found)
    done = 0
    spreads: Spreads = {}
    for count, parts in DataLoader(_Measured(dataset), batch_size=None, num_workers=workers):
        done += count
        spreads |= {n: spreads[n] + part if n in spreads else part for n, part in parts.items()}
        progress(done, wanted)
        if done >= wanted:
            break
    if not spreads:
        raise UserError(
            f"{manifest.store.uri}, snapshot {pinned.number}: repeated frames take part in every "
            "latent; there is nothing to measure"
        )
    return Statistics(
        cache=manifest.store.uri,
        snapshot=pinned.number,
        contract_id=pinned.contract.contract_id,
        windows=done,
        of=found,
        count=next(iter(spreads.values())).count,
        latents=_latents(spreads, pinned.contract),
    )


class _Measured(IterableDataset[tuple[int, Spreads]]):
    """Numbers of windows and their spreads, made of batches in the process that reads them."""

    def __init__(self, dataset: LatentDataset) -> None:
        self._dataset = dataset

    def __iter__(self) -> Iterator[tuple[int, Spreads]]:
        for batch in self._dataset:
            yield len(batch["ids"]), _spreads(batch, self._dataset.contract)


def _spreads(batch: Batch, contract: Contract) -> Spreads:
    """By stored tensor, and of variances. Frames that hold repeated pixels are left out."""
    real = batch["valid_mask"]
    if not real.any():
        return {}

    def of(tensor: torch.Tensor) -> Spread:
        """Of ``(batch, t, C, h, w)``."""
        chosen = tensor[real].movedim(1, 0)
        return Spread.of(chosen.reshape(len(chosen), -1).numpy())

    if contract.statistic != "moments":
        return {contract.statistic: of(batch["latents"])}
    return {"mean": of(batch["mean"]), _VARIANCE: of(batch["logvar"].double().exp())}


def _latents(spreads: Spreads, contract: Contract) -> dict[str, Numbers]:
    main = contract.tensors[0]
    stored = spreads[main]
    found = {main: _numbers(stored.mean, stored.variance)}
    found[main] |= {"min": stored.low.tolist(), "max": stored.high.tolist()}
    if _VARIANCE in spreads:  # the law of total variance
        total = stored.variance + spreads[_VARIANCE].mean
        found["sample"] = _numbers(stored.mean, total)
    return found


def _numbers(mean: Array, variance: Array) -> Numbers:
    return {"mean": mean.tolist(), "std": np.sqrt(variance).tolist()}
