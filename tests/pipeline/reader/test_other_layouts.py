"""Parquet shards of other layouts than are written now: read all the same, bit for bit."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from pipeline import LatentDataset
from pipeline.identity import stable_hash
from pipeline.reader.build import publish_index
from tests.pipeline.maintain.builder import Builder


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Builder:
    cache = Builder(tmp_path_factory.mktemp("layouts") / "cache", "parquet")
    cache.encode({(stable_hash(name), 1): count for name, count in {"a": 11, "b": 9}.items()})
    cache.publish()
    publish_index(cache.manifest, cache.manifest.snapshot())
    return cache


@pytest.mark.parametrize(
    "layout",
    [
        {"row_group_size": 8, "use_dictionary": False},  # of earlier versions
        {"row_group_size": 3, "use_dictionary": False},
        {"row_group_size": 8, "use_dictionary": True},
        {"row_group_size": 64, "compression": "zstd"},
        {"row_group_size": 8, "use_dictionary": False, "data_page_size": 64},
    ],
    ids=["8-rows", "3-rows", "dictionary", "zstd", "many-pages"],
)
@pytest.mark.parametrize("clip_frames", [17, 51])
def test_the_same_clips(cache, tmp_path, layout, clip_frames):
    options = {
        "clip_frames": clip_frames,
        "statistic": "moments",
        "shuffle": False,
        "local_dir": tmp_path,
    }
    wanted = list(LatentDataset(cache.uri, **options))
    shards = [Path(cache.uri) / path for path in cache.shards()]
    held = {path: path.read_bytes() for path in shards}
    try:
        for path in shards:
            pq.write_table(pq.read_table(path), path, **{"compression": "none", **layout})
        found = list(LatentDataset(cache.uri, **options))
    finally:
        for path, data in held.items():
            path.write_bytes(data)
    assert len(found) == len(wanted) > 0
    for one, other in zip(found, wanted, strict=True):
        assert one["ids"] == other["ids"]
        assert torch.equal(one["mean"], other["mean"])
        assert torch.equal(one["logvar"], other["logvar"])
