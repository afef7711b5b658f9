"""Choosing by columns, against a plain model that goes row by row."""

import pyarrow as pa
from helpers import SMALL, TALL, WIDE, make_config, make_recipe, source_row
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.choose import KINDS, Chooser
from pipeline.errors import Reason
from pipeline.schema import SOURCES

BUCKETS = [{"height": b.height, "width": b.width} for b in (SMALL, WIDE, TALL)]
CONFIG = make_config(buckets=BUCKETS, max_attempts=2)
RECIPE = make_recipe(CONFIG)
REASONS = [Reason.MISSING, Reason.DECODE_ERROR]
SIZES = [None, (64, 64, False), (128, 64, False), (64, 64, True)]
CATALOG = pa.schema(
    [
        *((name, pa.string()) for name in ("source_id", "id", "uri", "version")),
        *((name, pa.float64()) for name in ("start", "end", "fps", "duration")),
        *((name, pa.int64()) for name in ("width", "height", "frames")),
        ("pinned", pa.bool_()),
        *((name, pa.string()) for name in ("reason", "message")),
    ]
)


def key_of(size, same):
    if size is None:
        return ""
    width, height, is_image = size
    return RECIPE.key(RECIPE.assign(width, height), is_image) if same else "another"


@st.composite
def known_row(draw, source):
    status = draw(st.sampled_from(["ok", "skipped", "failed", "removed"]))
    size = draw(st.sampled_from(SIZES if status == "failed" else SIZES[1:]))
    width, height, is_image = size or (None, None, None)
    return source_row(
        source,
        revision=draw(st.integers(1, 5)),
        version=draw(st.sampled_from(["v1", "v2"])),
        status=status,
        reason=str(draw(st.sampled_from(REASONS))) if status == "failed" else None,
        attempts=draw(st.integers(1, 3)),
        recipe=key_of(size, draw(st.booleans())),
        width=width,
        height=height,
        is_image=is_image,
    )


def model(row, before, overwrite, retry):
    """Kind of a source, whether it needs work, and the attempts that count against it."""
    if before is None or before["status"] == "removed":
        return "added", True, 0
    size = None if before["width"] is None else [before[n] for n in ("width", "height", "is_image")]
    same_recipe = size is None or key_of(size, True) == before["recipe"]
    if before["version"] != row["version"] or not same_recipe:
        return "changed", True, 0
    if before["status"] == "failed":
        again = Reason(before["reason"]).transient and before["attempts"] < CONFIG.max_attempts
        return "failed before", overwrite or retry or again, before["attempts"]
    return ("changed", True, 0) if overwrite else ("reusable", False, 0)


@settings(max_examples=200)
@given(data=st.data(), overwrite=st.booleans(), retry=st.booleans(), chunks=st.integers(1, 3))
def test_columns_choose_as_rows_do(data, overwrite, retry, chunks):
    names = data.draw(st.lists(st.sampled_from("abcdef"), unique=True))
    known = data.draw(st.lists(st.sampled_from("cdefgh"), unique=True))
    latest = {name: data.draw(known_row(name)) for name in known}
    sources = [
        {
            "source_id": name,
            "uri": f"/v/{name}",
            "version": data.draw(st.sampled_from(["v1", "v2"])),
            "pinned": True,
        }
        for name in names
    ]
    catalog = pa.concat_tables(
        pa.Table.from_pylist(sources[k::chunks], CATALOG) for k in range(chunks)
    )
    catalog = catalog.append_column("row", pa.array(range(len(names)), pa.int64()))
    table = pa.Table.from_pylist(list(latest.values()), SOURCES)
    choice = Chooser(CONFIG, RECIPE, overwrite, retry).choose(catalog, table)

    kinds, standing, todo = dict.fromkeys(KINDS, 0), {"ok": 0, "skipped": 0, "failed": 0}, {}
    quarantined = []
    for row in sources:
        before = latest.get(row["source_id"])
        kind, wanted, attempts = model(row, before, overwrite, retry)
        kinds[kind] += 1
        if wanted:
            todo[row["source_id"]] = (attempts, 1 + (before["revision"] if before else 0))
        else:
            standing[before["status"]] += 1
            if kind == "failed before" and before["attempts"] >= CONFIG.max_attempts:
                quarantined.append(row["source_id"])
    assert choice.quarantined == quarantined
    assert choice.kinds == kinds
    assert choice.standing == standing
    rows = choice.todo.to_pylist()
    ids = catalog["source_id"].to_pylist()
    assert {ids[row["row"]]: (row["attempts"], row["revision"]) for row in rows} == todo
    for row in rows:
        before = latest.get(ids[row["row"]])
        version = catalog["version"][row["row"]].as_py()
        assert row["same_bytes"] == (before is not None and before["version"] == version)
    assert len(rows) + sum(choice.standing.values()) == len(sources)
