"""The page as HTML: one file that asks no network and runs no script."""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import jinja2
from markupsafe import Markup

from pipeline.maintain.history import Entry
from pipeline.manifest import Snapshot
from pipeline.page import charts, view, wording
from pipeline.page.holdings import Holdings
from pipeline.page.latents import LatentStatistics
from pipeline.page.pace import Run
from pipeline.page.pictures import Shown
from pipeline.side_by_side import AMPLIFIED


@dataclass(frozen=True)
class Findings:
    """All that a page tells of.

    Attributes:
        uri: of the cache.
        snapshot: the state that is told of.
        held: its sums.
        runs: the newest runs, newest first; ``run`` is the one that is told of at length.
        history: of snapshots, ascending; ``snapshots`` is how many there are.
        latents: statistics, or None: ``latents_note`` says why.
        looked: windows to show; ``windows_note`` says what is missing, ``left_out`` which could
            not be shown, and why.
    """

    uri: str
    snapshot: Snapshot
    held: Holdings
    runs: Sequence[Run]
    run: Run | None
    history: Sequence[Entry]
    snapshots: int
    latents: LatentStatistics | None
    latents_note: str = ""
    looked: Sequence[Shown] = ()
    windows_note: str = ""
    left_out: Sequence[tuple[str, str]] = field(default_factory=tuple)


_SECTIONS = [
    ("counts", "Counts"),
    ("run", "The run"),
    ("failures", "Skipped and failed"),
    ("data", "The data"),
    ("latents", "The latents"),
    ("windows", "Windows"),
    ("history", "History"),
]


def render(found: Findings) -> str:
    """The whole page."""
    run, held = found.run, found.held
    page: dict[str, Any] = {
        "uri": wording.shown(found.uri),
        "name": wording.last_part(found.uri),
        "sections": _SECTIONS,
        "created": moment(found.snapshot.created_at),
        "publisher": _publisher(found.snapshot.run_id),
        "note": _newer(found),
        "chips": view.chips(found.snapshot.contract),
        "random_weights": _random(run),
        "made": moment(datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")),
        "busy": wording.NONE if run is None or run.busy is None else wording.share(run.busy, 1),
        "busy_note": "of the newest run that encoded" if run else "no run ended",
        "durations": held.durations.trimmed(),
        "tails": view.tails(held),
        "buckets": view.buckets(held),
        "codecs": view.rows(held.codecs, "others"),
        "fps": view.rows(held.fps, "others"),
        "light": view.light(run),
        "retry": view.retry(run),
        "latents_note": found.latents_note,
        "windows_note": found.windows_note,
        "amplified": AMPLIFIED,
        "history_about": _history_about(found),
        "most_changed": max((e.added + e.changed + e.removed for e in found.history), default=0),
    }
    if run is not None:
        page |= {
            "phases": view.phases(run),
            "phase_bars": [(kind, phase.seconds) for kind, phase in view.phases(run)],
            "forecast": view.forecast(run, found.snapshot.contract.statistic),
            "forecast_note": view.forecast_note(run),
            "stages": view.stages(run),
            "other_run": _other_run(found, run),
        }
    if found.latents is not None:
        page |= {
            "latents_about": view.latents_about(found.latents, held, found.snapshot.contract),
            "outliers": view.outliers(found.latents),
            "channels": view.channel_rows(found.latents),
            "channel_chart": view.channel_chart(found.latents),
        }
    return (
        _templates()
        .get_template("report.html")
        .render(
            page=page,
            snapshot=found.snapshot,
            held=held,
            run=run,
            runs=found.runs,
            reasons=view.reasons(held.ended),
            latents=found.latents,
            looked=found.looked,
            left_out=found.left_out,
            history=list(reversed(found.history)),
        )
    )


@cache
def _templates() -> jinja2.Environment:
    found = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline.page"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = ("count", "share", "figure", "span", "size", "shown")
    found.filters.update({name: getattr(wording, name) for name in names}, moment=moment)
    found.globals.update(stack=charts.stack, columns=charts.columns)
    assert found.loader is not None
    source, _, _ = found.loader.get_source(found, "report.css")
    found.globals["css"] = Markup(source)  # a file of ours
    return found


def moment(text: str) -> str:
    """An ISO time as people read it, to the minute, in UTC."""
    when = datetime.datetime.fromisoformat(text).astimezone(datetime.UTC)
    return f"{when:%Y-%m-%d %H:%M} UTC"


def _publisher(run_id: str) -> str:
    kind, _, rest = run_id.partition("-")
    known = {"compact": "a compaction", "restore": "a restoration"}
    return known[kind] if kind in known and rest else f"run {wording.shown(run_id)}"


def _newer(found: Findings) -> str:
    newest = found.history[-1].snapshot if found.history else found.snapshot.number
    if newest <= found.snapshot.number:
        return ""
    return f"There is a newer one: snapshot {newest}."


def _other_run(found: Findings, run: Run) -> str:
    """What to say where the run told of is not the one that published the snapshot."""
    if run.run_id == found.snapshot.run_id:
        return ""
    return "It is the newest run that encoded; another one published this snapshot."


def _random(run: Run | None) -> bool:
    vae = {} if run is None else run.config.get("vae", {})
    return vae.get("checkpoint") is None and vae.get("random_seed") is not None


def _history_about(found: Findings) -> str:
    told = "Published states of the cache, newest first, and what each changed of the one before."
    if len(found.history) < found.snapshots:
        told += (
            f" The newest {len(found.history)} of {wording.count(found.snapshots)}; "
            "jobs/maintain_cache.py history tells of all."
        )
    return told
