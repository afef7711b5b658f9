"""MosaicML's MDS, version 2: shards that ``streaming.StreamingDataset`` reads, and ``index.json``.

Written after the format's description (https://docs.mosaicml.com/projects/streaming), because the
library wants some forty packages. A shard is, all little-endian: the number of samples (uint32);
where each begins and the last ends (uint32 each, from the begin of the file); the shard's
description as JSON; the samples. A sample is the sizes of its columns that have no fixed size
(uint32 each), then all columns in the order of their names.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.export.formats import Packed
from pipeline.export.sample import Sample


class MDS:
    """Shards ``shard.00000.mds``, … of one folder. All samples have tensors of one shape."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._encodings: dict[str, str] = {}
        self._sizes: dict[str, int | None] = {}

    def encode(self, sample: Sample) -> tuple[bytes, int]:
        """Sizes of columns, and columns."""
        values: dict[str, Any] = {
            "id": sample.identity,
            "source_id": sample.source_id,
            "uri": sample.uri,
            "caption": sample.caption,
            "bucket": sample.bucket.name,
            "first_frame": np.int64(sample.first_frame),
            "frames": np.int64(sample.frames),
            "valid_frames": np.int64(sample.valid_frames),
            "fps": np.float64(sample.fps),
            "columns": sample.columns,
            **sample.tensors,
        }
        if not self._encodings:
            self._encodings = {name: _encoding(values[name]) for name in sorted(values)}
            fixed = {n: e for n, e in self._encodings.items() if e not in ("str", "json")}
            self._sizes = {n: values[n].nbytes if n in fixed else None for n in self._encodings}
        data = {name: _encode(values[name]) for name in self._encodings}
        sizes = [len(data[name]) for name, size in self._sizes.items() if size is None]
        item = np.array(sizes, "<u4").tobytes() + b"".join(data.values())
        return item, len(item) + 4

    def pack(self, items: Sequence[bytes]) -> bytes:
        """The shard. It must be smaller than 4 GiB."""
        description = json.dumps(self._description(), sort_keys=True).encode()
        begin = 4 + 4 * (len(items) + 1) + len(description)
        offsets = begin + np.cumsum([0, *map(len, items)])
        head = np.array([len(items), *offsets], np.uint64).astype("<u4").tobytes()
        return b"".join([head, description, *items])

    def name(self, number: int) -> str:
        """As ``MDSWriter`` calls them."""
        return f"shard.{number:05d}.mds"

    def index(self, shards: Sequence[Packed]) -> Mapping[str, bytes]:
        """``index.json``: without it no loader opens the folder."""
        entries = [
            {
                **self._description(),
                "raw_data": {
                    "basename": shard.name,
                    "bytes": shard.bytes,
                    "hashes": {"sha1": shard.sha1},
                },
                "samples": shard.samples,
                "zip_data": None,
            }
            for shard in shards
        ]
        return {"index.json": json.dumps({"version": 2, "shards": entries}).encode()}

    def _description(self) -> dict[str, Any]:
        return {
            "version": 2,
            "format": "mds",
            "compression": None,
            "hashes": ["sha1"],
            "size_limit": self._limit,
            "column_names": list(self._encodings),
            "column_encodings": list(self._encodings.values()),
            "column_sizes": list(self._sizes.values()),
        }


def _encoding(value: Any) -> str:
    if isinstance(value, str):
        return "str"
    if isinstance(value, dict):
        return "json"
    if value.ndim == 0:
        return str(value.dtype.name)
    return f"ndarray:{value.dtype.name}:{','.join(map(str, value.shape))}"


def _encode(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, dict):
        return json.dumps(value, default=str).encode()
    little = np.asarray(value)
    return little.astype(little.dtype.newbyteorder("<")).tobytes()
