"""What needs work, in the order of a plan."""

import pyarrow as pa
from helpers import make_facts, source_row

from pipeline.packs import facts_to_json
from pipeline.planned import place
from pipeline.schema import SOURCES
from pipeline.todo import RECALLED, Todo

CATALOG = pa.schema(
    [
        *((name, pa.string()) for name in ("source_id", "id", "uri", "version")),
        *((name, pa.float64()) for name in ("start", "end", "fps", "duration")),
        *((name, pa.int64()) for name in ("width", "height", "frames")),
        ("pinned", pa.bool_()),
        *((name, pa.string()) for name in ("reason", "message")),
    ]
)


def catalog(*rows):
    plain = {"version": "v1", "pinned": True}
    return pa.Table.from_pylist([{**plain, **row} for row in rows], CATALOG)


def chosen(*rows):
    columns = {"revision": 1, "attempts": 0, "same_bytes": True}
    return pa.Table.from_pylist([{"row": row, **columns} for row in rows])


def todo(sources, rows, earlier=()):
    known = pa.Table.from_pylist(list(earlier), SOURCES).select(RECALLED)
    return [s for batch in Todo.of(sources, chosen(*rows), known).batches() for s in batch]


def test_they_come_in_order_of_file_and_start():
    sources = catalog(
        {"source_id": "a", "uri": "/é.mp4"},
        {"source_id": "b", "uri": "/z.mp4", "start": 2.0},
        {"source_id": "c", "uri": "/z.mp4"},
        {"source_id": "d", "uri": "/𝄞.mp4"},
        {"source_id": "e", "uri": "/z.mp4", "pinned": False},
        {"source_id": "f", "uri": "/Z.mp4"},
    )
    found = todo(sources, range(6))
    assert [s.source_id for s in found] == list("fecbad")
    assert found == sorted(found, key=place)
    assert [s.source_id for s in todo(sources, [4, 1, 0])] == list("eba")


def test_each_has_the_newest_that_is_known_of_its_bytes():
    sources = catalog(*({"source_id": name, "uri": f"/{name}"} for name in "abcd"))
    old, new = (facts_to_json(make_facts(frames=n)) for n in (10, 20))
    earlier = [
        source_row("a", revision=1, facts=old, generation="a1"),
        source_row("a", revision=2, facts=new, generation="a2", status="failed"),
        source_row("b", revision=1, facts=old, version="v0"),
        source_row("b", revision=2, facts=None, generation="b2"),
        source_row("c", revision=1, facts=new, status="skipped"),
    ]
    a, b, c, d = todo(sources, range(4), earlier)
    assert (a.facts.frames, a.previous.generation) == (20, "a1")
    assert (b.facts, b.previous.generation) == (None, "b2")
    assert (c.facts.frames, c.previous) == (20, None)
    assert (d.facts, d.previous, d.revision) == (None, None, 1)
