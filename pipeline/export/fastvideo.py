"""Parquet as FastVideo's preprocessing writes it for text-to-video.

Columns and their types are those of ``fastvideo/dataset/dataloader/schema.py``. Its loader takes
every tensor for float32 of ``(C, T, H, W)``, whatever the column of dtypes says; so latents are
written like that (exact for float16). ``num_frames`` are pixel frames. There is no text encoder
here: ``text_embedding_*`` are empty, to be filled by FastVideo's own.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.export.formats import Packed
from pipeline.export.sample import Sample
from pipeline.row_groups import ROW_GROUP_ROWS


def _triplet(name: str) -> list[tuple[str, pa.DataType]]:
    kinds = {"bytes": pa.binary(), "shape": pa.list_(pa.int64()), "dtype": pa.string()}
    return [(f"{name}_{part}", kind) for part, kind in kinds.items()]


SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        *_triplet("vae_latent"),
        *_triplet("text_embedding"),
        ("file_name", pa.string()),
        ("caption", pa.string()),
        ("media_type", pa.string()),
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("num_frames", pa.int64()),
        ("duration_sec", pa.float64()),
        ("fps", pa.float64()),
    ]
)


class FastVideo:
    """Files ``000000.parquet``, … in zstd: float16 as float32 packs well."""

    def encode(self, sample: Sample) -> tuple[dict[str, Any], int]:
        """A row."""
        latents = np.moveaxis(sample.tensors["latents"], 0, 1).astype("<f4")
        row = {
            "id": sample.identity,
            "vae_latent_bytes": latents.tobytes(),
            "vae_latent_shape": list(latents.shape),
            "vae_latent_dtype": "float32",
            "text_embedding_bytes": b"",
            "text_embedding_shape": [0, 0],
            "text_embedding_dtype": "float32",
            "file_name": sample.uri,
            "caption": sample.caption,
            "media_type": "image" if sample.frames == 1 else "video",
            "width": sample.bucket.width,
            "height": sample.bucket.height,
            "num_frames": sample.frames,
            "duration_sec": sample.frames / sample.fps if sample.fps else 0.0,
            "fps": sample.fps,
        }
        return row, latents.nbytes

    def pack(self, items: Sequence[dict[str, Any]]) -> bytes:
        """The file; its loader reads a whole row group for a row, so these are small."""
        sink = io.BytesIO()
        pq.write_table(
            pa.Table.from_pylist(list(items), SCHEMA),
            sink,
            row_group_size=ROW_GROUP_ROWS,
            compression="zstd",
            use_dictionary=["media_type", "vae_latent_dtype", "text_embedding_dtype"],
        )
        return sink.getvalue()

    def name(self, number: int) -> str:
        """In the order of names."""
        return f"{number:06d}.parquet"

    def index(self, shards: Sequence[Packed]) -> Mapping[str, bytes]:
        """None is needed."""
        return {}
