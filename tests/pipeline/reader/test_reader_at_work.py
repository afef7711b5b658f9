"""A reader at work while the cache is refreshed, compacted and vacuumed under it."""

import itertools
import re

import pytest
import torch
from torch.utils.data import DataLoader

from pipeline import LatentDataset
from pipeline.errors import UserError
from pipeline.identity import stable_hash
from pipeline.maintain.compact import compact
from pipeline.maintain.tags import set_tag
from pipeline.maintain.vacuum import vacuum
from pipeline.reader.build import publish_index
from pipeline.shards import ShardError
from tests.pipeline.helpers import SMALL, WIDE
from tests.pipeline.maintain.builder import DAY, LAST, Builder, nothing

NAMES = "abcdefgh"
BUCKETS = (SMALL, WIDE)


def works(names: str, version: int) -> dict[tuple[str, int], int]:
    return {(stable_hash(name), version): 4 for name in names}


def publish(cache: Builder) -> int:
    number = cache.publish()
    publish_index(cache.manifest, cache.manifest.snapshot(number))
    return number


@pytest.fixture
def cache(tmp_path) -> Builder:
    """Snapshot 1: every source in a small shard of its own."""
    cache = Builder(tmp_path / "cache")
    for name in NAMES:
        cache.encode(works(name, 1), buckets=BUCKETS)
    assert publish(cache) == 1
    return cache


@pytest.fixture
def make(cache, tmp_path):
    def make(snapshot=None):
        options = {"columns": ["version"], "batch_size": 3, "clip_frames": 34, "seed": 3}
        return LatentDataset(cache.uri, snapshot, local_dir=tmp_path / "local", **options)

    return make


def refresh(cache: Builder) -> None:
    """Half of the sources change, one goes, one comes."""
    cache.encode(works("abcd", 2), buckets=BUCKETS)
    cache.remove(stable_hash("h"))
    cache.encode(works("z", 1), buckets=BUCKETS)
    publish(cache)


def do_compact(cache: Builder) -> None:
    done = compact(cache.manifest, 2**20, 0.5, nothing)
    assert done.published is not None
    publish_index(cache.manifest, done.published)


def do_vacuum(cache: Builder) -> None:
    """Delete all that may go, however young."""
    cache.age()
    before = cache.shards()
    vacuum(cache.manifest, LAST, DAY, nothing)
    assert len(cache.shards()) < len(before)


def same(left, right) -> bool:
    return all(left[name] == right[name] for name in ("ids", "version")) and torch.equal(
        left["latents"], right["latents"]
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_a_pinned_and_tagged_snapshot_does_not_change(cache, make, workers):
    whole = list(make())
    set_tag(cache.manifest, "training", 1, force=False)
    reader = iter(DataLoader(make(), batch_size=None, num_workers=workers))
    found = []
    for change in (refresh, do_compact, do_vacuum):
        found += itertools.islice(reader, 2)
        change(cache)
    found += reader
    assert len(found) == len(whole) > 8
    assert all(map(same, whole, found))
    # Opened anew: the pinned snapshot as it was, and the newest with what changed.
    assert all(map(same, whole, make(1)))
    newest = list(make())
    ids = {i for batch in newest for i in batch["source_ids"]}
    assert ids == {stable_hash(name) for name in "abcdefgz"}
    versions = {
        (source, version)
        for batch in newest
        for source, version in zip(batch["source_ids"], batch["version"], strict=True)
    }
    assert {(stable_hash(n), "v2" if n in "abcd" else "v1") for n in "abcdefgz"} == versions


def test_without_a_tag_the_error_says_what_became_of_the_shards(cache, make):
    """What a vacuum deletes is missed by name: never zeros, never another version's numbers."""
    whole = list(make())
    at_work, unread = make(), make()
    reader = iter(at_work)
    found = list(itertools.islice(reader, 2))
    refresh(cache)
    do_compact(cache)
    before = cache.shards()
    do_vacuum(cache)
    gone = before - cache.shards()
    remedy = rf"{re.escape(cache.uri)}/(\S+) is missing; .*--repair; where a vacuum dropped .* tag"
    with pytest.raises(ShardError, match=remedy) as error:
        found += reader
    assert re.search(remedy, str(error.value))[1] in gone
    assert all(map(same, whole, found))  # what was given out until then is right
    with pytest.raises(ShardError, match=remedy):
        list(unread)
    with pytest.raises(UserError, match="snapshot 1"):
        make(1)
    assert len(list(make())) > 0


def test_a_tag_comes_too_late_after_the_vacuum(cache):
    refresh(cache)
    do_vacuum(cache)
    with pytest.raises(UserError, match="snapshot 1"):
        set_tag(cache.manifest, "training", 1, force=False)
