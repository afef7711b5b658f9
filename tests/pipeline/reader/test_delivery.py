"""Ranks, workers and stops over a real cache, against a model that knows the windows alone."""

import itertools
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import LatentDataset
from pipeline.identity import stable_hash
from pipeline.reader import dataset as module
from tests.pipeline.helpers import SMALL, WIDE
from tests.pipeline.maintain.builder import indexed

WINDOWS = {"a": 3, "b": 5, "c": 1, "d": 4, "e": 2, "f": 7}


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reader")
    cache = indexed(folder / "cache", WINDOWS)

    def make(**options) -> LatentDataset:
        return LatentDataset(cache.uri, local_dir=folder / "local", statistic="mean", **options)

    return make


def expected(lengths, stride) -> set[tuple[str, int]]:
    """Clips of an epoch: id and length in windows."""
    return {
        (f"{stable_hash(name)}:{bucket.name}:{17 * at}", k)
        for name, windows in WINDOWS.items()
        for bucket in (SMALL, WIDE)
        for k in lengths
        for at in range(0, windows - k + 1, stride or k)
    }


def by_workers(make, state, workers: int) -> list[dict]:
    """The batches of an epoch's rest, each made in the worker whose turn it is, by their steps."""
    found = []
    for number in range(workers):
        dataset = make()
        if state is not None:
            dataset.load_state_dict(state)
        with pytest.MonkeyPatch.context() as patch:
            info = SimpleNamespace(id=number, num_workers=workers)
            patch.setattr(module, "get_worker_info", lambda info=info: info)
            found += list(dataset)
    return sorted(found, key=lambda batch: batch["position"]["steps"])


@st.composite
def plans(draw):
    """Lengths, stride, and how often the epoch is divided: (ranks, batch size, workers, share)."""
    lengths = draw(st.sets(st.integers(1, 3), min_size=1, max_size=2))
    stops = st.tuples(
        st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.floats(0, 1, width=16)
    )
    return (
        sorted(lengths),
        draw(st.sampled_from([None, 1, 2])),
        draw(st.booleans()),
        draw(st.integers(0, 9)),
        draw(st.lists(stops, min_size=1, max_size=3)),
    )


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plans())
def test_every_clip_once_whoever_reads(make, plan):
    lengths, stride, shuffle, seed, stops = plan
    wanted, given_out, state = expected(lengths, stride), Counter(), None
    for number, (ranks, size, workers, share) in enumerate(stops):
        ends, steps = number == len(stops) - 1, set()
        after = state
        for rank in range(ranks):

            def opened(ranks=ranks, size=size, rank=rank) -> LatentDataset:
                return make(
                    clip_frames=[17 * k for k in lengths],
                    clip_stride=stride,
                    shuffle=shuffle,
                    seed=seed,
                    rank=rank,
                    world_size=ranks,
                    batch_size=size,
                )

            batches = by_workers(opened, state, workers)
            steps.add(len(batches))
            taken = batches if ends else batches[: int(share * len(batches))]
            for batch in taken:
                windows = batch["latents"].shape[1] // 3
                assert 1 <= len(batch["ids"]) <= size
                assert all(f":{batch['bucket']}:" in i for i in batch["ids"])
                given_out.update((i, windows) for i in batch["ids"])
            if taken:
                told = opened().state_dict(taken[-1])
                assert rank == 0 or told == after  # the same on all ranks
                after = told
        assert len(steps) == 1  # every rank has as many batches
        state = after
        if state is not None and state["epoch"] == 1:
            break
    assert all(count == 1 for count in given_out.values())
    assert given_out.keys() <= wanted
    left = Counter((i.split(":")[1], k) for i, k in wanted - given_out.keys())
    # Left out: fewer than ranks of a bucket and length, by each division that came to its end.
    assert all(count < ranks for count in left.values())


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 3), st.integers(2, 4), st.integers(1, 20))
def test_workers_change_nothing(make, size, workers, stop):
    def opened() -> LatentDataset:
        return make(batch_size=size, clip_frames=34, clip_stride=1, seed=2)

    whole = list(opened())
    assert [len(b["ids"]) for b in by_workers(opened, None, workers)] == [
        len(b["ids"]) for b in whole
    ]
    stop = min(stop, len(whole) - 1)
    state = opened().state_dict(whole[stop - 1])
    rest = by_workers(opened, state, workers)
    for left, right in itertools.zip_longest(whole[stop:], rest):
        assert left["ids"] == right["ids"]
        assert torch.equal(left["latents"], right["latents"])
