"""A dataset's list and the manifest of a cache that has encoded all of it, without any video."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.buckets import Bucket
from pipeline.catalog import Catalog, read_catalog
from pipeline.columns import changed_columns
from pipeline.config import Config
from pipeline.manifest import Manifest, now
from pipeline.packs import facts_to_json
from pipeline.recipe import Recipe, generation_id
from pipeline.schema import SAMPLES, SOURCES
from pipeline.storage import Store
from pipeline.video.facts import VideoFacts
from pipeline.weights import make_contract
from pipeline.windows import WINDOW_FRAMES

BUCKETS = tuple(
    Bucket(height, width)
    for height, width in ((544, 992), (992, 544), (768, 768), (640, 832), (256, 256))
)

_COMMIT = 10_000
"""Sources of one commit."""

_SIZES = ((1280, 720), (1920, 1080), (720, 1280), (640, 480), (1080, 1080))
_WORDS = (
    "a",
    "slow",
    "pan",
    "over",
    "quiet",
    "water",
    "towards",
    "hills",
    "in",
    "evening",
    "light",
)
_RUN = "bench"


def bench_config(folder: Path, buckets: Sequence[Bucket] = BUCKETS) -> Config:
    """The configuration of the benchmark's cache in ``folder``: narrow VAE, local runner."""
    widths = {
        "num_res_blocks": 1,
        "norm_groups": 4,
        "encoder_ch": 8,
        "encoder_ch_mult": [1, 1, 1, 1],
        "decoder_ch": 8,
        "decoder_ch_mult": [1, 1, 1, 1],
    }
    return Config.model_validate(
        {
            "dataset": {"uri": str(folder / "list.parquet")},
            "output": {"uri": str(folder / "cache")},
            "windows": {"fps": "24"},
            "buckets": [{"height": bucket.height, "width": bucket.width} for bucket in buckets],
            "vae": {"random_seed": 0, "z_channels": 2, "device": "cpu", "widths": widths},
            "run": {"runner": "local"},
            "report": {"page": False},
        }
    )


def build(folder: Path, sources: int, windows: int, buckets: Sequence[Bucket] = BUCKETS) -> None:
    """Make a list of ``sources`` videos and a published cache with ``windows`` windows of each.

    The tables are appended by the manifest's own code; no video and no shard exists, since a
    refresh looks at none. ``folder`` takes about a kilobyte a source.
    """
    config = bench_config(folder, buckets)
    recipe = Recipe.from_config(config, make_contract(config))
    manifest = Manifest(Store(config.output.uri, config.storage))
    _write_list(folder, sources)
    catalog = read_catalog(config)
    captions = changed_columns(catalog.columns, Manifest.empty("captions"))
    for first in range(0, sources, _COMMIT):
        rows = _Rows(catalog, recipe, first, min(_COMMIT, sources - first), windows)
        manifest.append_columns(_RUN, captions.slice(first, _COMMIT))
        manifest.append("samples", rows.samples())
        manifest.append("sources", rows.sources())
    manifest.write_contract(recipe.contract)
    manifest.publish(_RUN, recipe.contract)


def change_one(folder: Path) -> None:
    """Give one source of the list another version; its file is an image that can be encoded."""
    from PIL import Image

    table = pq.read_table(folder / "list.parquet")
    row = table.num_rows // 2
    versions = table["version"].to_pylist()
    versions[row] = "changed"
    Image.new("RGB", (256, 256), "olive").save(table["video"][row].as_py())
    column = table.schema.get_field_index("version")
    pq.write_table(table.set_column(column, "version", pa.array(versions)), folder / "list.parquet")


def write_hinted_list(folder: Path, sources: int, windows: int) -> None:
    """A list of videos on S3 with columns that stand for their headers."""
    rng = np.random.default_rng(0)
    frames = WINDOW_FRAMES * windows + rng.integers(WINDOW_FRAMES, size=sources)
    size = dict(zip(("width", "height"), _SIZES[0], strict=True))
    hints: dict[str, Any] = {**size, "fps": np.full(sources, 24.0), "frames": frames}
    columns = {name: np.broadcast_to(values, sources) for name, values in hints.items()}
    pq.write_table(pa.table({**_list(sources), **columns}), folder / "list.parquet")


