"""Which sources need work: the catalog against the manifest, column by column."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import Config
from pipeline.errors import Reason, SourceError
from pipeline.packs import facts_from_json
from pipeline.recipe import Recipe
from pipeline.sources import Previous, SourcePlan, usable_hints

KINDS = ("added", "changed", "reusable", "failed before")
_ADDED, _CHANGED, _REUSABLE, _FAILED = range(len(KINDS))

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Choice:
    """``kinds``: the dataset's sources by what was found; ``standing``: states of those that need
    no work; ``todo``: the others."""

    kinds: Mapping[str, int]
    standing: Mapping[str, int]
    todo: list[SourcePlan]


def choose(
    config: Config,
    recipe: Recipe,
    sources: pa.Table,
    latest: pa.Table,
    *,
    overwrite: bool,
    retry_failed: bool,
) -> Choice:
    """Compare the catalog's ``sources`` with ``latest``, the newest row of each source.

    A source is ``added`` without a row, ``changed`` when its version or its recipe is another one,
    else ``failed before`` or ``reusable`` by its state. Failures are worth another attempt when the
    reason may pass, up to ``max_attempts``, or with ``retry_failed``.
    """
    at = pc.index_in(sources["source_id"], latest["source_id"].combine_chunks())
    before = latest.take(at.combine_chunks() if isinstance(at, pa.ChunkedArray) else at)
    known = _flags(pc.not_equal(before["status"], "removed"))
    same_version = _flags(pc.equal(before["version"], sources["version"]))
    same_recipe = _same_recipe(recipe, before)
    failed = _flags(pc.equal(before["status"], "failed"))
    again = (
        _flags(pc.is_in(before["reason"], pa.array([str(r) for r in Reason if r.transient])))
        & _flags(pc.less(before["attempts"], config.max_attempts))
    ) | retry_failed
    kind = np.select(
        [~known, ~same_version | ~same_recipe, failed], [_ADDED, _CHANGED, _FAILED], _REUSABLE
    )
    if overwrite:
        kind[kind == _REUSABLE] = _CHANGED
    wanted = (kind == _ADDED) | (kind == _CHANGED) | ((kind == _FAILED) & (again | overwrite))
    states = dict(
        zip(*np.unique(_strings(before["status"])[~wanted], return_counts=True), strict=True)
    )
    rows = np.flatnonzero(wanted)
    return Choice(
        kinds={name: int((kind == code).sum()) for code, name in enumerate(KINDS)},
        standing={name: int(states.get(name, 0)) for name in ("ok", "skipped", "failed")},
        todo=[
            _source_plan(row, earlier if found else None, same, code == _FAILED)
            for row, earlier, found, same, code in zip(
                sources.take(rows).to_pylist(),
                before.take(rows).to_pylist(),
                _flags(pc.is_valid(before["status"]))[rows],
                same_version[rows],
                kind[rows],
                strict=True,
            )
        ],
    )


def _flags(values: Any) -> Flags:
    """A column of truth values; null is false."""
    column = pc.fill_null(values, False)
    flags: Flags = np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.bool_)
    return flags


def _strings(column: pa.ChunkedArray) -> npt.NDArray[np.str_]:
    return np.asarray(pc.fill_null(column, "").to_numpy(), dtype=np.str_)


def _same_recipe(recipe: Recipe, before: pa.Table) -> Flags:
    """Whether rows were made by a recipe that resolves to the same windows.

    A source that failed before its size was known has no recipe to compare: it counts as the same.
    """
    unknown = _flags(pc.is_null(before["width"]))
    columns = [before[name] for name in ("width", "height", "is_image")]
    keys = np.stack(
        [np.asarray(pc.fill_null(c.cast(pa.int64()), 0).to_numpy()) for c in columns], axis=1
    )
    distinct, index = np.unique(keys, axis=0, return_inverse=True)
    wanted = [
        recipe.key(recipe.assign(width, height), bool(is_image)) if width else ""
        for width, height, is_image in distinct.tolist()
    ]
    expected = pa.array(wanted, pa.string()).take(pa.array(index.reshape(-1)))
    return unknown | _flags(pc.equal(before["recipe"], expected))


def _source_plan(
    row: dict[str, Any], before: dict[str, Any] | None, same_version: bool, failed_before: bool
) -> SourcePlan:
    facts = before["facts"] if before is not None and same_version else None
    return SourcePlan(
        source_id=row["source_id"],
        user_id=row["id"],
        uri=row["uri"],
        start=row["start"],
        end=row["end"],
        version=row["version"],
        pinned=row["pinned"],
        revision=1 if before is None else before["revision"] + 1,
        attempts=before["attempts"] if before is not None and failed_before else 0,
        facts=None if facts is None else facts_from_json(facts),
        hints=usable_hints(row),
        previous=_previous(before) if same_version else None,
        failure=(
            None if row["reason"] is None else SourceError(Reason(row["reason"]), row["message"])
        ),
    )


def _previous(before: dict[str, Any] | None) -> Previous | None:
    if before is None or before["status"] != "ok" or before["frames_actual"] is None:
        return None
    return Previous(before["generation"], before["window_recipe"], before["frames_actual"])
