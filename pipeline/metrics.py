"""Metrics: what a run tells a monitoring system while it works. The table, and where it goes.

These figures are live and approximate: work that Ray does again counts again, and histograms keep
their buckets alone. The exact ones are in the cache's tables.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args

from pipeline.errors import Reason

NO_REASON = "none"
"""Value of the label ``reason`` where there is none to give."""

Kind = Literal["counter", "gauge", "histogram"]
Command = Literal["encode_dataset", "refresh_cache"]
RunState = Literal["finished", "stopped"]


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: as it is made; Ray exports it as ``ray_<name>``.
        kind: of Prometheus.
        unit: of its values.
        help: what it tells.
        labels: values that each label may have; None where these are names that users give.
        bounds: upper bounds of a histogram's buckets, in the unit.
    """

    name: str
    kind: Kind
    unit: str
    help: str
    labels: Mapping[str, tuple[str, ...] | None] = field(default_factory=dict)
    bounds: tuple[float, ...] = ()

    @property
    def exported(self) -> str:
        """The name that queries use."""
        return f"ray_{self.name}"

    def require(self, kind: Kind, labels: Mapping[str, str]) -> None:
        """Raise ``ValueError`` for another kind, and for labels that the table does not have."""
        if kind != self.kind:
            raise ValueError(f"{self.name} is a {self.kind}, not a {kind}")
        if labels.keys() != self.labels.keys():
            raise ValueError(f"{self.name} has the labels {[*self.labels]}, not {[*labels]}")
        for label, value in labels.items():
            allowed = self.labels[label]
            if allowed is not None and value not in allowed:
                raise ValueError(f"{self.name}: {label} may be one of {allowed}, not {value!r}")


class Meter(Protocol):
    """Takes the values of metrics. Raises ``ValueError`` where the table does not allow one."""

    def add(self, metric: Metric, amount: float, **labels: str) -> None:
        """Count ``amount`` (0 or more) up on a counter."""

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        """Give a gauge its value."""

    def observe(self, metric: Metric, value: float, **labels: str) -> None:
        """Add a value to a histogram."""


class SilentMeter:
    """Holds callers to the table, and tells nobody."""

    def add(self, metric: Metric, amount: float, **labels: str) -> None:
        """Check only."""
        metric.require("counter", labels)

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        """Check only."""
        metric.require("gauge", labels)

    def observe(self, metric: Metric, value: float, **labels: str) -> None:
        """Check only."""
        metric.require("histogram", labels)


SILENT = SilentMeter()
"""For runs without a cluster."""

_REASONS = (NO_REASON, *(str(reason) for reason in Reason))

WINDOWS = Metric(
    "t2v_windows_total",
    "counter",
    "windows",
    "windows that encoders made latents of (encoded) or whose latents must not be stored "
    "(refused), and that decoders found to be in the cache as they are (kept)",
    {
        "status": ("encoded", "kept", "refused"),
        "reason": (NO_REASON, str(Reason.NOT_FINITE), str(Reason.OVERFLOW)),
    },
)
FRAMES = Metric(
    "t2v_frames_decoded_total", "counter", "frames", "frames of the windows that decoders made"
)
BYTES_READ = Metric(
    "t2v_bytes_read_total",
    "counter",
    "bytes",
    "bytes of sources that decoders were given, those read twice counted twice",
)
BYTES_WRITTEN = Metric("t2v_bytes_written_total", "counter", "bytes", "bytes of finished shards")
BUSY = Metric(
    "t2v_encoder_busy_seconds_total", "counter", "seconds", "time that encoders worked on packs"
)
IDLE = Metric(
    "t2v_encoder_idle_seconds_total",
    "counter",
    "seconds",
    "time that encoders waited for the next pack, told when it came",
)
MICRO_BATCH = Metric(
    "t2v_micro_batch_windows",
    "histogram",
    "windows",
    "windows of one call of the VAE",
    bounds=(1, 2, 4, 8, 16, 32, 64, 128),
)
BACKOFFS = Metric(
    "t2v_memory_backoffs_total",
    "counter",
    "times",
    "times that an encoder's memory ran out, and it went on with less at once",
)
QUEUE = Metric(
    "t2v_queue_windows",
    "gauge",
    "windows",
    "windows that wait for an encoder beside them (encode; only with run.decode: in_actor), "
    "and in shards for the next commit (commit)",
    {"queue": ("encode", "commit")},
)
COMMIT = Metric(
    "t2v_commit_seconds",
    "histogram",
    "seconds",
    "time that a commit took",
    bounds=(0.1, 0.3, 1, 3, 10, 30, 100, 300),
)
SOURCES = Metric(
    "t2v_run_sources",
    "gauge",
    "sources",
    "sources that the run worked on and that ended, by how",
    {"status": ("ok", "skipped", "failed"), "reason": _REASONS},
)
FORECAST = Metric(
    "t2v_run_windows_forecast", "gauge", "windows", "windows that the run's plan expects"
)
REMAINING = Metric(
    "t2v_run_windows_remaining", "gauge", "windows", "those of them that are not written yet"
)
ENDED = Metric(
    "t2v_run_ended_timestamp_seconds_total",
    "counter",
    "seconds",
    "when a run ended, in seconds since 1970. Counted up once, from 0, since Ray keeps counters of "
    "processes that are gone, and no gauges",
    {
        "command": get_args(Command),
        "state": get_args(RunState),
        "cache": None,
    },
)

METRICS = (
    WINDOWS,
    FRAMES,
    BYTES_READ,
    BYTES_WRITTEN,
    BUSY,
    IDLE,
    MICRO_BATCH,
    BACKOFFS,
    QUEUE,
    COMMIT,
    SOURCES,
    FORECAST,
    REMAINING,
    ENDED,
)
"""All that there are."""
