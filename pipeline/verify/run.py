"""Verifying: the tables first, then the files, then what is in them."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import groupby, islice
from typing import Any, Protocol

import pyarrow as pa

from pipeline.errors import UserError
from pipeline.manifest import Manifest, Snapshot
from pipeline.ranges import RangedRows, spans
from pipeline.storage import Store
from pipeline.verify.check import Named, check_shard, damaged
from pipeline.verify.draw import Draw
from pipeline.verify.fidelity import Fidelity
from pipeline.verify.files import Files, orphans
from pipeline.verify.findings import Finding, Kind
from pipeline.verify.scope import NAMED, Scope, read_scope, states_of

WORKERS = 4
"""Shards that are read at once: each holds ``check.CHUNK_BYTES`` and some copies."""

_AT_ONCE = 64
"""Shards whose rows of the table are taken in hand at once."""

Progress = Callable[[int], None]
"""Told how many shards were read."""


@dataclass(frozen=True)
class Asked:
    """What is to be verified: a snapshot (default: the newest, and what was committed since).

    With ``sample`` only so many segments are read, drawn by ``seed``; tables, counts and the list
    of files are checked whole.
    """

    snapshot: int | None = None
    sample: int | None = None
    seed: int = 0


@dataclass
class Verification:
    """What was found.

    ``sources`` counts those of the snapshot (else of the newest tables) by status, ``windows`` and
    ``segments`` are what the tables name; ``read_*`` were read back. The lists ``orphaned``,
    ``foreign``, ``temporary`` and ``lost`` (sources that wait for the next run) are no damage.
    ``fidelity`` is what the canary saw, None without one.
    """

    snapshot: int | None
    asked: Asked
    sources: Counter[str] = field(default_factory=Counter)
    windows: int = 0
    segments: int = 0
    shards: int = 0
    read_shards: int = 0
    read_windows: int = 0
    findings: list[Finding] = field(default_factory=list)
    orphaned: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    temporary: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    fidelity: Fidelity | None = None

    def add(self, fidelity: Fidelity) -> None:
        """Take in what the canary saw."""
        self.fidelity = fidelity
        self.findings = _distinct([*self.findings, *fidelity.findings])

    @property
    def sound(self) -> bool:
        """Whether nothing is damaged."""
        return not self.findings

    def to_json(self) -> dict[str, Any]:
        """The machine-readable list."""
        return {
            "sound": self.sound,
            "snapshot": self.snapshot,
            "sample": self.asked.sample,
            "seed": self.asked.seed,
            "sources": dict(self.sources),
            "windows": self.windows,
            "segments": self.segments,
            "shards": self.shards,
            "read": {"shards": self.read_shards, "windows": self.read_windows},
            "damaged": [finding.to_json() for finding in self.findings],
            "orphaned": self.orphaned,
            "foreign": self.foreign,
            "temporary": self.temporary,
            "lost": self.lost,
            "canary": None if self.fidelity is None else self.fidelity.to_json(),
        }


def verify(manifest: Manifest, asked: Asked, progress: Progress) -> Verification:
    """Verify a cache; changes nothing.

    Memory is bounded by the tables' largest range of the source hash, the names of shards, and what
    is wrong. Raises ``UserError`` when there is nothing to verify, and what the store raises when
    it refuses to be read.
    """
    snapshot = _snapshot(manifest, asked)
    found = Verification(None if snapshot is None else snapshot.number, asked)
    states = states_of(manifest, snapshot, newest=asked.snapshot is None)
    named: set[str] = set()
    lost: set[str] = set()
    with _taking(asked) as rows:
        for state in states:  # the snapshot last: its counts are those that are told
            scope = read_scope(manifest, state, rows.add)
            _merge(found, scope)
            named |= scope.shards
            lost |= scope.lost
        files = Files.listed(manifest)
        found.shards = len(files.shards)
        found.orphaned = orphans(manifest, files, named) if asked.snapshot is None else []
        found.foreign, found.temporary = files.foreign, files.temporary
        found.lost = sorted(lost)
        _read_shards(manifest.store, files, rows, found, progress)
    found.findings = _distinct(found.findings)
    return found


def _snapshot(manifest: Manifest, asked: Asked) -> Snapshot | None:
    if asked.snapshot is not None or manifest.snapshot_numbers():
        return manifest.snapshot(asked.snapshot)
    if manifest.version("samples") is None and manifest.version("sources") is None:
        raise UserError(
            f"{manifest.store.uri}: nothing is committed here yet; run jobs/encode_dataset.py"
        )
    return None


def _merge(found: Verification, scope: Scope) -> None:
    found.sources, found.windows, found.segments = scope.sources, scope.windows, scope.segments
    found.findings += scope.findings


def _distinct(findings: Iterable[Finding]) -> list[Finding]:
    return sorted(
        dict.fromkeys(findings), key=lambda f: (f.shard or "", str(f.kind), f.rows, f.sources)
    )


class _Taker(Protocol):
    """Keeps rows to be checked, and gives them back by shard."""

    def add(self, rows: pa.Table) -> None: ...

    def by_shard(self) -> Iterator[tuple[str, list[Named]]]: ...


def _taking(asked: Asked) -> AbstractContextManager[_Taker]:
    if asked.sample is None:
        return _All()
    return nullcontext(_Some(asked.sample, asked.seed))


class _All(AbstractContextManager["_All"]):
    """All rows, on disk where they are many."""

    def __init__(self) -> None:
        self._rows = RangedRows(NAMED, key="digest")

    def __exit__(self, *details: Any) -> None:
        self._rows.__exit__(*details)

    def add(self, rows: pa.Table) -> None:
        self._rows.add(rows)

    def by_shard(self) -> Iterator[tuple[str, list[Named]]]:
        for span in spans(self._rows.num_rows):
            yield from _grouped(self._rows.read(span).to_pylist())


class _Some:
    """Some rows, drawn by a seed."""

    def __init__(self, count: int, seed: int) -> None:
        self._draw = Draw(count, seed)
        self.add = self._draw.add

    def by_shard(self) -> Iterator[tuple[str, list[Named]]]:
        yield from _grouped(self._draw.rows())


def _grouped(rows: list[dict[str, Any]]) -> Iterator[tuple[str, list[Named]]]:
    rows.sort(key=lambda row: (row["shard"], row["first_row"], row["segment_id"]))
    for shard, own in groupby(rows, key=lambda row: str(row["shard"])):
        yield shard, list(dict.fromkeys(Named.of(row) for row in own))


def _read_shards(
    store: Store, files: Files, rows: _Taker, found: Verification, progress: Progress
) -> None:
    shards = rows.by_shard()
    with ThreadPoolExecutor(WORKERS) as pool:
        while some := list(islice(shards, _AT_ONCE)):
            results = pool.map(lambda part: check_named(store, files, *part), some)
            for (_, named), findings in zip(some, results, strict=True):
                found.read_shards += 1
                found.read_windows += len({row for segment in named for row in segment.rows})
                found.findings += findings
                progress(found.read_shards)


def check_named(store: Store, files: Files, path: str, named: list[Named]) -> list[Finding]:
    """What is wrong with a shard and the rows of it that are named."""
    size = files.shards.get(path)
    if size is not None:
        return check_shard(store, path, size, named)
    place = files.elsewhere(path)
    if place is not None:
        return [damaged(path, Kind.MISPLACED, f"the file lies at {place}", named)]
    return [damaged(path, Kind.MISSING, "the file is gone", named)]
