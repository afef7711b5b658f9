"""Builders of configurations, rows and packs for the tests of the core."""

import copy
import dataclasses
import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from pipeline.buckets import Bucket, fit
from pipeline.config import Config, StorageConfig, load_config
from pipeline.contract import FORMAT_VERSION, Contract
from pipeline.identity import stable_hash
from pipeline.manifest import Manifest
from pipeline.packs import SegmentInfo
from pipeline.plan import SourcePlan
from pipeline.recipe import Recipe
from pipeline.shards import Shard
from pipeline.storage import Store
from pipeline.video.facts import VideoFacts
from pipeline.windows import WINDOW_FRAMES

settings.register_profile("core", deadline=None, database=None, derandomize=True, max_examples=60)
settings.load_profile("core")

LOCAL = StorageConfig(retry_seconds=0)
SMALL = Bucket(32, 32)
WIDE = Bucket(32, 64)
TALL = Bucket(64, 32)
EPOCH = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)

NARROW = {
    "random_seed": 0,
    "z_channels": 2,
    "device": "cpu",
    "widths": {
        "num_res_blocks": 1,
        "encoder_ch": 8,
        "encoder_ch_mult": [1, 2, 1, 1],
        "decoder_ch": 8,
        "decoder_ch_mult": [1, 2, 1, 1],
        "norm_groups": 4,
    },
}
"""The section ``vae`` of a model that encodes a 32x32 window in a fraction of a second."""


def make_config(overrides: tuple[str, ...] = (), /, **fields: Any) -> Config:
    """A valid configuration; ``a__b=value`` sets the key ``a.b``."""
    given = {name.replace("__", "."): value for name, value in fields.items()}
    base: dict[str, Any] = {
        "dataset.uri": "/nowhere/dataset",
        "output.uri": "/nowhere/cache",
        "buckets": [{"height": 32, "width": 32}],
        "vae": copy.deepcopy(NARROW),
        "run.runner": "local",
    }
    return load_config(None, overrides, {**base, **given})


def make_contract(**changes: Any) -> Contract:
    return Contract(
        **{
            "format_version": FORMAT_VERSION,
            "vae_version": 2,
            "z_channels": 2,
            "encoder_sha256": "ab" * 32,
            "value_range": (-1.0, 1.0),
            "layout": "t,C,h,w",
            "statistic": "moments",
            "dtype": "float16",
            "scale": 1.0,
            "shift": 0.0,
            "window_frames": WINDOW_FRAMES,
            "latent_frames": 3,
            **changes,
        }
    )


def make_recipe(config: Config | None = None, **contract: Any) -> Recipe:
    return Recipe.from_config(config or make_config(), make_contract(**contract))


def make_facts(**changes: Any) -> VideoFacts:
    """A 64x64 video of 100 frames at 25 fps."""
    return VideoFacts(
        **{
            "width": 64,
            "height": 64,
            "coded_width": 64,
            "coded_height": 64,
            "sar_num": 1,
            "sar_den": 1,
            "rotation": 0,
            "fps": 25.0,
            "frames": 100,
            "duration": 4.0,
            "codec": "h264",
            "pixel_format": "yuv420p",
            "container": "mp4",
            "time_base_num": 1,
            "time_base_den": 25,
            "origin": 0,
            "is_image": False,
            **changes,
        }
    )


def make_segment(
    source: str = "s",
    first: int = 0,
    windows: int = 2,
    bucket: Bucket = SMALL,
    frames: int = WINDOW_FRAMES,
    **changes: Any,
) -> SegmentInfo:
    """Windows on a grid of 17 frames, their sample ids made of source, bucket and index."""
    indices = range(first, first + windows)
    fields: dict[str, Any] = {
        "source_id": source,
        "generation": f"{source}-g",
        "bucket": bucket.name,
        "first_window": first,
        "windows": windows,
        "frames": frames,
        "pts": [[n * frames + k for k in range(frames)] for n in indices],
        "time_base": (1, 25),
        "valid_frames": [frames] * windows,
        "first_frames": [n * frames for n in indices],
        "sample_ids": [stable_hash([source, bucket.name, n]) for n in indices],
        "geometry": fit(64, 64, bucket, "cover").to_dict(),
        "fps": 25.0,
        "last": False,
        "frames_actual": None,
    }
    return SegmentInfo(**{**fields, **changes})


