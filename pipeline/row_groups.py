"""Row groups of Parquet shards: whole segments, so that what lies within one is read at once."""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

ROW_GROUP_ROWS = 8
"""Rows of a row group, but for a longer segment: few, so that one sample is read with little
besides."""


def group_rows(segments: Sequence[int]) -> list[int]:
    """Rows of each row group of a shard whose segments have so many rows each."""
    groups: list[int] = []
    for rows in segments:
        if groups and groups[-1] + rows <= ROW_GROUP_ROWS:
            groups[-1] += rows
        else:
            groups.append(rows)
    return groups


def group_begins(footer: Any) -> list[int]:
    """The first row of each row group of a Parquet file, and last the number of its rows."""
    counts = (footer.row_group(n).num_rows for n in range(footer.num_row_groups))
    return list(accumulate(counts, initial=0))


def groups_of(begins: Sequence[int], first: int, count: int) -> range:
    """The row groups that hold rows ``[first, first + count)``. Raises ``ValueError``."""
    if first < 0 or count < 1 or first + count > begins[-1]:
        raise ValueError(f"rows {first} to {first + count - 1} of {begins[-1]}")
    held = [
        n
        for n, (begin, stop) in enumerate(pairwise(begins))
        if begin < first + count and first < stop
    ]
    return range(held[0], held[-1] + 1)
