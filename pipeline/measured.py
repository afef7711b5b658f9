"""What earlier runs of a cache measured, for what a run decides by it."""

import json
from dataclasses import dataclass
from itertools import islice

from pipeline.manifest import Manifest

_RUNS = 20
"""Runs that are looked at, from the newest on."""


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
