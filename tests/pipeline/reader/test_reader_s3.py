"""The reader on a real S3 server: what it asks for, counted."""

from collections import Counter

import pytest

from pipeline import LatentDataset
from pipeline.identity import stable_hash
from pipeline.reader.build import publish_index
from pipeline.storage import Store
from tests.pipeline.maintain.builder import Builder


@pytest.mark.parametrize("statistic", ["mean", "sample"])
def test_one_range_a_statistic(s3, s3_prefix, tmp_path, monkeypatch, statistic):
    """After a shard's header: a range for each statistic, one more for each border crossed."""
    cache = Builder(f"s3://{s3_prefix}/cache", storage=s3.storage)
    cache.encode({(stable_hash("a"), 1): 6, (stable_hash("b"), 1): 5})
    cache.publish()
    publish_index(cache.manifest, cache.manifest.snapshot())
    asked: Counter[str] = Counter()
    read = Store.read

    def counted(store, path, start=None, end=None):
        kind = "head" if start == 0 else "range"
        asked[kind] += path.startswith("data/")
        return read(store, path, start, end)

    monkeypatch.setattr(Store, "read", counted)
    tensors = 1 if statistic == "mean" else 2
    for clip_frames, ranges in ((17, 11), (34, 5), (51, 2 + 2 + 2)):
        asked.clear()
        dataset = LatentDataset(
            cache.uri,
            clip_frames=clip_frames,
            statistic=statistic,
            storage=s3.storage,
            local_dir=tmp_path,
            reads=1,
        )
        found = list(dataset)
        assert sum(len(batch["ids"]) for batch in found) == sum(
            n // (clip_frames // 17) for n in (6, 5)
        )
        assert asked["range"] == ranges * tensors
        assert asked["head"] == len(set(cache.open().samples()["shard"].to_pylist()))
