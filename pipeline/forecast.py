"""The forecast of a plan: windows, bytes per statistic, and encoder time at a stated rate."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from pipeline.buckets import Bucket
from pipeline.config import Config
from pipeline.contract import Contract
from pipeline.manifest import Manifest
from pipeline.recipe import latent_values
from pipeline.weights import vae_config
from vae import encoding_flops

ASSUMED_TFLOPS = {"cuda": 350.0, "cpu": 0.05}
"""Rates assumed before a cache has a run of its own: bfloat16 convolutions on one H100 reach about
350 TFLOP/s, float32 ones about 0.05 TFLOP/s on one CPU core."""

STATISTIC_TENSORS = {"moments": 2, "mean": 1, "sample": 1}
"""Tensors stored for each statistic."""


@dataclass(frozen=True)
class Rate:
    """Encoder speed in FLOP/s for one encoder, and where the figure comes from.

    ``run`` is the run that achieved it, if one did.
    """

    flops: float
    origin: str
    run: str | None = None

    @classmethod
    def achieved(cls, flops: float, run: str) -> Self:
        """The speed of a run."""
        return cls(flops, f"achieved by run {run}", run)


@dataclass(frozen=True)
class Forecast:
    """What a plan will take.

    Attributes:
        windows: to encode.
        bytes: stored, by statistic.
        flop: of all encoding.
        seconds: wall time of all encoders.
        rate: of one encoder.
        encoders: that work at once.
        encoder_hour_price: of one, if known.
        gb_month_price: of 10⁹ bytes stored for a month, if known.
    """

    windows: int
    bytes: Mapping[str, int]
    flop: float
    seconds: float
    rate: Rate
    encoders: int = 1
    encoder_hour_price: float | None = None
    gb_month_price: float | None = None

    @property
    def encoder_hours(self) -> float:
        """Hours of one encoder, or of so many for a part of it."""
        return self.seconds * self.encoders / 3600

    @property
    def cost(self) -> float | None:
        """Of the encoders; None without their price."""
        price = self.encoder_hour_price
        return None if price is None else self.encoder_hours * price

    @property
    def storage_per_month(self) -> dict[str, float] | None:
        """What storing costs each month, by statistic; None without its price."""
        price = self.gb_month_price
        return None if price is None else {n: b / 1e9 * price for n, b in self.bytes.items()}

    def to_dict(self) -> dict[str, Any]:
        """The figures that a run records at its start."""
        return {
            "windows": self.windows,
            "bytes": dict(self.bytes),
            "seconds": self.seconds,
            "tflops_per_encoder": self.rate.flops / 1e12,
            "origin": self.rate.origin,
        }


def window_flop(config: Config, buckets: list[Bucket]) -> dict[Bucket, float]:
    """FLOPs of encoding one window at each bucket."""
    model = vae_config(config.vae)
    return {b: float(encoding_flops(model, b.height, b.width)) for b in buckets}


def encoder_rate(config: Config, manifest: Manifest) -> Rate:
    """Configured, else achieved by this cache's newest finished run, else assumed.

    A run that encodes nothing records the rate that it found here, so the newest rows tell.
    """
    if config.forecast.tflops_per_encoder is not None:
        return Rate(config.forecast.tflops_per_encoder * 1e12, "forecast.tflops_per_encoder")
    for row in manifest.descending("runs", ("run_id", "state", "at", "report"), by="at"):
        report = json.loads(row["report"]) if row["report"] else {}
        if row["state"] == "finished" and report.get("encoder_flops"):
            run = report.get("encoder_flops_run", row["run_id"])
            return Rate.achieved(report["encoder_flops"], run)
    if config.run.gpus_per_encoder > 0:
        return Rate(
            ASSUMED_TFLOPS["cuda"] * 1e12 * config.run.gpus_per_encoder, "assumed for a GPU"
        )
    threads = config.run.encoder_threads or 1
    return Rate(ASSUMED_TFLOPS["cpu"] * 1e12 * threads, f"assumed for {threads} CPU thread(s)")


def make_forecast(
    config: Config, contract: Contract, manifest: Manifest, windows: Mapping[Bucket, int]
) -> Forecast:
    """Forecast encoding ``windows`` (count by bucket; images count as whole windows: too high)."""
    flop = window_flop(config, sorted(windows))
    total = sum(flop[bucket] * count for bucket, count in windows.items())
    values = sum(latent_values(contract, bucket) * count for bucket, count in windows.items())
    itemsize = np.dtype(contract.dtype).itemsize
    rate = encoder_rate(config, manifest)
    return Forecast(
        windows=sum(windows.values()),
        bytes={name: n * values * itemsize for name, n in STATISTIC_TENSORS.items()},
        flop=total,
        seconds=total / rate.flops / config.run.encoders,
        rate=rate,
        encoders=config.run.encoders,
        encoder_hour_price=config.forecast.encoder_hour_price,
        gb_month_price=config.forecast.gb_month_price,
    )


def window_seconds(
    config: Config, manifest: Manifest, buckets: Iterable[Bucket]
) -> dict[Bucket, float]:
    """What one window at each bucket is expected to take of an encoder."""
    wanted = sorted(set(buckets))
    if not wanted:
        return {}
    rate = encoder_rate(config, manifest).flops
    return {bucket: flop / rate for bucket, flop in window_flop(config, wanted).items()}


def packs_per_shard(config: Config, contract: Contract, forecast: Forecast, packs: int) -> int:
    """Packs of a plan that make a shard: of ``output.shard_bytes``, but no more than some minutes'
    work.

    Work in a shard that is not written yet is lost when a run is killed, so slow encoders write
    smaller shards (``run.shard_seconds``).
    """
    if forecast.windows == 0:
        return 1
    by_bytes = config.output.shard_bytes * packs / forecast.bytes[contract.statistic]
    seconds = forecast.seconds / packs
    by_time = config.run.shard_seconds / seconds if seconds else by_bytes
    return max(1, round(min(by_bytes, by_time)))
