"""Where an iteration begins, however often and by whom the epoch is read; and wrong arguments."""

import itertools
import json

import pyarrow.compute as pc
import pytest
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from pipeline import LatentDataset
from pipeline.errors import UserError
from tests.pipeline.helpers import SMALL, WIDE
from tests.pipeline.maintain.builder import indexed

WINDOWS = {"a": 3, "b": 5, "c": 1, "d": 4}


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reader")
    cache = indexed(folder / "cache", WINDOWS)

    def make(**options) -> LatentDataset:
        return LatentDataset(
            cache.uri, local_dir=folder / "local", **{"batch_size": 2, "seed": 5, **options}
        )

    return make


def ids(batches) -> list[list[str]]:
    return [batch["ids"] for batch in batches]


def epochs(make, count: int) -> list[list[list[str]]]:
    """The ids of epochs, each by a reader of its own."""
    found = []
    for epoch in range(count):
        dataset = make()
        dataset.set_epoch(epoch)
        found.append(ids(dataset))
    return found


@pytest.mark.parametrize("loader", [DataLoader, StatefulDataLoader])
def test_workers_that_persist_read_every_epoch(make, loader):
    dataset, wanted = make(), epochs(make, 3)
    batches = loader(dataset, batch_size=None, num_workers=2, persistent_workers=True)
    for epoch in range(3):
        dataset.set_epoch(epoch)
        assert ids(batches) == wanted[epoch]
    assert wanted[0] != wanted[1]


def test_persisting_workers_tell_the_second_epochs_place(make):
    dataset, wanted = make(), epochs(make, 2)[1]
    options = {"batch_size": None, "num_workers": 1, "persistent_workers": True}
    loader = StatefulDataLoader(dataset, **options)
    list(loader)
    dataset.set_epoch(1)
    for stop in (0, 2):
        list(itertools.islice(iter(loader), stop))
        resumed = StatefulDataLoader(make(), **options)
        resumed.load_state_dict(loader.state_dict())
        assert ids(resumed) == wanted[stop:]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_look_at_the_first_batch_costs_nothing(make, workers):
    dataset, wanted = make(), ids(make())
    next(iter(dataset))
    assert ids(DataLoader(dataset, batch_size=None, num_workers=workers)) == wanted
    if workers:
        with pytest.raises(UserError, match="give the last batch"):
            dataset.state_dict()  # what this process made tells nothing of theirs


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_that_was_left_begins_again(make, workers):
    dataset, wanted = make(), ids(make())
    list(itertools.islice(dataset.loader(workers), 2))
    left = dataset.state_dict()
    assert ids(dataset.loader(workers)) == wanted
    dataset.load_state_dict(left)
    assert ids(dataset.loader(workers)) == wanted[2:]
    assert dataset.state_dict()["epoch"] == 1


@pytest.mark.parametrize("workers", [0, 1])
def test_the_epoch_that_was_resumed_may_be_set(make, workers):
    """As loops over epochs do it, and libraries before every iteration."""
    first, wanted = make(), epochs(make, 3)
    first.set_epoch(1)
    for _ in itertools.islice(iter(first), 3):
        state = json.loads(json.dumps(first.state_dict()))
    dataset = make()
    dataset.load_state_dict(state)
    loader = DataLoader(dataset, batch_size=None, num_workers=workers)
    dataset.set_epoch(1)
    dataset.load_state_dict(state)
    dataset.set_epoch(1)
    assert ids(loader) == wanted[1][3:]
    dataset.set_epoch(1)  # it was read: this begins it again
    assert ids(loader) == wanted[1]
    dataset.load_state_dict(state)
    dataset.set_epoch(2)
    assert ids(loader) == wanted[2]


def test_an_epoch_before_the_first(make):
    with pytest.raises(UserError, match="epoch -1"):
        make().set_epoch(-1)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"columns": "uri"}, r"columns 'uri': give a list of names, \['uri'\]"),
        ({"expect": {"vae_version": 2}}, "give Contract.matching"),
        ({"filter": "fps > 24"}, "filter 'fps > 24': give a pyarrow expression"),
        ({"filter": pc.field("fps") + 1}, "the columns are"),
        (
            {"weights": {f"{SMALL.name}x17": 2}},
            f"there are {SMALL.name}, {WIDE.name}",
        ),
        ({"weights": {SMALL.name: "2"}}, "from 0 to 1000"),
        ({"weights": [1, 2]}, "give a dict by bucket name"),
        ({"weights": "uri"}, "name a column of numbers"),
        ({"dtype": "float32"}, r"such as torch\.bfloat16"),
        ({"normalize": {"scale": 2}}, r"give Normalization\(scale, shift\)"),
        ({"normalize": "x.json", "statistic": "moments"}, "moments are given as stored"),
        ({"first_frame": True, "statistic": "moments"}, r"take mean\[:, :1\]"),
        ({"clip_frames": 18}, "clip_frames 18: clips are of 17, 34"),
        ({"clip_frames": 34.0}, r"clip_frames 34\.0: clips are of 17, 34"),
        ({"clip_frames": []}, "at least one length"),
        ({"clip_stride": 0}, "clip_stride 0"),
        ({"batch_size": "8"}, "batch_size '8': it must be a whole number"),
        ({"prefetch": -1}, "prefetch -1"),
        ({"statistic": "meen"}, "it is one of sample, mean, moments"),
        ({"rank": 2, "world_size": 2}, "rank 2 of world_size 2"),
        ({"rank": 0, "world_size": 30}, f"13 of {SMALL.name}x17, .* each of 30 ranks"),
        ({"batch_size": 14, "remainder": "drop"}, "a smaller batch_size or remainder='short'"),
        ({"filter": pc.field("fps") > 1000}, "no clip of 17 frames that fits"),
        ({"snapshot": "1"}, "there is no snapshot '1'; there are 1"),
        ({"disk_cache": "x", "disk_cache_bytes": "2TB"}, "disk_cache_bytes '2TB'"),
    ],
)
def test_wrong_arguments(make, given, told):
    with pytest.raises(UserError, match=told):
        make(**given)
