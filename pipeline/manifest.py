"""The manifest: four append-only Delta tables and the published snapshots that pin them."""

import datetime
import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, DeltaTable, write_deltalake
from deltalake.exceptions import TableNotFoundError
from pyarrow.dataset import Fragment

from pipeline.contract import CONTRACT_PATH, FORMAT_VERSION, Contract
from pipeline.errors import UserError
from pipeline.explain import Verb, explained
from pipeline.ranges import RangedRows
from pipeline.retry import Retry
from pipeline.scan import open_dataset
from pipeline.schema import TABLES
from pipeline.storage import Store

T = TypeVar("T")

_TABLE_SETTINGS = {
    "delta.logRetentionDuration": "interval 3650 days",
    "delta.deletedFileRetentionDuration": "interval 3650 days",
}
"""Snapshots pin table versions, so delta-rs must never clean the log up by itself."""

SNAPSHOT_FOLDER = "snapshots"

_CAPTIONS_AT_ONCE = 100_000
"""Rows of ``captions`` of one commit: delta-rs takes memory for each while it writes."""

_READ_AHEAD = {"batch_size": 65_536, "batch_readahead": 2, "fragment_readahead": 2}
"""How much of a table is in memory at once while it is read."""

_EVER = datetime.datetime.max.replace(tzinfo=datetime.UTC)
_COARSE = datetime.timedelta(milliseconds=1)
"""Statistics of the log are cut to milliseconds."""

_TIMES_OVERTAKEN = 500
"""How often other committers may be faster, before an append gives up; of 16 that append without a
pause, one gave up after the 15 times that delta-rs allows."""

_TOKEN = "append"
"""Key in a commit's metadata that tells whose it is."""


Guard = Callable[[], None]
"""Called right before a write; raises when the run may not go on."""


def unguarded() -> None:
    """The guard of who shares the cache with nobody."""


def now() -> datetime.datetime:
    """The present time, in UTC."""
    return datetime.datetime.now(datetime.UTC)


@dataclass(frozen=True)
class Snapshot:
    """One published, immutable state: the version of every table, the contract and the run."""

    number: int
    run_id: str
    created_at: str
    contract: Contract
    tables: dict[str, int]

    def to_json(self) -> str:
        """The text of ``snapshots/N.json``."""
        return (
            json.dumps(
                {
                    "format_version": FORMAT_VERSION,
                    "snapshot": self.number,
                    "run_id": self.run_id,
                    "created_at": self.created_at,
                    "contract": json.loads(self.contract.to_json()),
                    "tables": self.tables,
                },
                indent=2,
            )
            + "\n"
        )

    @classmethod
    def from_json(cls, text: bytes, origin: str) -> "Snapshot":
        """Read ``snapshots/N.json``. Raises ``ContractError`` for a format of another version."""
        fields = json.loads(text)
        return cls(
            number=fields["snapshot"],
            run_id=fields["run_id"],
            created_at=fields["created_at"],
            contract=Contract.from_dict(fields["contract"], origin),
            tables=fields["tables"],
        )


