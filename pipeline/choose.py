"""Which sources need work: the catalog against the manifest, column by column."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import Config
from pipeline.errors import Reason
from pipeline.recipe import Recipe

KINDS = ("added", "changed", "reusable", "failed before")
STATES = ("ok", "skipped", "failed")
_ADDED, _CHANGED, _REUSABLE, _FAILED = range(len(KINDS))
_TRANSIENT = pa.array([str(reason) for reason in Reason if reason.transient])

_SIZE = 2**31 - 1
"""Heights and widths are 32-bit integers of 0 or more."""

CHOSEN = pa.schema(
    [
        ("row", pa.int32()),
        ("revision", pa.int32()),
        ("attempts", pa.int32()),
        ("same_bytes", pa.bool_()),
    ]
)
"""Of a source that needs work: its row in the catalog, the revision of its next row in the cache,
the attempts that count against it, and whether its newest row there is of the same bytes."""

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Choice:
    """``kinds``: the dataset's sources by what was found; ``standing``: states of those that need
    no work; ``todo``: the others (``CHOSEN``); ``quarantined``: ids of those that failed
    ``max_attempts`` times, and are not tried again.
    """

    kinds: Mapping[str, int]
    standing: Mapping[str, int]
    todo: pa.Table
    quarantined: list[str]


@dataclass(frozen=True)
class Chooser:
    """Chooses what needs work. ``overwrite`` leaves nothing as it is; ``retry_failed`` tries again
    whatever failed.
    """

    config: Config
    recipe: Recipe
    overwrite: bool = False
    retry_failed: bool = False
    _keys: dict[tuple[int, int, int], str] = field(default_factory=dict)

    def choose(self, sources: pa.Table, latest: pa.Table) -> Choice:
        """Compare sources of the catalog with ``latest``, the newest row of each source.

        Of the catalog they have source_id, version and ``row``, the number of the row.

        A source is ``added`` without a row, ``changed`` when its version or its recipe is another
        one, else ``failed before`` or ``reusable`` by its state. Failures are worth another attempt
        when the reason may pass, up to ``max_attempts``, or with ``retry_failed``.
        """
        at = pc.index_in(sources["source_id"], latest["source_id"].combine_chunks())
        before = latest.take(at.combine_chunks() if isinstance(at, pa.ChunkedArray) else at)
        known = _flags(pc.not_equal(before["status"], "removed"))
        same_version = _flags(pc.equal(before["version"], sources["version"]))
        same_recipe = self._same_recipe(before)
        failed = _flags(pc.equal(before["status"], "failed"))
        again = (
            _flags(pc.is_in(before["reason"], _TRANSIENT))
            & _flags(pc.less(before["attempts"], self.config.max_attempts))
        ) | self.retry_failed
        kind = np.select(
            [~known, ~same_version | ~same_recipe, failed], [_ADDED, _CHANGED, _FAILED], _REUSABLE
        )
        if self.overwrite:
            kind[kind == _REUSABLE] = _CHANGED
        wanted = (kind == _ADDED) | (kind == _CHANGED)
        wanted |= (kind == _FAILED) & (again | self.overwrite)
        often = _flags(pc.greater_equal(before["attempts"], self.config.max_attempts))
        quarantined = (kind == _FAILED) & often & ~wanted
        idle = before["status"].filter(pa.array(~wanted))
        rows = pa.array(np.flatnonzero(wanted))
        failed_before = pa.array(kind == _FAILED)
        return Choice(
            kinds={name: int((kind == code).sum()) for code, name in enumerate(KINDS)},
            standing={state: pc.sum(pc.equal(idle, state)).as_py() or 0 for state in STATES},
            todo=pa.table(
                {
                    "row": sources["row"].take(rows),
                    "revision": pc.add(pc.fill_null(before["revision"], 0), 1).take(rows),
                    "attempts": pc.if_else(failed_before, before["attempts"], 0).take(rows),
                    "same_bytes": same_version[wanted],
                }
            ).cast(CHOSEN),
            quarantined=sources["source_id"].filter(pa.array(quarantined)).to_pylist(),
        )

    def _same_recipe(self, before: pa.Table) -> Flags:
        """Whether rows were made by a recipe that resolves to the same windows.

        A source that failed before its size was known has no recipe to compare: it counts as the
        same.
        """
        unknown = _flags(pc.is_null(before["width"]))
        columns = [before[name] for name in ("width", "height", "is_image")]
        width, height, is_image = (
            np.asarray(pc.fill_null(column.cast(pa.int64()), 0).to_numpy()) for column in columns
        )
        distinct, index = np.unique(width << 32 | height << 1 | is_image, return_inverse=True)
        wanted = [self._key(size >> 32, size >> 1 & _SIZE, size & 1) for size in distinct.tolist()]
        expected = pa.array(wanted, pa.string()).take(pa.array(index))
        return unknown | _flags(pc.equal(before["recipe"], expected))

    def _key(self, width: int, height: int, is_image: int) -> str:
        """The recipe's key for sources of one size; none for an unknown one."""
        size = (width, height, is_image)
        if size not in self._keys:
            buckets = self.recipe.assign(width, height) if width else ()
            self._keys[size] = self.recipe.key(buckets, bool(is_image)) if width else ""
        return self._keys[size]


def _flags(values: Any) -> Flags:
    """A column of truth values; null is false."""
    column = pc.fill_null(values, False)
    flags: Flags = np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.bool_)
    return flags
