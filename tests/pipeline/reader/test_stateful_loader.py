"""The reader under torchdata's ``StatefulDataLoader``, which asks the workers for their state."""

import itertools
import json

import pytest
import torch
from torchdata.stateful_dataloader import StatefulDataLoader

from pipeline import LatentDataset
from pipeline.errors import UserError
from pipeline.identity import stable_hash
from pipeline.reader.build import publish_index
from tests.pipeline.helpers import SMALL, WIDE
from tests.pipeline.maintain.builder import Builder

WINDOWS = {"a": 3, "b": 5, "c": 1, "d": 4, "e": 2, "f": 7}


@pytest.fixture(scope="module")
def uri(tmp_path_factory) -> str:
    cache = Builder(tmp_path_factory.mktemp("reader") / "cache")
    works = {(stable_hash(name), 1): count for name, count in WINDOWS.items()}
    cache.encode(works, buckets=(SMALL, WIDE))
    cache.publish()
    publish_index(cache.manifest, cache.manifest.snapshot())
    return cache.uri


@pytest.fixture
def make(uri, tmp_path):
    def make(workers, **options):
        options = {"batch_size": 2, "seed": 5, **options}
        dataset = LatentDataset(uri, local_dir=tmp_path / "local", **options)
        return StatefulDataLoader(dataset, batch_size=None, num_workers=workers)

    return make


def same(left, right) -> bool:
    return len(left) == len(right) and all(
        a["ids"] == b["ids"] and torch.equal(a["latents"], b["latents"])
        for a, b in zip(left, right, strict=True)
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_it_goes_on_with_the_next_batch(make, workers):
    whole = list(make(0))
    for stop in (1, 4, len(whole) - 1):
        loader = make(workers)
        begun = list(itertools.islice(iter(loader), stop))
        assert same(begun, whole[:stop])
        state = json.loads(json.dumps(loader.state_dict()))
        resumed = make(workers)
        resumed.load_state_dict(state)
        assert same(list(resumed), whole[stop:])


def test_the_epoch_after_a_resumed_one(make):
    second = make(2)
    second.dataset.set_epoch(1)
    wanted = list(second)
    loader = make(2)
    list(itertools.islice(iter(loader), 3))
    resumed = make(2)
    resumed.load_state_dict(loader.state_dict())
    list(resumed)
    resumed.dataset.set_epoch(1)
    assert same(list(resumed), wanted)


def test_ranks_resume_each_for_itself(make):
    ids = []
    for rank in range(2):
        loader = make(1, rank=rank, world_size=2)
        ids += [i for batch in itertools.islice(iter(loader), 2) for i in batch["ids"]]
        resumed = make(1, rank=rank, world_size=2)
        resumed.load_state_dict(loader.state_dict())
        ids += [i for batch in resumed for i in batch["ids"]]
    assert len(set(ids)) == len(ids) == 2 * sum(WINDOWS.values())


def test_another_number_of_workers_is_refused(make):
    loader = make(2)
    next(iter(loader))
    other = make(1)
    other.load_state_dict(loader.state_dict())
    with pytest.raises((UserError, AssertionError), match="worker"):
        next(iter(other))


def test_with_one_worker_the_rest_is_divided_anew(make):
    loader = make(1)
    begun = list(itertools.islice(iter(loader), 3))
    state, ids = loader.state_dict(), [i for batch in begun for i in batch["ids"]]
    for rank in range(2):
        resumed = make(1, rank=rank, world_size=2)
        resumed.load_state_dict(state)
        ids += [i for batch in resumed for i in batch["ids"]]
    assert len(set(ids)) == len(ids) == 2 * sum(WINDOWS.values())


@pytest.mark.parametrize("changed", [{"world_size": 2, "rank": 0}, {"batch_size": 3}])
def test_with_more_it_cannot_be(make, changed):
    """Each worker's state is of another step: divided by them, clips came twice or not at all."""
    loader = make(2)
    list(itertools.islice(iter(loader), 3))
    resumed = make(2, **changed)
    resumed.load_state_dict(loader.state_dict())
    with pytest.raises(UserError, match="resume with world_size 1 and batch_size 2, or keep"):
        next(iter(resumed))
