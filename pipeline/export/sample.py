"""What an export takes from the reader: one clip, its latents and what is known of it."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.buckets import Bucket
from pipeline.reader.batches import Batch
from pipeline.reader.index import Array

SOURCE_COLUMNS = ("caption", "uri")
"""Columns that every export has, where the dataset has them."""


@dataclass(frozen=True)
class Sample:
    """A clip. ``tensors``: ``(t, C, h, w)`` each, ``latents``, or ``mean`` and ``logvar``.

    ``identity`` is ``<source_id>:<bucket>:<first frame>``, as in the reader's batches; ``columns``
    are those of the source that were asked for, beside caption and URI.
    """

    identity: str
    source_id: str
    bucket: Bucket
    first_frame: int
    frames: int
    valid_frames: int
    fps: float
    caption: str
    uri: str
    columns: dict[str, Any]
    tensors: dict[str, Array]

    @classmethod
    def of(cls, clip: Batch, frames: int, columns: tuple[str, ...]) -> "Sample":
        """A clip as ``LatentMap`` gives it."""
        names = ("latents", "mean", "logvar")
        return cls(
            identity=clip["ids"],
            source_id=clip["source_ids"],
            bucket=Bucket.parse(clip["bucket"]),
            first_frame=int(clip["first_frames"]),
            frames=frames,
            valid_frames=int(clip["valid_frames"]),
            fps=float(clip["fps"]),
            caption=clip.get("caption") or "",
            uri=clip.get("uri") or "",
            columns={name: clip[name] for name in columns if name not in SOURCE_COLUMNS},
            tensors={n: np.ascontiguousarray(clip[n].numpy()) for n in names if n in clip},
        )

    def to_json(self) -> str:
        """All but caption and tensors. Times and other values without a form in JSON are text."""
        fields = {
            "id": self.identity,
            "source_id": self.source_id,
            "uri": self.uri,
            "bucket": self.bucket.name,
            "first_frame": self.first_frame,
            "frames": self.frames,
            "valid_frames": self.valid_frames,
            "fps": self.fps,
            "columns": self.columns,
        }
        return json.dumps(fields, default=str)
