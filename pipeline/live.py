"""What of the tables is live: the newest complete generation of every source, each sample once."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def newest_by_source(table: pa.Table) -> pa.Table:
    """The row of the highest revision of every source (ties: the last by ``run_id``)."""
    if table.num_rows == 0:
        return table
    keys = [("source_id", "ascending"), ("revision", "ascending")]
    if "run_id" in table.column_names:
        keys.append(("run_id", "ascending"))
    ordered = table.take(pc.sort_indices(table, sort_keys=keys))
    ids = ordered["source_id"].combine_chunks()
    last = pc.fill_null(pc.not_equal(ids[:-1], ids[1:]), True)
    return ordered.filter(pa.concat_arrays([last, pa.array([True])]))


def present_sources(sources: pa.Table) -> pa.Table:
    """The newest row of every source that is still in the dataset (no tombstones)."""
    newest = newest_by_source(sources)
    return newest.filter(pc.not_equal(newest["status"], "removed"))


def verdicts(sources: pa.Table) -> pa.Table:
    """The rows that decide what is live: all but failures."""
    return sources.filter(pc.is_in(sources["status"], pa.array(["ok", "skipped", "removed"])))


def live_generations(sources: pa.Table, contract_id: str) -> pa.Table:
    """source_id and generation of every source that has one to read (``live_rows``)."""
    return live_rows(sources, contract_id).select(["source_id", "generation"])


def live_rows(sources: pa.Table, contract_id: str) -> pa.Table:
    """The rows of ``sources`` that tell of the generations to be read, one a source.

    A generation is live when it is the newest complete one (``ok``) under the contract, and no
    ``skipped`` verdict or tombstone came after it. A later failure leaves it live: a source
    switches to a new generation only when that is complete.
    """
    found = verdicts(sources)
    ours = pc.or_(pc.equal(found["contract_id"], contract_id), pc.equal(found["status"], "removed"))
    newest = newest_by_source(found.filter(ours))
    return newest.filter(pc.equal(newest["status"], "ok"))


def explode(segments: pa.Table) -> pa.Table:
    """Rows of ``samples`` (one per segment) as one row per window, each sample id once.

    Where two rows hold the same sample, the one with the smallest (shard, row) stands.
    Added columns: ``window`` (index on the source's grid), ``row`` (in the shard), ``start_time``
    and ``frame_times`` (seconds, of the source frame shown).
    """
    parent = pc.list_parent_indices(segments["sample_ids"]).combine_chunks()
    flat = {
        single: pc.list_flatten(segments[plural])
        for single, plural in (
            ("sample_id", "sample_ids"),
            ("first_frame", "first_frames"),
            ("valid_frames", "valid_frames"),
            ("checksum", "checksums"),
            ("pts", "pts"),
        )
    }
    lists = ("sample_ids", "first_frames", "valid_frames", "checksums", "pts")
    shared = segments.select([n for n in segments.column_names if n not in lists]).take(parent)
    owner = parent.to_numpy()
    begins = np.searchsorted(owner, np.arange(segments.num_rows))
    offset = np.arange(len(owner)) - begins[owner]
    table = shared
    for name, column in flat.items():
        table = table.append_column(name, column)
    table = table.append_column("window", pa.array(table["first_window"].to_numpy() + offset))
    table = table.append_column("row", pa.array(table["first_row"].to_numpy() + offset))
    table = table.drop_columns(["first_window", "first_row", "windows"])
    return _with_times(_first_of_each(table))


def _first_of_each(table: pa.Table) -> pa.Table:
    keys = [("sample_id", "ascending"), ("shard", "ascending"), ("row", "ascending")]
    order = pc.sort_indices(table, sort_keys=keys)
    ids = table["sample_id"].take(order).combine_chunks()
    if len(ids) == 0:
        return table
    new = pa.concat_arrays([pa.array([True]), pc.not_equal(ids[1:], ids[:-1])])
    chosen = table.take(order.filter(new))
    place = [("source_id", "ascending"), ("bucket", "ascending"), ("window", "ascending")]
    return chosen.take(pc.sort_indices(chosen, sort_keys=place))


def _with_times(table: pa.Table) -> pa.Table:
    pts = table["pts"].combine_chunks()
    if isinstance(pts, pa.ChunkedArray):  # no rows
        pts = pa.array([], pts.type)
    ticks = pc.list_flatten(pts).to_numpy()
    owner = pc.list_parent_indices(pts).to_numpy()
    num = table["time_base_num"].to_numpy().astype(np.float64)
    den = table["time_base_den"].to_numpy().astype(np.float64)
    seconds = ticks * num[owner] / den[owner]
    lengths = pc.list_value_length(pts).to_numpy(zero_copy_only=False).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    times = pa.ListArray.from_arrays(pa.array(offsets), pa.array(seconds))
    starts = seconds[offsets[:-1]] if len(lengths) else np.empty(0)
    return table.append_column("start_time", pa.array(starts)).append_column("frame_times", times)


def join_columns(sources: pa.Table, captions: pa.Table) -> pa.Table:
    """Sources with the newest caption and the dataset's own columns of each.

    A column of the dataset that is named like one of ours is called ``dataset_<name>``.
    """
    newest = newest_by_source(captions)
    taken = set(sources.column_names)
    index: Mapping[str, int] = {
        source: row for row, source in enumerate(newest["source_id"].to_pylist())
    }
    rows = pa.array([index.get(i) for i in sources["source_id"].to_pylist()], pa.int64())
    for name in newest.column_names:
        if name not in _BOOKKEEPING:
            shown = f"dataset_{name}" if name in taken else name
            sources = sources.append_column(shown, newest[name].take(rows))
    return sources


_BOOKKEEPING = frozenset({"source_id", "revision", "run_id", "digest", "committed_at"})
