"""``LatentCache.read``: what is damaged is told from what nobody knows, as the dataset does."""

import shutil
from pathlib import Path

import pytest

from pipeline.errors import StoreError
from pipeline.identity import stable_hash
from pipeline.shards import ShardError
from tests.faults import Rule, fault_proxy
from tests.pipeline.helpers import LOCAL
from tests.pipeline.maintain.builder import Builder, check_readable

FORMATS = pytest.mark.parametrize("form", ["safetensors", "parquet"])


def build(uri, form, storage=LOCAL) -> Builder:
    cache = Builder(uri, form, storage)
    cache.encode({(stable_hash(name), 1): 3 for name in "ab"})
    cache.publish()
    return cache


@FORMATS
@pytest.mark.parametrize(
    "rule",
    [
        {"kind": "reset"},
        {"kind": "status", "status": 503, "code": "SlowDown"},
        {"kind": "status", "status": 403},
    ],
    ids=["reset", "slow-down", "403"],
)
def test_an_outage_is_no_damage(s3, s3_prefix, form, rule):
    uri = f"s3://{s3_prefix}/cache"
    build(uri, form, s3.storage)
    with fault_proxy(s3) as proxy:
        storage = proxy.storage.model_copy(update={"retry_seconds": 0.2})
        cache = Builder(uri, form, storage).open()
        sample = cache.samples()["sample_id"][0].as_py()
        proxy.add(Rule(key="/data/", **rule))
        with pytest.raises(StoreError, match=f"{uri} cannot be read: .*then resume"):
            cache.read(sample)
        proxy.clear()
        check_readable(cache)


@FORMATS
def test_damage_on_s3_names_the_shard_and_the_repair(s3, s3_prefix, form):
    uri = f"s3://{s3_prefix}/cache"
    cache = build(uri, form, s3.storage)
    opened, store = cache.open(), cache.manifest.store
    rows = opened.samples().to_pylist()
    path = rows[0]["shard"]
    sound = store.read(path)
    samples = {row["sample_id"] for row in rows if row["shard"] == path}
    store.write(path, sound[: len(sound) // 2])
    cut = cache.open()
    with pytest.raises(ShardError, match=f"{path}.*--repair"):
        [cut.read(sample) for sample in samples]
    store.delete(path)
    with pytest.raises(ShardError, match=f"{path} is missing.*--repair"):
        cache.open().read(rows[0]["sample_id"])


def test_a_lost_mount_is_no_damage(tmp_path):
    cache = build(tmp_path / "cache", "safetensors")
    opened = cache.open()
    sample = opened.samples()["sample_id"][0].as_py()
    shutil.move(tmp_path / "cache", tmp_path / "away")
    with pytest.raises(StoreError, match=r"contract\.json cannot be found any more"):
        opened.read(sample)


@FORMATS
def test_other_bytes_than_were_written(tmp_path, form):
    cache = build(tmp_path / "cache", form)
    row = cache.open().samples().to_pylist()[0]
    path = Path(cache.uri) / row["shard"]
    tensor = cache.open().read(row["sample_id"])["mean"].numpy().tobytes()
    path.write_bytes(path.read_bytes().replace(tensor, tensor[:-1] + bytes([tensor[-1] ^ 1])))
    with pytest.raises(ShardError, match=r"are not those that were written; .*--repair"):
        cache.open().read(row["sample_id"])
