"""The alerts, as Prometheus's rules. What to do at each stands in docs/operations.md."""

from dataclasses import dataclass
from typing import Any, Literal

from pipeline.metrics import BUSY, ENDED, IDLE, REMAINING, SOURCES, WINDOWS

RUNBOOK = "docs/operations.md"


@dataclass(frozen=True)
class Alert:
    """One alert.

    Attributes:
        name: as Alertmanager shows it, and as the heading of its part of the runbook.
        expr: PromQL; it fires where this has a value.
        holds: how long it must have one before that, as Prometheus writes times.
        severity: ``page`` wants someone now, ``ticket`` someone by day.
        summary: one line for people.
    """

    name: str
    expr: str
    holds: str
    severity: Literal["page", "ticket"]
    summary: str

    def to_rule(self) -> dict[str, Any]:
        """As it stands in a rule file."""
        return {
            "alert": self.name,
            "expr": self.expr,
            "for": self.holds,
            "labels": {"severity": self.severity},
            "annotations": {
                "summary": self.summary,
                "runbook": f"{RUNBOOK}#{self.name.lower()}",
            },
        }


_BUSY, _IDLE = (f"sum(rate({metric.exported}[15m]))" for metric in (BUSY, IDLE))
_FAILED = f'(sum({SOURCES.exported}{{status="failed"}}) or vector(0))'
_FINISHED = f'{ENDED.exported}{{command="refresh_cache",state="finished"}}'

ALERTS = (
    Alert(
        "NoProgress",
        f"sum({REMAINING.exported}) > 0 "
        f"and (sum(increase({WINDOWS.exported}[15m])) or vector(0)) == 0",
        "10m",
        "page",
        "A run has windows left, and none was encoded for 15 minutes",
    ),
    Alert(
        "FailureRate",
        f"{_FAILED} / sum({SOURCES.exported}) > 0.05 and sum({SOURCES.exported}) >= 100",
        "5m",
        "page",
        "{{ $value | humanizePercentage }} of the sources of running jobs failed",
    ),
    Alert(
        "EncodersIdle",
        f"{_IDLE} / ({_IDLE} + {_BUSY}) > 0.2",
        "15m",
        "ticket",
        "Encoders waited for work {{ $value | humanizePercentage }} of the time",
    ),
    Alert(
        "Spilling",
        'sum(ray_object_store_memory{Location="SPILLED"}) > 0',
        "5m",
        "ticket",
        "{{ $value | humanize1024 }}B of frames lie on disk for want of shared memory",
    ),
    Alert(
        "RefreshOverdue",
        f"time() - max by (cache) (max_over_time({_FINISHED}[7d])) > 26 * 3600",
        "10m",
        "page",
        "{{ $labels.cache }} was refreshed {{ $value | humanizeDuration }} ago",
    ),
)


def rules() -> dict[str, Any]:
    """All alerts, as a rule file."""
    return {"groups": [{"name": "t2v-latents", "rules": [alert.to_rule() for alert in ALERTS]}]}
