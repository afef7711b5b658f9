"""What earlier runs of a cache measured, and what a run decides by it: where to decode."""

import json
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from pipeline.config import Config
from pipeline.manifest import Manifest

STORE_SECONDS = 10.0
"""Frames of so many seconds have to fit into the half of the object store that Ray Data uses; a
store that holds less is no buffer between decoders and encoders, and it spills."""

_RUNS = 20
"""Runs that are looked at, from the newest on."""

Decode = Literal["stage", "in_actor"]


@dataclass(frozen=True)
class Measured:
    """Figures of the newest finished run that has them; None where none does.

    Attributes:
        bytes_per_second: frames that went into all encoders.
        driver_seconds: CPU time of the drivers for each pack.
    """

    bytes_per_second: float | None = None
    driver_seconds: float | None = None


NOTHING = Measured()
"""A cache that has no run yet."""


def measured_before(manifest: Manifest) -> Measured:
    """What the newest runs of a cache measured."""
    rows = manifest.descending("runs", ("state", "at", "report"), by="at")
    found: dict[str, float] = {}
    for row in islice(rows, _RUNS):
        report = json.loads(row["report"]) if row["report"] else {}
        if row["state"] != "finished":
            continue
        for name in ("frame_bytes_per_second", "driver_seconds_per_pack"):
            if report.get(name):
                found.setdefault(name, float(report[name]))
        if len(found) == 2:
            break
    return Measured(found.get("frame_bytes_per_second"), found.get("driver_seconds_per_pack"))


def choose_decode(config: Config, measured: Measured, store_bytes: float) -> Decode:
    """Where to decode, in a cluster whose object stores hold ``store_bytes`` together.

    ``auto`` is beside the encoder where the frames that an earlier run moved would not fit into the
    object store for ``STORE_SECONDS``; a stage of its own where nothing was measured.
    """
    if config.run.decode != "auto":
        return config.run.decode
    moved = (measured.bytes_per_second or 0.0) * STORE_SECONDS
    return "in_actor" if moved > store_bytes / 2 else "stage"
