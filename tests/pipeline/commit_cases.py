"""A committer without a cache, and results as the write stage tells of them."""

from dataclasses import replace

from helpers import (
    SMALL,
    make_facts,
    make_segment,
    members,
    sample_row,
)

from pipeline.commit import Committer
from pipeline.errors import Reason
from pipeline.metrics import SILENT
from pipeline.packs import Event, facts_to_json
from pipeline.planned import PlannedSources
from pipeline.stages.write import Written

NEVER = 1e9


FACTS = facts_to_json(make_facts(codec="vp9"))


class Memory:
    """Stands for the manifest: remembers what was appended, in order."""

    def __init__(self):
        self.appended = []

    def append(self, table, rows):
        if rows:
            self.appended.append((table, list(rows)))

    def rows(self, table):
        return [row for name, rows in self.appended if name == table for row in rows]


def committer(*plans, manifest=None, seconds=NEVER, meter=SILENT):
    sources = PlannedSources.of(plans)
    made = Committer(manifest or Memory(), "run", "contract", sources, seconds, meter=meter)
    made.settle()
    return made


def segment(source="s", first=0, windows=2, bucket=SMALL, **changes):
    """A segment as the write stage reports it: its row but for what the committer adds."""
    row = sample_row(make_segment(source, first, windows, bucket, **changes))
    for name in ("segment_id", "run_id", "committed_at"):
        del row[name]
    return row


def end(source="s", windows=4, frames=70, generation=None):
    return Event("end", source, generation or f"{source}-g", windows, frames, FACTS)


def failure(source="s", reason=Reason.DECODE_ERROR, message="broken", generation=None):
    event = Event("failed", source, generation or f"{source}-g")
    return replace(event, reason=str(reason), message=message)


def written(*parts, shards=None):
    return Written(
        shards or {},
        [part for part in parts if isinstance(part, dict)],
        [part for part in parts if isinstance(part, Event)],
    )


def ends(chosen):
    """Rows of ``sources`` that the committer appends now, by source."""
    chosen.commit()
    rows = chosen._manifest.rows("sources")
    assert len({row["source_id"] for row in rows}) == len(rows)  # each ends once
    return {row["source_id"]: row for row in rows}


def windows_of(rows):
    return members((row["first_window"], row["first_window"] + row["windows"]) for row in rows)
