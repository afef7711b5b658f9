"""Replacing rows of a Delta table in one commit, without losing what is appended meanwhile.

delta-rs accepts a stale overwrite after a compaction of files, and rows then stand twice. So a
replacement is a compare-and-swap: it names the files that it read, and its commit succeeds as the
very next version only. On a conflict it reads again and repeats.
"""

import json
import secrets
import time
from collections.abc import Callable, Collection

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable
from deltalake.exceptions import CommitFailedError
from deltalake.transaction import AddAction, RemoveAction

from pipeline.errors import UserError
from pipeline.retry import Retry
from pipeline.scan import open_dataset
from pipeline.storage import Store

FILE_BYTES = 100 * 10**6
"""Rows of so many bytes in memory become one file."""

_ATTEMPTS = 20

Edit = Callable[[pa.Table], pa.Table]

ONCE = CommitProperties(max_commit_retries=0)
"""A commit as the next version, or none."""


def open_table(store: Store, name: str) -> DeltaTable:
    """The newest version of a table that exists. Raises ``UserError``, as ``open_dataset`` does."""
    table = DeltaTable(store.table_uri(name), storage_options=store.delta_options())
    open_dataset(table)
    return table


def until_no_conflict(what: str, attempt: Callable[[], None], store: Store) -> None:
    """Repeat an attempt, which begins with reading the table, while others commit between.

    Raises ``UserError`` when that never ends.
    """
    for _ in range(_ATTEMPTS):
        try:
            Retry(store.storage.retry_seconds).call(attempt)
            return
        except CommitFailedError:
            continue
    raise UserError(
        f"{store.uri}/{what}: other commits came between {_ATTEMPTS} times; stop the runs that "
        "write to this cache, or try again later"
    )


def replace_rows(
    store: Store,
    name: str,
    shards: Collection[str],
    make_edit: Callable[[], Edit],
    guard: Callable[[], None],
) -> bool:
    """Pass the files with rows that name one of ``shards`` through an edit, in one commit.

    ``make_edit`` is called anew for each attempt; an edit gets all rows of a file, in turn.
    ``guard`` is called before the commit. Returns whether there was such a row.
    """
    wanted = pa.array(sorted(shards), pa.string())
    changed = False
    written: set[str] = set()

    def attempt() -> None:
        nonlocal changed
        table = open_table(store, name)
        present = pa.table(table.get_add_actions())
        sizes = dict(
            zip(present["path"].to_pylist(), present["size_bytes"].to_pylist(), strict=True)
        )
        if written & sizes.keys():  # the last attempt's commit succeeded, its answer was lost
            changed = True
            return
        written.clear()
        fragments = list(open_dataset(table).get_fragments())
        touched = [fragment for fragment in fragments if _names(fragment, wanted)]
        if not touched:
            return
        edit = make_edit()
        adds = _write_edited(store, name, touched, edit)
        written.update(add.path for add in adds)
        stamp = _milliseconds()
        removes = [
            RemoveAction(fragment.path, True, stamp, size=sizes[fragment.path])
            for fragment in touched
        ]
        guard()
        table.create_write_transaction(
            [*adds, *removes], "append", table.schema(), commit_properties=ONCE
        )
        changed = True

    until_no_conflict(name, attempt, store)
    return changed


def _names(fragment: ds.Fragment, shards: pa.Array) -> bool:
    column = fragment.to_table(columns=["shard"])["shard"]
    return bool(pc.any(pc.is_in(column, shards)).as_py())


def _write_edited(
    store: Store, name: str, fragments: list[ds.Fragment], edit: Edit
) -> list[AddAction]:
    adds = []
    held: list[pa.Table] = []
    for fragment in fragments:
        held.append(edit(fragment.to_table()))
        if sum(table.nbytes for table in held) >= FILE_BYTES:
            adds += _write(store, name, pa.concat_tables(held))
            held = []
    return adds + (_write(store, name, pa.concat_tables(held)) if held else [])


def _write(store: Store, name: str, rows: pa.Table) -> list[AddAction]:
    if rows.num_rows == 0:
        return []
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, compression="snappy")
    data = sink.getvalue().to_pybytes()
    path = f"part-{secrets.token_hex(16)}.snappy.parquet"
    store.write(f"{name}/{path}", data)
    statistics = json.dumps({"numRecords": rows.num_rows})
    return [AddAction(path, len(data), {}, _milliseconds(), True, statistics)]


def _milliseconds() -> int:
    return time.time_ns() // 10**6
