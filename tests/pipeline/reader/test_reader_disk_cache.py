"""The reader on a real S3 server with a disk cache: requests counted by a proxy, as they arrive."""

import multiprocessing
import sys
import warnings

import pytest
import torch
from torch.utils.data import DataLoader

from pipeline import LatentDataset
from pipeline.errors import UserError
from pipeline.identity import stable_hash
from pipeline.reader.build import publish_index
from tests.faults import fault_proxy
from tests.pipeline.maintain.builder import Builder

WINDOWS = {"a": 6, "b": 5, "c": 9}


def build(uri: str, form: str, storage) -> Builder:
    cache = Builder(uri, form, storage)
    cache.encode({(stable_hash(name), 1): count for name, count in WINDOWS.items()})
    cache.publish()
    publish_index(cache.manifest, cache.manifest.snapshot())
    return cache


def batches(dataset, workers=0):
    return list(DataLoader(dataset, batch_size=None, num_workers=workers))


def same(left, right) -> bool:
    return len(left) == len(right) and all(
        a["ids"] == b["ids"] and torch.equal(a["latents"], b["latents"])
        for a, b in zip(left, right, strict=True)
    )


@pytest.mark.parametrize("form", ["safetensors", "parquet"])
def test_a_second_epoch_asks_for_nothing(s3, s3_prefix, tmp_path, form):
    """Not by other workers, not at another clip length; damaged entries are read again."""
    uri, folder = f"s3://{s3_prefix}/cache", tmp_path / "nvme"
    build(uri, form, s3.storage)
    with fault_proxy(s3) as proxy:
        plain = {"storage": proxy.storage, "local_dir": tmp_path / "local", "shuffle": False}
        kept = {**plain, "disk_cache": folder, "disk_cache_bytes": 2**24}

        def asked() -> int:
            found = len(proxy.of(f"{s3_prefix}/cache/data/", "GET|HEAD"))
            proxy.clear()
            return found

        wanted = {k: batches(LatentDataset(uri, clip_frames=k, **plain)) for k in (17, 34)}
        asked()
        assert same(batches(LatentDataset(uri, **kept)), wanted[17])
        assert asked() > 0
        assert same(batches(LatentDataset(uri, **kept), 2), wanted[17])
        assert same(batches(LatentDataset(uri, clip_frames=34, **kept), 1), wanted[34])
        mapped = LatentDataset(uri, **kept).map_style()
        assert {mapped[n]["ids"] for n in range(len(mapped))} == {b["ids"][0] for b in wanted[17]}
        assert asked() == 0
        for path in folder.glob("??/*"):
            path.write_bytes(path.read_bytes()[:-1] + b"?")
        with pytest.warns(UserWarning, match=r"disk_cache .* is damaged"):
            assert same(batches(LatentDataset(uri, **kept)), wanted[17])
        assert asked() > 0
        assert same(batches(LatentDataset(uri, **kept)), wanted[17])
        assert asked() == 0


def test_a_clip_half_in_the_cache_costs_one_range(s3, s3_prefix, tmp_path):
    uri = f"s3://{s3_prefix}/cache"
    build(uri, "safetensors", s3.storage)
    with fault_proxy(s3) as proxy:
        options = {
            "storage": proxy.storage,
            "local_dir": tmp_path / "local",
            "disk_cache": tmp_path / "nvme",
            "disk_cache_bytes": 2**24,
            "statistic": "mean",
            "shuffle": False,
        }
        one = LatentDataset(uri, **options).map_style()
        one[0]  # of the first source: its first window
        proxy.clear()
        two = LatentDataset(uri, clip_frames=34, **options).map_style()
        two[0]
        assert [request.method for request in proxy.of("/data/")] == ["GET"]


def test_a_shard_that_was_mended_is_believed_again(s3, s3_prefix, tmp_path):
    """What a damaged shard left in the disk cache does not outlive the damage."""
    uri = f"s3://{s3_prefix}/cache"
    cache = build(uri, "safetensors", s3.storage)
    shard = cache.open().samples()["shard"][0].as_py()
    sound = cache.manifest.store.read(shard)
    options = {
        "storage": s3.storage,
        "local_dir": tmp_path / "local",
        "disk_cache": tmp_path / "nvme",
        "disk_cache_bytes": 2**24,
    }
    cache.manifest.store.write(shard, b"\0" * len(sound))
    with pytest.raises(Exception, match=f"{shard}.*--repair"):
        batches(LatentDataset(uri, **options))
    cache.manifest.store.write(shard, sound)
    assert len(batches(LatentDataset(uri, **options))) == sum(WINDOWS.values())


def test_a_local_cache_needs_none(tmp_path):
    cache = Builder(tmp_path / "cache")
    cache.encode({(stable_hash("a"), 1): 2})
    cache.publish()
    options = {"local_dir": tmp_path / "local", "disk_cache": tmp_path / "nvme"}
    with pytest.raises(UserError, match="give both"):
        LatentDataset(cache.uri, **options)
    with pytest.warns(UserWarning, match="has no index"):
        assert len(batches(LatentDataset(cache.uri, disk_cache_bytes=10**6, **options))) == 2
    assert not list((tmp_path / "nvme").glob("??/*"))


def one_rank(uri, rank, options, told) -> None:
    """Three epochs of a rank with two workers; tells the ids it got."""
    warnings.simplefilter("error")
    dataset = LatentDataset(uri, rank=rank, world_size=2, **options)
    ids = []
    for epoch in range(3):
        dataset.set_epoch(epoch)
        ids.append([i for batch in batches(dataset, 2) for i in batch["ids"]])
    told.put((rank, ids))
    told.close()
    told.join_thread()
    sys.exit(0)


@pytest.mark.slow
def test_ranks_and_workers_share_a_folder_too_small_for_all(s3, s3_prefix, tmp_path):
    """Two ranks of two workers, and room for half: every clip, right bytes, within the limit."""
    uri, limit = f"s3://{s3_prefix}/cache", 2**20
    cache = build(uri, "safetensors", s3.storage)
    cache.encode({(stable_hash(str(n)), 1): 10 for n in range(15)})
    cache.publish()
    publish_index(cache.manifest, cache.manifest.snapshot())
    options = {
        "storage": s3.storage,
        "local_dir": tmp_path / "local",
        "disk_cache": tmp_path / "nvme",
        "disk_cache_bytes": limit,
        "statistic": "moments",
    }
    context = multiprocessing.get_context("spawn")
    told = context.Queue()
    ranks = [context.Process(target=one_rank, args=(uri, r, options, told)) for r in range(2)]
    for process in ranks:
        process.start()
    try:
        found = dict(told.get(timeout=240) for _ in ranks)
    finally:
        for process in ranks:
            process.join(30)
            process.kill()
    for epoch in range(3):
        ids = found[0][epoch] + found[1][epoch]
        assert len(set(ids)) == len(ids) == sum(WINDOWS.values()) + 150
    sizes = [path.stat().st_size for path in (tmp_path / "nvme").glob("??/*")]
    assert limit / 2 < sum(-(-size // 4096) * 4096 for size in sizes) <= limit
    whole = {**options, "disk_cache": None, "disk_cache_bytes": None, "shuffle": False}
    for left, right in zip(
        batches(LatentDataset(uri, **{**options, "shuffle": False})),
        batches(LatentDataset(uri, **whole)),
        strict=True,
    ):
        assert left["ids"] == right["ids"]
        assert torch.equal(left["mean"], right["mean"])
        assert torch.equal(left["logvar"], right["logvar"])