def _write_list(folder: Path, sources: int) -> None:
    """URIs on S3, but for the source in the middle, which may be changed later."""
    table = _list(sources)
    table["video"][sources // 2] = str(folder / "changed.png")
    pq.write_table(pa.table(table), folder / "list.parquet")


def _list(sources: int) -> dict[str, Any]:
    """Columns of a list: URIs on S3, versions, captions of 100 characters, two more."""
    rng = np.random.default_rng(0)
    words = rng.integers(len(_WORDS), size=(sources, 20)).tolist()
    return {
        "video": [f"s3://bucket/clips/{n // 1000:06d}/{n:09d}.mp4" for n in range(sources)],
        "version": _hexadecimal(rng, sources, 32),
        "caption": [" ".join(_WORDS[n] for n in row) for row in words],
        "score": rng.random(sources),
        "clip": np.arange(sources),
    }


def _hexadecimal(rng: np.random.Generator, count: int, digits: int) -> pa.Array:
    """Random texts of hexadecimal digits, as ids and checksums are."""
    text = rng.bytes(count * digits // 2).hex().encode()
    offsets = np.arange(count + 1, dtype=np.int32) * digits
    return pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(text))


def _lists(values: pa.Array, count: int) -> pa.Array:
    """``count`` lists of equal length."""
    offsets = np.arange(count + 1, dtype=np.int32) * (len(values) // count)
    return pa.ListArray.from_arrays(pa.array(offsets), values)


class _Rows:
    """Rows of the tables for ``count`` sources of the catalog from ``first`` on."""

    def __init__(
        self, catalog: Catalog, recipe: Recipe, first: int, count: int, windows: int
    ) -> None:
        self._count, self._windows, self._first = count, windows, first
        self._rng = np.random.default_rng(first)
        self._recipe = recipe
        self._source = catalog.sources.slice(first, count)
        self._size = self._rng.integers(len(_SIZES), size=count)
        self._buckets = [recipe.assign(*size) for size in _SIZES]
        keys = [recipe.key(buckets, is_image=False) for buckets in self._buckets]
        self._key = [keys[size] for size in self._size]
        ids = zip(
            self._source["source_id"].to_pylist(),
            self._source["version"].to_pylist(),
            self._key,
            strict=True,
        )
        self._generation = [
            generation_id(source, version, key, None) for source, version, key in ids
        ]

    def _table(self, schema: pa.Schema, columns: dict[str, object]) -> pa.Table:
        """Columns as given; a single value stands for all rows, and null for what is left out."""
        shared = {
            "source_id": self._source["source_id"],
            "generation": self._generation,
            "run_id": _RUN,
            "frames_actual": WINDOW_FRAMES * self._windows,
            "committed_at": now(),
        }
        given = {**shared, **columns}

        def column(field: pa.Field) -> pa.Array:
            value = given.get(field.name)
            if (
                value is None
                or isinstance(value, str | int | float)
                or field.name == "committed_at"
            ):
                return pa.repeat(pa.scalar(value, field.type), self._count)
            return value.cast(field.type) if hasattr(value, "cast") else pa.array(value, field.type)

        return pa.table([column(field) for field in schema], schema=schema)

    def samples(self) -> pa.Table:
        """One segment a source."""
        count, windows = self._count, self._windows
        buckets = [self._buckets[size][0] for size in self._size]
        numbers = np.arange(self._first, self._first + count)
        firsts = np.tile(np.arange(windows) * WINDOW_FRAMES, count)
        ticks = np.arange(WINDOW_FRAMES * windows) * 512
        pts = _lists(pa.array(np.tile(ticks, count)), count * windows)
        geometry = {"bucket": "h544w992", "width": 992, "height": 558, "top": 7, "left": 0}
        return self._table(
            SAMPLES,
            {
                "segment_id": _hexadecimal(self._rng, count, 32),
                "bucket": [bucket.name for bucket in buckets],
                "height": [bucket.height for bucket in buckets],
                "width": [bucket.width for bucket in buckets],
                "first_window": 0,
                "windows": windows,
                "frames": WINDOW_FRAMES,
                "shard": [
                    f"data/{bucket.name}/{number // 100:032x}.safetensors"
                    for bucket, number in zip(buckets, numbers.tolist(), strict=True)
                ],
                "first_row": numbers % 100 * windows,
                "sample_ids": _lists(_hexadecimal(self._rng, count * windows, 32), count),
                "pts": _lists(pts, count),
                "time_base_num": 1,
                "time_base_den": 12288,
                "first_frames": _lists(pa.array(firsts), count),
                "valid_frames": _lists(pa.repeat(WINDOW_FRAMES, count * windows), count),
                "checksums": _lists(_hexadecimal(self._rng, count * windows, 16), count),
                "fps": 24.0,
                "geometry": json.dumps(geometry),
                "statistic": self._recipe.contract.statistic,
                "dtype": self._recipe.contract.dtype,
                "last": True,
            },
        )

    def sources(self) -> pa.Table:
        """All of them ``ok``, at the first attempt."""
        return self._table(
            SOURCES,
            {
                "revision": 1,
                "uri": self._source["uri"],
                "version": self._source["version"],
                "recipe": self._key,
                "window_recipe": self._recipe.window_key(is_image=False),
                "contract_id": self._recipe.contract.contract_id,
                "status": "ok",
                "attempts": 1,
                "windows": self._windows,
                "buckets": [[b.name for b in self._buckets[size]] for size in self._size],
                "width": [_SIZES[size][0] for size in self._size],
                "height": [_SIZES[size][1] for size in self._size],
                "is_image": False,
                "facts": [
                    facts_to_json(_facts(size, self._windows, seconds))
                    for size, seconds in zip(self._size, self._rng.random(self._count), strict=True)
                ],
            },
        )


def _facts(size: int, windows: int, odd: float) -> VideoFacts:
    """What a header says; no two clips are of quite the same length."""
    width, height = _SIZES[size]
    return VideoFacts(
        width=width,
        height=height,
        coded_width=width,
        coded_height=height,
        sar_num=1,
        sar_den=1,
        rotation=0,
        fps=23.976,
        frames=WINDOW_FRAMES * windows,
        duration=WINDOW_FRAMES * windows / 23.976 + odd / 1000,
        codec="h264",
        pixel_format="yuv420p",
        container="mov,mp4,m4a,3gp,3g2,mj2",
        time_base_num=1,
        time_base_den=12288,
        origin=0,
        is_image=False,
    )
