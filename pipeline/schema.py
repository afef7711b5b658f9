"""Arrow schemas of the four append-only tables; ``docs/cache-format.md`` explains every column."""

import pyarrow as pa

_TIME = pa.timestamp("us", tz="UTC")

SAMPLES = pa.schema(
    [
        ("segment_id", pa.string()),
        ("source_id", pa.string()),
        ("generation", pa.string()),
        ("run_id", pa.string()),
        ("bucket", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("first_window", pa.int64()),
        ("windows", pa.int32()),
        ("frames", pa.int32()),
        ("shard", pa.string()),
        ("first_row", pa.int64()),
        ("sample_ids", pa.list_(pa.string())),
        ("pts", pa.list_(pa.list_(pa.int64()))),
        ("time_base_num", pa.int64()),
        ("time_base_den", pa.int64()),
        ("first_frames", pa.list_(pa.int64())),
        ("valid_frames", pa.list_(pa.int32())),
        ("checksums", pa.list_(pa.string())),
        ("fps", pa.float64()),
        ("geometry", pa.string()),
        ("statistic", pa.string()),
        ("dtype", pa.string()),
        ("last", pa.bool_()),
        ("frames_actual", pa.int64()),
        ("committed_at", _TIME),
    ]
)

SOURCES = pa.schema(
    [
        ("source_id", pa.string()),
        ("revision", pa.int64()),
        ("run_id", pa.string()),
        ("id", pa.string()),
        ("uri", pa.string()),
        ("start", pa.float64()),
        ("end", pa.float64()),
        ("version", pa.string()),
        ("recipe", pa.string()),
        ("window_recipe", pa.string()),
        ("generation", pa.string()),
        ("contract_id", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("message", pa.string()),
        ("attempts", pa.int32()),
        ("frames_actual", pa.int64()),
        ("windows", pa.int64()),
        ("buckets", pa.list_(pa.string())),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("is_image", pa.bool_()),
        ("facts", pa.string()),
        ("committed_at", _TIME),
    ]
)

CAPTIONS = pa.schema(
    [
        ("source_id", pa.string()),
        ("revision", pa.int64()),
        ("run_id", pa.string()),
        ("digest", pa.string()),
        ("caption", pa.string()),
        ("committed_at", _TIME),
    ]
)
"""Further columns are the dataset's own, added as they first appear."""

RUNS = pa.schema(
    [
        ("run_id", pa.string()),
        ("state", pa.string()),
        ("at", _TIME),
        ("config", pa.string()),
        ("contract_id", pa.string()),
        ("report", pa.string()),
        ("versions", pa.string()),
    ]
)

TABLES = {"samples": SAMPLES, "sources": SOURCES, "captions": CAPTIONS, "runs": RUNS}
