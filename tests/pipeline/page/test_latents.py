import numpy as np
import pytest

from pipeline.identity import stable_hash
from pipeline.page.holdings import sum_up
from pipeline.page.latents import FAR, measure_latents
from pipeline.shards import ShardError
from tests.pipeline.maintain.builder import CONTRACT, Builder

A, B = (stable_hash(name) for name in "ab")


@pytest.fixture
def cache(tmp_path):
    cache = Builder(tmp_path / "cache")
    cache.encode([(A, 1), (B, 1)])
    cache.publish()
    return cache


def picks_of(cache):
    held = sum_up(cache.manifest, cache.manifest.snapshot(), 8)
    return [picks[0] for drawn in held.picks.drawn.values() for picks in drawn]


def test_statistics_are_those_of_the_stored_numbers(cache):
    picks = picks_of(cache)
    found = measure_latents(picks, cache.manifest.store, CONTRACT)
    rows = {(r["shard"], r["row"]): r["sample_id"] for r in cache.open().samples().to_pylist()}
    tensors = [cache.open().read(rows[p.shard, p.row]) for p in picks]
    means = np.stack([t["mean"].numpy().astype(np.float64) for t in tensors])
    assert found.windows == len(picks) > 1
    assert found.values == means[:, :, 0].size
    np.testing.assert_allclose(found.mean, means.mean(axis=(0, 1, 3, 4)))
    np.testing.assert_allclose(found.std, means.std(axis=(0, 1, 3, 4)))
    np.testing.assert_array_equal(found.most, means.max(axis=(0, 1, 3, 4)))
    far = np.abs(means - found.mean[:, None, None]) > FAR * found.std[:, None, None]
    np.testing.assert_array_equal(found.outliers, far.sum(axis=(0, 1, 3, 4)))
    logvars = np.stack([t["logvar"].numpy().astype(np.float64) for t in tensors])
    np.testing.assert_allclose(found.posterior_std, np.exp(logvars / 2).mean(axis=(0, 1, 3, 4)))


def test_nothing_drawn_has_no_statistics(cache):
    assert measure_latents([], cache.manifest.store, CONTRACT) is None


def test_a_lost_shard_is_told(cache):
    picks = picks_of(cache)
    for shard in cache.shards():
        cache.manifest.store.delete(shard)
    with pytest.raises(ShardError, match="missing"):
        measure_latents(picks, cache.manifest.store, CONTRACT)
