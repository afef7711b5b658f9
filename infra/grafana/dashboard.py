"""The dashboard: panels over the metrics of a run, and over those of Ray and Ray Data."""

from dataclasses import dataclass
from typing import Any, Literal

from pipeline.metrics import (
    BACKOFFS,
    BUSY,
    BYTES_READ,
    BYTES_WRITTEN,
    COMMIT,
    ENDED,
    FORECAST,
    FRAMES,
    IDLE,
    MICRO_BATCH,
    QUEUE,
    REMAINING,
    SOURCES,
    WINDOWS,
    Metric,
)

INTERVAL = "$__rate_interval"
"""What Grafana replaces by a span of some scrapes."""

_COLUMNS, _HEIGHT = 24, 8


@dataclass(frozen=True)
class Query:
    """PromQL, and what a line of its answer is called: text with ``{{label}}``."""

    expr: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """One panel. ``unit`` is Grafana's name of it; ``width`` in 24ths of the page."""

    title: str
    help: str
    unit: str
    queries: tuple[Query, ...]
    kind: Literal["timeseries", "stat"] = "timeseries"
    width: int = 8


def _rate(metric: Metric, by: str = "") -> str:
    return f"sum{by} (rate({metric.exported}[{INTERVAL}]))"


def _quantile(share: float, metric: Metric) -> Query:
    rates = f"sum by (le) (rate({metric.exported}_bucket[{INTERVAL}]))"
    return Query(f"histogram_quantile({share}, {rates})", f"{share:.0%} are below")


_PROGRESS = (
    Panel(
        "Windows left",
        REMAINING.help,
        "short",
        (Query(f"sum({REMAINING.exported})", "left"),),
        "stat",
        4,
    ),
    Panel(
        "Windows expected",
        FORECAST.help,
        "short",
        (Query(f"sum({FORECAST.exported})", "expected"),),
        "stat",
        4,
    ),
    Panel(
        "Time left",
        "at the rate of the last ten minutes",
        "s",
        (
            Query(
                f"sum({REMAINING.exported}) / "
                f'sum(rate({WINDOWS.exported}{{status!="refused"}}[10m]))',
                "left",
            ),
        ),
        "stat",
        4,
    ),
    Panel(
        "Failed sources",
        "share of those that ended",
        "percentunit",
        (
            Query(
                f'(sum({SOURCES.exported}{{status="failed"}}) or vector(0)) '
                f"/ sum({SOURCES.exported})",
                "failed",
            ),
        ),
        "stat",
        4,
    ),
    Panel(
        "Last runs",
        "when they ended, by cache, command and state",
        "dateTimeFromNow",
        (
            Query(
                f"max by (cache, command, state) ({ENDED.exported}) * 1000",
                "{{command}} {{state}}: {{cache}}",
            ),
        ),
        "stat",
        8,
    ),
    Panel(
        "Windows a second",
        WINDOWS.help,
        "short",
        (Query(_rate(WINDOWS, " by (status, reason)"), "{{status}} {{reason}}"),),
        width=12,
    ),
    Panel(
        "Sources that ended",
        SOURCES.help,
        "short",
        (Query(f"sum by (status, reason) ({SOURCES.exported})", "{{status}} {{reason}}"),),
        width=12,
    ),
)

_ENCODERS = (
    Panel(
        "Encoders busy",
        "share of the time from their first pack on",
        "percentunit",
        (Query(f"{_rate(BUSY)} / ({_rate(BUSY)} + {_rate(IDLE)})", "busy"),),
    ),
    Panel(
        "Micro-batches",
        MICRO_BATCH.help,
        "short",
        (_quantile(0.1, MICRO_BATCH), _quantile(0.5, MICRO_BATCH), _quantile(0.9, MICRO_BATCH)),
    ),
    Panel(
        "Out of memory",
        BACKOFFS.help,
        "short",
        (Query(f"sum(increase({BACKOFFS.exported}[10m])) or vector(0)", "in ten minutes"),),
    ),
)

_DATA = (
    Panel(
        "Frames decoded a second", FRAMES.help, "short", (Query(_rate(FRAMES), "frames"),), width=6
    ),
    Panel(
        "Bytes a second",
        "of sources read, and of shards written",
        "Bps",
        (Query(_rate(BYTES_READ), "read"), Query(_rate(BYTES_WRITTEN), "written")),
        width=6,
    ),
    Panel(
        "Windows that wait",
        QUEUE.help,
        "short",
        (Query(f"sum by (queue) ({QUEUE.exported})", "{{queue}}"),),
        width=6,
    ),
    Panel(
        "Commits",
        COMMIT.help,
        "s",
        (_quantile(0.5, COMMIT), _quantile(0.95, COMMIT)),
        width=6,
    ),
)

_RAY = (
    Panel(
        "Blocks that wait, by operator",
        "of Ray Data: packs before the encoders, where decode is a stage of its own",
        "short",
        (
            Query(
                "sum by (operator) (ray_data_obj_store_mem_internal_inqueue_blocks "
                "+ ray_data_num_external_inqueue_blocks)",
                "{{operator}}",
            ),
        ),
    ),
    Panel(
        "Tasks at work, by operator",
        "of Ray Data",
        "short",
        (Query("sum by (operator) (ray_data_num_tasks_running)", "{{operator}}"),),
    ),
    Panel(
        "Tasks that failed, by operator",
        "of Ray Data, in this execution",
        "short",
        (Query("sum by (operator) (ray_data_num_tasks_failed)", "{{operator}}"),),
    ),
    Panel(
        "Object store",
        "memory for frames and latents on their way, and what did not fit into it",
        "bytes",
        (
            Query('sum(ray_object_store_memory{Location!="SPILLED"})', "in memory"),
            Query('sum(ray_object_store_memory{Location="SPILLED"})', "on disk"),
        ),
    ),
    Panel(
        "Driver",
        "a turn of Ray Data's scheduling loop: where it takes long, encoders wait (see run.cells)",
        "s",
        (Query("max by (dataset) (ray_data_sched_loop_duration_s)", "{{dataset}}"),),
    ),
    Panel(
        "Nodes",
        "that are there",
        "short",
        (Query("sum(ray_cluster_active_nodes)", "nodes"),),
    ),
)

ROWS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    ("Progress", _PROGRESS),
    ("Encoders", _ENCODERS),
    ("Decode, storage, commits", _DATA),
    ("Ray", _RAY),
)


def _tree(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${datasource}"}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.help,
        "datasource": source,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": _HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": source,
                "expr": query.expr,
                "legendFormat": query.legend,
            }
            for index, query in enumerate(panel.queries)
        ],
    }


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana imports it (11 and later)."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS:
        place = {"x": 0, "y": y, "w": _COLUMNS, "h": 1}
        number = len(panels) + 1
        head = {"id": number, "type": "row", "title": title, "collapsed": False}
        panels.append({**head, "gridPos": place, "panels": []})
        y, x = y + 1, 0
        for panel in row:
            if x + panel.width > _COLUMNS:
                x, y = 0, y + _HEIGHT
            panels.append(_tree(panel, len(panels) + 1, x, y))
            x += panel.width
        y += _HEIGHT
    return {
        "uid": "t2v-latents",
        "title": "Latent cache",
        "tags": ["ray", "t2v-latents"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data"}
            ]
        },
        "panels": panels,
    }