class Manifest:
    """Reads and appends the tables of one cache; publishes and lists its snapshots."""

    def __init__(self, store: Store) -> None:
        self.store = store

    # ---- tables

    def version(self, table: str) -> int | None:
        """Newest version of a table; None before its first append."""
        found = self._patiently(lambda: self._open(table, None))
        return None if found is None else int(found.version())

    def read(
        self,
        table: str,
        version: int | None = None,
        columns: Sequence[str] | None = None,
        where: pc.Expression | None = None,
    ) -> pa.Table:
        """Rows of a table at a version (default: newest), filtered; none before an append."""
        wanted = None if columns is None else list(columns)

        def read() -> pa.Table:
            found = self._open(table, version)
            if found is None:
                return self.empty(table) if wanted is None else self.empty(table).select(wanted)
            return open_dataset(found).to_table(columns=wanted, filter=where, **_READ_AHEAD)

        return self._patiently(read)

    def by_range(
        self,
        table: str,
        columns: Sequence[str],
        version: int | None = None,
        where: pc.Expression | None = None,
    ) -> RangedRows:
        """Columns of all rows (or filtered ones), to be read by ranges of the source hash."""

        def gather() -> RangedRows:
            found = self._open(table, version)
            if found is None:
                return RangedRows(self.empty(table).select(list(columns)).schema)
            dataset = open_dataset(found)
            known = {field.name: field for field in (*dataset.schema, *TABLES[table])}
            rows = RangedRows(pa.schema([known[name] for name in columns]))
            for batch in dataset.scanner(list(columns), filter=where, **_READ_AHEAD).to_batches():
                rows.add(batch)
            return rows

        return self._patiently(gather)

    def descending(
        self, table: str, columns: Sequence[str], by: str
    ) -> Iterator[Mapping[str, Any]]:
        """Rows in descending order of the time ``by``; files are read as far as rows are taken.

        The log tells the latest time of a file without reading it.
        """

        def latest_first() -> list[tuple[datetime.datetime, Fragment]]:
            found = self._open(table, None)
            if found is None:
                return []
            fragments = {f.path: f for f in open_dataset(found).get_fragments()}
            ends = {
                file["path"]: file.get(f"max.{by}")
                for file in pa.table(found.get_add_actions(flatten=True)).to_pylist()
            }
            files = [
                (_EVER if ends.get(path) is None else ends[path] + _COARSE, fragment)
                for path, fragment in fragments.items()
            ]
            return sorted(files, key=lambda file: file[0], reverse=True)

        rows: list[Mapping[str, Any]] = []
        for end, fragment in self._patiently(latest_first):
            while rows and rows[-1][by] > end:
                yield rows.pop()
            read = self._patiently(partial(fragment.to_table, columns=list(columns)))
            rows = sorted([*rows, *read.to_pylist()], key=lambda row: row[by])
        yield from reversed(rows)

    @staticmethod
    def empty(table: str) -> pa.Table:
        """A table as it is before its first append."""
        return TABLES[table].empty_table()

    def append(self, table: str, rows: pa.Table | Sequence[Mapping[str, Any]]) -> None:
        """Append rows in one commit; a no-op for none. Columns unknown so far are added."""
        data = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows, TABLES[table])
        if data.num_rows == 0:
            return
        token = secrets.token_hex(8)
        before: int | None = None

        def write() -> None:
            nonlocal before
            found = self._open(table, None)
            newest = -1 if found is None else int(found.version())
            if before is None:
                before = newest
            elif any(self._holds(table, n, token) for n in range(before + 1, newest + 1)):
                return  # an earlier attempt was committed, and its answer lost
            write_deltalake(
                self.store.table_uri(table),
                data,
                mode="append",
                schema_mode="merge" if found is not None and table == "captions" else None,
                configuration=None if found is not None else _TABLE_SETTINGS,
                storage_options=self.store.delta_options(),
                commit_properties=CommitProperties(
                    custom_metadata={_TOKEN: token}, max_commit_retries=_TIMES_OVERTAKEN
                ),
            )

        self._patiently(write, "written")

    def _patiently(self, function: Callable[[], T], verb: Verb = "read") -> T:
        """Repeat what delta-rs gives up at once: a reset, a body cut short.

        Raises ``UserError`` where the store refuses for good.
        """
        with explained(self.store.uri, verb):
            if self.store.local:
                return function()
            return Retry(self.store.storage.retry_seconds).call(function)

    def _holds(self, table: str, version: int, token: str) -> bool:
        """Whether the commit of a version carries ``token``."""
        return token.encode() in self.store.read(f"{table}/_delta_log/{version:020}.json")

    def append_columns(self, run_id: str, rows: pa.Table, guard: Guard = unguarded) -> None:
        """Append caption rows: source_id, revision, digest, caption, the dataset's own columns.

        Raises ``UserError`` when a column has another type than it had before.
        """
        known = self.schema("captions")
        for name in rows.column_names:
            if name in known.names and rows[name].type != known.field(name).type:
                rows = self._cast(rows, name, known.field(name).type)
        at = pa.scalar(now(), TABLES["captions"].field("committed_at").type)
        for first in range(0, rows.num_rows, _CAPTIONS_AT_ONCE):
            guard()
            some = rows.slice(first, _CAPTIONS_AT_ONCE)
            stamped = some.append_column("run_id", pa.repeat(run_id, some.num_rows))
            times = pa.repeat(at, some.num_rows)
            self.append("captions", stamped.append_column("committed_at", times))

    def schema(self, table: str) -> pa.Schema:
        """The columns of a table as they are now."""
        found = self._patiently(lambda: self._open(table, None))
        return TABLES[table] if found is None else pa.schema(found.schema().to_arrow())

    def _cast(self, rows: pa.Table, name: str, kind: pa.DataType) -> pa.Table:
        try:
            column = rows[name].cast(kind)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise UserError(
                f"the dataset's column {name!r} is {rows[name].type}, but {kind} in the cache "
                f"{self.store.uri}; rename the column, or convert its values"
            ) from error
        return rows.set_column(rows.column_names.index(name), name, column)

    def _open(self, table: str, version: int | None) -> DeltaTable | None:
        uri, options = self.store.table_uri(table), self.store.delta_options()
        try:
            return DeltaTable(uri, version=version, storage_options=options)
        except TableNotFoundError:
            if version is not None:
                raise
            return None

    # ---- contract

    def contract(self) -> Contract | None:
        """The contract at the root; None for a new cache."""
        with explained(self.store.uri, "read"):
            try:
                text = self.store.read(CONTRACT_PATH)
            except FileNotFoundError:
                return None
        return Contract.from_dict(json.loads(text), f"{self.store.uri}/{CONTRACT_PATH}")

    def write_contract(self, contract: Contract, guard: Guard = unguarded) -> None:
        """Put (or, for ``--overwrite``, replace) the contract at the root."""
        guard()
        with explained(self.store.uri, "written"):
            self.store.write(CONTRACT_PATH, contract.to_json().encode())

    # ---- snapshots

    def snapshot_numbers(self) -> list[int]:
        """Numbers of the published snapshots, ascending."""
        with explained(self.store.uri, "read"):
            names = self.store.names(SNAPSHOT_FOLDER)
        stems = [name.removesuffix(".json") for name in names if name.endswith(".json")]
        return sorted(int(stem) for stem in stems if stem.isdigit())

    def snapshot(self, number: int | None = None) -> Snapshot:
        """A published snapshot (default: the newest). Raises ``UserError`` when there is none."""
        numbers = self.snapshot_numbers()
        if not numbers:
            raise UserError(
                f"{self.store.uri}: no snapshot is published here; check the URI, or run "
                "jobs/encode_dataset.py to the end"
            )
        chosen = numbers[-1] if number is None else number
        if chosen not in numbers:
            raise UserError(
                f"{self.store.uri}: there is no snapshot {chosen!r}; there are {_told(numbers)}"
            )
        path = f"{SNAPSHOT_FOLDER}/{chosen}.json"
        with explained(self.store.uri, "read"):
            text = self.store.read(path)
        return Snapshot.from_json(text, f"{self.store.uri}/{path}")

    def publish(self, run_id: str, contract: Contract, guard: Guard = unguarded) -> Snapshot:
        """Publish the tables as they are now, by conditional create of the next number.

        When nothing that a reader sees changed since the newest snapshot, that one is returned.
        """
        while True:
            # Before the versions: what is published between takes the number, and this goes round.
            numbers = self.snapshot_numbers()
            tables = self.versions()
            if numbers:
                newest = self.snapshot(numbers[-1])
                if newest.contract == contract and _seen(newest.tables) == _seen(tables):
                    return newest
            number = numbers[-1] + 1 if numbers else 1
            created = now().isoformat(timespec="seconds")
            snapshot = Snapshot(number, run_id, created, contract, tables)
            path = f"{SNAPSHOT_FOLDER}/{number}.json"
            guard()
            with explained(self.store.uri, "written"):
                if self.store.create(path, snapshot.to_json().encode()):
                    return snapshot

    def versions(self) -> dict[str, int]:
        """Newest version of every table that has one."""
        # `sources` before `samples`, which is appended first: no source is seen without segments.
        newest = {name: self.version(name) for name in ("captions", "sources", "samples", "runs")}
        return {name: version for name, version in newest.items() if version is not None}


def _told(numbers: Sequence[int]) -> str:
    """Ascending numbers for people: ``1 to 4, 6``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], number]
        else:
            runs.append([number])
    return ", ".join(" to ".join(map(str, run)) for run in runs)


def _seen(tables: Mapping[str, int]) -> dict[str, int]:
    """Table versions without ``runs``, which every run appends to."""
    return {name: version for name, version in tables.items() if name != "runs"}
