"""Damage is skipped if so asked; a store that cannot be read never is: nothing is known of it."""

import secrets
import warnings
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from pipeline import LatentDataset
from pipeline.errors import StoreError
from pipeline.identity import stable_hash
from pipeline.reader.build import publish_index
from pipeline.shards import ShardError
from tests.faults import Rule, fault_proxy
from tests.pipeline.helpers import LOCAL
from tests.pipeline.maintain.builder import Builder
from tests.s3 import BUCKET


def build(uri, form="safetensors", storage=LOCAL, names="abc") -> Builder:
    """A cache in which each source has three windows, in a shard of its own."""
    cache = Builder(uri, form, storage)
    for name in names:
        cache.encode({(stable_hash(name), 1): 3})
    cache.publish()
    publish_index(cache.manifest, cache.manifest.snapshot())
    return cache


@pytest.fixture(scope="module")
def uri(s3_server_running) -> str:
    """A cache on S3 that no test changes."""
    found = f"s3://{BUCKET}/{secrets.token_hex(6)}/cache"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_server_running.environment.items():
            patch.setenv(name, value)
        build(found, storage=s3_server_running.storage)
    return found


def read(dataset, workers=0):
    """All batches, and what was warned of."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = list(DataLoader(dataset, batch_size=None, num_workers=workers))
    return found, [str(w.message) for w in told if "skipped: " in str(w.message)]


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ({"kind": "reset"}, "cannot be read"),
        ({"kind": "status", "status": 500}, "InternalError"),
        ({"kind": "status", "status": 503, "code": "SlowDown"}, "SlowDown"),
        ({"kind": "status", "status": 429, "code": "TooManyRequests"}, "TooManyRequests"),
        ({"kind": "status", "status": 403}, "AccessDenied"),
        ({"kind": "truncate"}, "cannot be read"),
    ],
    ids=["reset", "500", "slow-down", "429", "403", "cut-body"],
)
def test_an_outage_is_an_error_that_names_the_store(s3, uri, tmp_path, rule, told):
    options = {"local_dir": tmp_path / "local", "on_damage": "skip"}
    with fault_proxy(s3) as proxy:
        storage = proxy.storage.model_copy(update={"retry_seconds": 0.2})
        if rule.get("status") != 403:  # a refusal is not asked again
            patient = storage.model_copy(update={"retry_seconds": 20})
            passing = proxy.add(Rule(key="/data/", times=1, **rule))
            found, skipped = read(LatentDataset(uri, storage=patient, **options))
            assert passing.hits >= 1  # several are asked at once
            assert (len(found), skipped) == (9, [])
            proxy.clear()
        dataset = LatentDataset(uri, storage=storage, prefetch=0, reads=1, **options)
        proxy.add(Rule(key="/data/", skip=5, **rule))
        with pytest.raises(StoreError, match=rf"{uri} cannot be read: .*then resume") as error:
            read(dataset)
        assert told in str(error.value)
        assert dataset.state_dict()["steps"] > 0  # from where it goes on afterwards


def test_a_server_that_is_gone(s3, uri, tmp_path):
    with fault_proxy(s3) as proxy:
        storage = proxy.storage.model_copy(update={"retry_seconds": 0.2})
        options = {"storage": storage, "local_dir": tmp_path / "local", "on_damage": "skip"}
        dataset = LatentDataset(uri, **options)
    for workers in (0, 1):
        with pytest.raises(StoreError, match=f"{uri} cannot be read"):
            read(dataset, workers)


@pytest.mark.parametrize("form", ["safetensors", "parquet"])
def test_damage_on_s3_is_skipped_and_counted(s3, s3_prefix, tmp_path, form):
    uri = f"s3://{s3_prefix}/cache"
    cache = build(uri, form, s3.storage, names="abcdef")
    store = cache.manifest.store
    shards = sorted(set(cache.open().samples()["shard"].to_pylist()))
    whole = [store.read(path) for path in shards]
    header = 8 + int.from_bytes(whole[1][:8], "little")
    # Cut behind the header, the store answers that there is no such range.
    store.delete(shards[0])
    store.write(shards[1], whole[1][: header if form == "safetensors" else 100])
    store.write(shards[2], whole[2][: len(whole[2]) // 2])
    store.write(shards[3], b"\0" * len(whole[3]))
    store.write(shards[4], b"")
    options = {"storage": s3.storage, "local_dir": tmp_path / "local", "batch_size": 18}
    with pytest.raises(ShardError, match=rf"{uri}/data/.*verify_cache.py {uri} --repair"):
        read(LatentDataset(uri, **options))
    (batch,), skipped = read(LatentDataset(uri, on_damage="skip", **options))
    assert batch["skipped"] == len(skipped) == 15
    for shard in shards[:5]:
        assert sum(f"{uri}/{shard}" in text for text in skipped) == 3
    assert len(batch["ids"]) == 3
    assert len(set(batch["source_ids"])) == 1


@pytest.mark.parametrize("where", ["local", "s3"])
def test_a_cache_that_is_gone_is_no_damage(s3, s3_prefix, tmp_path, where):
    """As when a mount is lost: every shard is missing then, and so is the contract."""
    local = where == "local"
    uri = str(tmp_path / "cache") if local else f"s3://{s3_prefix}/cache"
    storage = LOCAL if local else s3.storage
    build(uri, storage=storage)
    dataset = LatentDataset(
        uri, storage=storage, local_dir=tmp_path / "local", on_damage="skip", prefetch=0
    )
    reader = iter(dataset)
    next(reader)
    if local:
        Path(uri).rename(tmp_path / "elsewhere")
        Path(uri).mkdir()
    else:
        s3.filesystem().rm(f"{s3_prefix}/cache", recursive=True)
    with pytest.raises(StoreError, match=rf"{uri} cannot be read: its contract.json"):
        list(reader)
