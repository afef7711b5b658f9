"""What the read benchmark reads: a published cache of random latents, and copies of its samples."""

import math
from pathlib import Path

import numpy as np

from pipeline.bench.write import contract_of
from pipeline.buckets import Bucket
from pipeline.config import Config, StorageConfig, load_config
from pipeline.export.run import Export, Exporter
from pipeline.export.target import Target
from pipeline.identity import stable_hash
from pipeline.manifest import Manifest, now
from pipeline.packs import Batch, PackMeta, SegmentInfo, to_batch
from pipeline.reader.build import publish_with_index
from pipeline.recipe import Recipe, latent_shape, latent_values
from pipeline.stages.write import RESULT, Written, make_write_fn
from pipeline.storage import Store
from pipeline.windows import WINDOW_FRAMES

BUCKET = Bucket(544, 992)
"""Its windows are (3, 64, 34, 62) numbers a statistic."""

_WINDOWS = 12
"""Of a source, which is one segment."""

_RUN = "bench"


def read_config(uri: str, storage: StorageConfig, shard_format: str) -> Config:
    """The configuration of the benchmark's cache: moments in float16, shards of 256 MB."""
    fields = {
        "dataset.uri": "unused",
        "output.uri": uri,
        "output.format": shard_format,
        "storage": storage.model_dump(),
        "buckets": [{"height": BUCKET.height, "width": BUCKET.width}],
        "latents.statistic": "moments",
        "vae.random_seed": 0,
    }
    return load_config(None, (), fields)


def sample_shape(config: Config) -> tuple[int, ...]:
    """Shape of one statistic of a sample."""
    return latent_shape(contract_of(config), BUCKET, WINDOW_FRAMES)


def sample_bytes(config: Config) -> int:
    """Bytes of a sample, mean and log variance."""
    contract = contract_of(config)
    size = latent_values(contract, BUCKET) * np.dtype(contract.dtype).itemsize
    return size * len(contract.tensors)


def build_cache(config: Config, size: int) -> int:
    """Write and publish a cache of at least ``size`` bytes of samples; how many samples."""
    contract = contract_of(config)
    recipe = Recipe.from_config(config, contract)
    manifest = Manifest(Store(config.output.uri, config.storage))
    write = make_write_fn(config, recipe)
    source_bytes = _WINDOWS * sample_bytes(config)
    sources = math.ceil(size / source_bytes)
    together = max(1, config.output.shard_bytes // source_bytes)
    segments, found = [], []
    for first in range(0, sources, together):
        numbers = range(first, min(first + together, sources))
        written = Written.from_json(str(write(_batch(config, numbers))[RESULT][0]))
        stamp = {"run_id": _RUN, "committed_at": now()}
        segments += [{**row, **stamp} for row in written.segments]
        found += [
            {
                "source_id": stable_hash(["source", n]),
                "generation": stable_hash(["generation", n]),
                "revision": 1,
                "contract_id": contract.contract_id,
                "status": "ok",
                "attempts": 1,
                "windows": _WINDOWS,
                "uri": f"bench/{n}.mp4",
                **stamp,
            }
            for n in numbers
        ]
    manifest.append("samples", segments)
    manifest.append("sources", found)
    manifest.write_contract(contract)
    publish_with_index(manifest, _RUN, contract, lambda: None)
    return sources * _WINDOWS


def _batch(config: Config, sources: range) -> Batch:
    """Packs of random latents, one a source."""
    contract, shape = contract_of(config), sample_shape(config)
    packs = []
    for number in sources:
        rng = np.random.default_rng(number)
        tensors = {
            name: rng.standard_normal((_WINDOWS, *shape), np.float32).astype(contract.dtype)
            for name in contract.tensors
        }
        packs.append(to_batch(PackMeta(f"{number}", (_segment(number),), ()), tensors))
    return {name: np.concatenate([pack[name] for pack in packs]) for name in packs[0]}


def _segment(number: int) -> SegmentInfo:
    firsts = [WINDOW_FRAMES * n for n in range(_WINDOWS)]
    return SegmentInfo(
        source_id=stable_hash(["source", number]),
        generation=stable_hash(["generation", number]),
        bucket=BUCKET.name,
        first_window=0,
        windows=_WINDOWS,
        frames=WINDOW_FRAMES,
        pts=[list(range(first, first + WINDOW_FRAMES)) for first in firsts],
        time_base=(1, 24),
        valid_frames=[WINDOW_FRAMES] * _WINDOWS,
        first_frames=firsts,
        sample_ids=[stable_hash(["sample", number, n]) for n in range(_WINDOWS)],
        geometry={"height": BUCKET.height, "width": BUCKET.width},
        fps=24.0,
        last=True,
        frames_actual=_WINDOWS * WINDOW_FRAMES,
    )


def export(config: Config, form: str, folder: Path) -> str:
    """Copy all samples into a format of another loader; the folder of its shards."""
    exporter = Exporter(Export(config.output.uri, form), config.storage)
    exporter.write(Target(str(folder), config.storage), lambda done, total: None)
    (name,) = exporter.clips
    return f"{folder}/{name}"
