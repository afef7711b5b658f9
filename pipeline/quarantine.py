"""Sources that fail time and again: listed, left alone; and runs in which too many fail at all."""

import csv
import io

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.commit import Tally
from pipeline.config import Config
from pipeline.manifest import Manifest

QUARANTINED = (
    *("source_id", "id", "uri", "start", "end", "version", "attempts", "reason", "message"),
    *("revision", "run_id"),
)
"""Columns of the table ``sources`` that say what is quarantined, and why."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


class TooManyFailuresError(Exception):
    """So many of a run's sources fail that it stops; the message says which reason dominates."""


def check_failures(tally: Tally, config: Config) -> None:
    """Stop a run in which more than ``max_failure_rate`` of the decoded sources fail.

    Not before ``stop_early_sources`` have ended. What was tried before does not count, nor does
    what could not be opened for planning: such sources end first, and say little of the others.

    Raises:
        TooManyFailuresError: the run is to stop.
    """
    ended, failed = tally.firsts.total(), tally.firsts["failed"]
    least = config.stop_early_sources
    if least is None or ended < least or failed <= config.max_failure_rate * ended:
        return
    failures = {name: n for name, n in tally.reasons.items() if name.startswith("failed: ")}
    worst = max(failures, key=lambda name: failures[name])
    raise TooManyFailuresError(
        f"stopped early: {failed} of the first {ended} sources failed, more than max_failure_rate "
        f"{config.max_failure_rate:g}; most often {worst.removeprefix('failed: ')} "
        f"({failures[worst]}), e.g. {tally.examples[worst]}. What is done is kept: run again to go "
        "on. A higher max_failure_rate, or stop_early_sources: null, lets such a run go on"
    )


def tell_quarantine(
    manifest: Manifest, before: pa.Table, tally: Tally, run_id: str, config: Config
) -> str | None:
    """List what is quarantined: ``before`` and what this run has added, in order of URI.

    Returns what to print, or None where nothing is.
    """
    rows = before.select(QUARANTINED) if before.num_rows else None
    if tally.statuses["failed"]:
        where = (
            (pc.field("run_id") == run_id)
            & (pc.field("status") == "failed")
            & (pc.field("attempts") >= config.max_attempts)
        )
        added = manifest.read("sources", None, QUARANTINED, where)
        rows = added if rows is None else pa.concat_tables([rows, added])
    if rows is None or not rows.num_rows:
        return None
    path = write_quarantine(manifest, run_id, rows.sort_by("uri"))
    return (
        f"quarantined: {rows.num_rows} sources that failed {config.max_attempts} times; left alone "
        f"until their version changes, or --retry-failed asks for them. Listed in {path}"
    )


def write_quarantine(manifest: Manifest, run_id: str, rows: pa.Table) -> str:
    """Write ``reports/<run_id>/quarantine.csv`` and return its URI."""
    sink = io.StringIO()
    names = [name for name in QUARANTINED if name not in ("revision", "run_id")]
    writer = csv.writer(sink, quoting=csv.QUOTE_ALL)
    writer.writerow(names)
    for row in rows.to_pylist():
        writer.writerow([_cell(row[name]) for name in names])
    path = f"reports/{run_id}/quarantine.csv"
    manifest.store.write(path, sink.getvalue().encode("utf-8", "backslashreplace"))
    return f"{manifest.store.uri}/{path}"


def _cell(value: object) -> object:
    """A value that a spreadsheet takes for text, and a line for a line."""
    if not isinstance(value, str):
        return value
    text = value.replace("\0", "\\0")
    return f"'{text}" if text.startswith(_FORMULA) else text