def make_tensors(
    contract: Contract, windows: int, bucket: Bucket = SMALL, frames: int = 3, seed: int = 0
) -> dict[str, np.ndarray]:
    """Random latents of ``windows`` windows, in the stored dtype."""
    shape = (windows, frames, contract.z_channels, bucket.height // 16, bucket.width // 16)
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(contract.dtype) for name in contract.tensors}


def make_shard(contract: Contract, *segments: SegmentInfo, seed: int = 0) -> Shard:
    bucket = Bucket.parse(segments[0].bucket)
    latents = 3 if segments[0].frames == WINDOW_FRAMES else 1
    windows = sum(segment.windows for segment in segments)
    tensors = make_tensors(contract, windows, bucket, latents, seed)
    return Shard(bucket.name, segments, tensors, contract)


def sample_row(segment: SegmentInfo, **changes: Any) -> dict[str, Any]:
    """A segment's row in the table ``samples``."""
    fields = dataclasses.asdict(segment)
    num, den = fields.pop("time_base")
    return {
        **fields,
        "segment_id": stable_hash([segment.generation, segment.bucket, segment.first_window]),
        "run_id": "run",
        "geometry": json.dumps(segment.geometry),
        "time_base_num": num,
        "time_base_den": den,
        "height": segment.geometry["height"],
        "width": segment.geometry["width"],
        "shard": f"data/{segment.bucket}/x.safetensors",
        "first_row": 0,
        "checksums": [f"{n:016x}" for n in range(segment.windows)],
        "statistic": "moments",
        "dtype": "float16",
        "committed_at": EPOCH,
        **changes,
    }


def source_row(source: str, **changes: Any) -> dict[str, Any]:
    """A row of the table ``sources``; its generation is that of ``make_segment``."""
    return {
        "source_id": source,
        "revision": 1,
        "run_id": "run",
        "id": None,
        "uri": f"/videos/{source}.mp4",
        "start": None,
        "end": None,
        "version": "v1",
        "recipe": "r",
        "window_recipe": "w",
        "generation": f"{source}-g",
        "contract_id": make_contract().contract_id,
        "status": "ok",
        "reason": None,
        "message": None,
        "attempts": 1,
        "frames_actual": 100,
        "windows": 5,
        "buckets": [SMALL.name],
        "width": None,
        "height": None,
        "is_image": None,
        "facts": None,
        "committed_at": EPOCH,
        **changes,
    }


def make_source(source: str = "s", **changes: Any) -> SourcePlan:
    """A planned source of one bucket, nothing of it committed yet."""
    return SourcePlan(
        **{
            "source_id": source,
            "user_id": None,
            "uri": f"/videos/{source}.mp4",
            "start": None,
            "end": None,
            "version": "v1",
            "pinned": True,
            "revision": 1,
            "attempts": 0,
            "facts": make_facts(),
            "recipe": "r",
            "window_recipe": "w",
            "generation": f"{source}-g",
            "buckets": (SMALL,),
            **changes,
        }
    )


def make_store(folder: Path) -> Store:
    return Store(str(folder), LOCAL)


def make_manifest(folder: Path) -> Manifest:
    return Manifest(make_store(folder))


def intervals(limit: int = 40) -> st.SearchStrategy[tuple[int, int]]:
    """Half-open, not empty intervals below ``limit``."""
    return st.tuples(st.integers(0, limit - 1), st.integers(1, 8)).map(lambda p: (p[0], sum(p)))


def members(spans: Any, horizon: int = 10**3) -> set[int]:
    """The integers in half-open intervals; an open end reaches to ``horizon``."""
    return {n for first, stop in spans for n in range(first, horizon if stop is None else stop)}
