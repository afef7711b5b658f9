"""How long a refresh takes in which nothing, or one source, changed, by the size of the cache."""

import resource
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.buckets import Bucket
from pipeline.catalog import read_catalog
from pipeline.config import Config
from pipeline.contract import FORMAT_VERSION, Contract
from pipeline.errors import Reason, SourceError
from pipeline.identity import source_id
from pipeline.manifest import Manifest, now
from pipeline.plan import ProbeAnswer, make_plan
from pipeline.recipe import Recipe, generation_id
from pipeline.schema import SAMPLES, SOURCES
from pipeline.storage import Store
from pipeline.weights import LAYOUT

_CHUNK = 100_000
_SIZE = (1280, 720)


@dataclass(frozen=True)
class Measured:
    """One refresh: ``seconds`` of listing (reading the dataset's list) and of planning apart."""

    sources: int
    changed: int
    listing_seconds: float
    plan_seconds: float
    peak_resident_bytes: int


def build(folder: Path, sources: int, windows_per_source: int) -> None:
    """Make a dataset list and the manifest of a cache that has encoded all of it.

    The tables are appended by the manifest's own code; no video and no shard exists, since a
    refresh looks at none. ``folder`` takes some kilobytes a source.
    """
    config = _config(folder)
    recipe = Recipe.from_config(config, _contract())
    manifest = Manifest(Store(config.output.uri, config.storage))
    _build(folder, manifest, recipe, sources, windows_per_source)


def _config(folder: Path) -> Config:
    return Config.model_validate(
        {
            "dataset": {"uri": str(folder / "list.parquet")},
            "output": {"uri": str(folder / "cache")},
            "windows": {"fps": "24"},
            "buckets": [{"height": 544, "width": 992}, {"height": 992, "width": 544}],
            "vae": {"random_seed": 0},
        }
    )


def _contract() -> Contract:
    """Of the published model, with a hash that stands for its weights."""
    return Contract(
        FORMAT_VERSION, 2, 64, "0" * 64, (-1.0, 1.0), LAYOUT, "moments", "float16", 1.0, 0.0, 17, 3
    )


def _uri(number: int) -> str:
    return f"s3://bucket/clips/{number // 1000:06d}/{number:09d}.mp4"


def _build(
    folder: Path, manifest: Manifest, recipe: Recipe, sources: int, windows_per_source: int
) -> None:
    numbers = range(sources)
    uris = [_uri(n) for n in numbers]
    pq.write_table(
        pa.table({"video": uris, "version": [f"{n:032x}" for n in numbers]}),
        folder / "list.parquet",
    )
    bucket = recipe.assign(*_SIZE)[0]
    key = recipe.key((bucket,), is_image=False)
    for first in range(0, sources, _CHUNK):
        chunk = range(first, min(first + _CHUNK, sources))
        rows = list(_rows(recipe, key, bucket, chunk, windows_per_source))
        manifest.append("samples", pa.Table.from_pylist([s for s, _ in rows], SAMPLES))
        manifest.append("sources", pa.Table.from_pylist([s for _, s in rows], SOURCES))


def _rows(
    recipe: Recipe, key: str, bucket: Bucket, numbers: range, windows: int
) -> Iterator[tuple[dict[str, object], dict[str, object]]]:
    rng = np.random.default_rng(numbers.start)
    for number in numbers:
        source, version = source_id(_uri(number), None, None), f"{number:032x}"
        generation = generation_id(source, version, key, None)
        ids = [rng.bytes(16).hex() for _ in range(windows)]
        common = {"source_id": source, "generation": generation, "run_id": "bench"}
        yield (
            {
                **common,
                "segment_id": generation,
                "bucket": bucket.name,
                "height": bucket.height,
                "width": bucket.width,
                "first_window": 0,
                "windows": windows,
                "frames": 17,
                "shard": f"data/{bucket.name}/{number // 100:032x}.safetensors",
                "first_row": number % 100 * windows,
                "sample_ids": ids,
                "pts": [[512 * (17 * w + k) for k in range(17)] for w in range(windows)],
                "time_base_num": 1,
                "time_base_den": 12288,
                "first_frames": [17 * w for w in range(windows)],
                "valid_frames": [17] * windows,
                "checksums": [i[:16] for i in ids],
                "fps": 24.0,
                "geometry": "{}",
                "statistic": "moments",
                "dtype": "float16",
                "last": True,
                "frames_actual": 17 * windows,
                "committed_at": now(),
            },
            {
                **common,
                "revision": 1,
                "uri": _uri(number),
                "version": version,
                "recipe": key,
                "window_recipe": recipe.window_key(is_image=False),
                "contract_id": recipe.contract.contract_id,
                "status": "ok",
                "attempts": 1,
                "frames_actual": 17 * windows,
                "windows": windows,
                "buckets": [bucket.name],
                "width": _SIZE[0],
                "height": _SIZE[1],
                "is_image": False,
                "committed_at": now(),
            },
        )


def change_one(folder: Path) -> None:
    """Give one source of the list another version."""
    table = pq.read_table(folder / "list.parquet")
    versions = table["version"].to_pylist()
    versions[len(versions) // 2] = "changed"
    column = table.schema.get_field_index("version")
    pq.write_table(table.set_column(column, "version", pa.array(versions)), folder / "list.parquet")


def measure(folder: Path, changed: int) -> Measured:
    """Plan a refresh over what ``build`` made, of which ``changed`` sources are not as before."""
    config = _config(folder)
    recipe = Recipe.from_config(config, _contract())
    manifest = Manifest(Store(config.output.uri, config.storage))
    begun = time.monotonic()
    catalog = read_catalog(config)
    listed = time.monotonic()
    plan = make_plan(config, catalog, manifest, recipe, "bench", _no_header)
    done = time.monotonic()
    if plan.kinds["changed"] != changed or plan.kinds["reusable"] != plan.total - changed:
        raise RuntimeError(f"the plan found {dict(plan.kinds)}, not {changed} changed")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Measured(plan.total, changed, listed - begun, done - listed, peak)


def _no_header(files: Sequence[tuple[str, str | None]]) -> list[ProbeAnswer]:
    """The changed source does not exist: probing it is no part of what is measured."""
    return [SourceError(Reason.MISSING, "not there") for _ in files]
