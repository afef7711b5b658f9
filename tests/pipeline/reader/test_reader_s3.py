"""The reader on a real S3 server: what it asks for, counted as it arrives there."""

import numpy as np
import pytest

from pipeline import LatentDataset
from pipeline.identity import stable_hash
from pipeline.reader import parquet
from pipeline.reader.build import publish_index
from tests.faults import fault_proxy
from tests.pipeline.helpers import SMALL
from tests.pipeline.maintain.builder import Builder, latents

WINDOWS = {"a": 6, "b": 5, "c": 11}
SEGMENT = 3
SAMPLE = 3 * 2 * 2 * 2 * 2
"""Bytes of a statistic of a sample."""


def ranges_of(cache: Builder, clip_frames: int) -> list[int]:
    """Ranges that each clip needs for a statistic: one for each segment it meets."""
    found, k = [], clip_frames // 17
    rows = cache.open().samples().to_pylist()
    by_source: dict[str, list[dict]] = {}
    for row in rows:
        by_source.setdefault(row["source_id"], []).append(row)
    for windows in by_source.values():
        windows.sort(key=lambda row: row["window"])
        for at in range(0, len(windows) - k + 1, k):
            clip = windows[at : at + k]
            found.append(len({w["window"] // SEGMENT for w in clip}))
    return found


@pytest.mark.parametrize("form", ["safetensors", "parquet"])
def test_one_range_a_statistic(s3, s3_prefix, tmp_path, monkeypatch, form):
    """After a shard's header: a range for each statistic, one more for each border crossed.

    Of exactly the bytes of the samples (in Parquet, and of their lengths).
    """
    monkeypatch.setattr(parquet, "_NEAR", 0)  # as far apart as real samples are
    uri = f"s3://{s3_prefix}/cache"
    cache = Builder(uri, form, s3.storage)
    works = {(stable_hash(name), 1): count for name, count in WINDOWS.items()}
    cache.encode(works, segment=SEGMENT)
    cache.publish()
    publish_index(cache.manifest, cache.manifest.snapshot())
    shards = set(cache.open().samples()["shard"].to_pylist())
    ids = {
        (row["source_id"], row["window"]): row["sample_id"]
        for row in cache.open().samples().to_pylist()
    }
    with fault_proxy(s3) as proxy:
        options = {"storage": proxy.storage, "local_dir": tmp_path}
        for clip_frames in (17, 34, 51):
            for statistic, names in (("mean", ["mean"]), ("moments", ["mean", "logvar"])):
                dataset = LatentDataset(
                    uri, clip_frames=clip_frames, statistic=statistic, **options
                )
                proxy.clear()
                batches = list(dataset)
                gets = proxy.of(f"{s3_prefix}/cache/data/", "GET")
                heads = proxy.of(f"{s3_prefix}/cache/data/", "HEAD")
                wanted = ranges_of(cache, clip_frames)
                inside = [count for count in wanted if count == 1]
                assert len(batches) == len(wanted)
                assert len(inside) > 0
                headers = len(shards)
                assert len(gets) == headers + sum(wanted) * len(names)
                assert len(heads) == (headers if form == "parquet" else 0)
                size = SAMPLE + (4 if form == "parquet" else 0)
                sent = sorted(request.sent for request in gets)[: len(gets) - headers]
                k = clip_frames // 17
                assert sum(sent) == len(batches) * k * size * len(names)
                for batch in batches:
                    source, _, first = batch["ids"][0].split(":")
                    samples = [ids[source, int(first) // 17 + n] for n in range(k)]
                    tensors = [latents(sample, SMALL, 17) for sample in samples]
                    for name in names:
                        key = "latents" if statistic == "mean" else name
                        np.testing.assert_array_equal(
                            batch[key][0].numpy(), np.concatenate([t[name] for t in tensors])
                        )
