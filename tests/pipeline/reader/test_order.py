"""The order of an epoch: a permutation, spread evenly, divided over ranks, and divided again."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.reader.order import Division, keys_of, permute
from tests.pipeline import helpers  # noqa: F401  (the profile of hypothesis)

SIZES = st.lists(st.integers(0, 60), min_size=1, max_size=5).map(tuple)
WORLDS = st.integers(1, 5)
BATCHES = st.integers(1, 6)
REMAINDERS = st.sampled_from(["short", "drop"])


def division(sizes, world, batch, remainder="short", begun=None):
    return Division(sizes, begun or (0,) * len(sizes), world, batch, remainder)


def handed_out(plan: Division, steps: range) -> Counter:
    """What all ranks get in steps, as (group, position); checks what holds for each step."""
    found: Counter = Counter()
    for step in steps:
        batches = [plan.batch(step, rank) for rank in range(plan.world_size)]
        assert len({group for group, _ in batches}) == 1
        lengths = [len(positions) for _, positions in batches]
        assert min(lengths) >= 1
        assert max(lengths) <= plan.batch_size
        assert max(lengths) - min(lengths) <= 1
        found.update((group, position) for group, positions in batches for position in positions)
    return found


@given(st.integers(1, 3000), st.integers(0, 10**6))
def test_permutation(size, seed):
    keys = keys_of(seed, "x")
    found = permute(np.arange(size), size, keys)
    assert sorted(found.tolist()) == list(range(size))
    assert permute(np.array([size - 1]), size, keys)[0] == found[-1]  # each by itself


def test_permutation_is_well_mixed():
    """Neighbours of the order come from anywhere, and epochs differ."""
    size = 10_000
    found = permute(np.arange(size), size, keys_of(1, 0))
    assert abs(np.corrcoef(np.arange(size), found)[0, 1]) < 0.05
    assert abs(np.abs(np.diff(found)).mean() / (size / 3) - 1) < 0.05
    assert (permute(np.arange(size), size, keys_of(1, 1)) == found).sum() < 10


@given(SIZES, WORLDS, BATCHES, REMAINDERS)
def test_every_clip_once(sizes, world, batch, remainder):
    plan = division(sizes, world, batch, remainder)
    found = handed_out(plan, range(plan.steps))
    assert all(count == 1 for count in found.values())
    for group, (size, left) in enumerate(zip(sizes, plan.left_out, strict=True)):
        assert sum(g == group for g, _ in found) == size - left
        limit = world * batch if remainder == "drop" else world
        assert 0 <= left < limit
        if remainder == "short" and batch > 1 and size >= world * batch:
            assert left == 0


@given(SIZES, WORLDS, BATCHES)
def test_groups_are_spread_evenly(sizes, world, batch):
    plan = division(sizes, world, batch)
    seen = [0] * len(sizes)
    for step in range(plan.steps):
        group, number = plan.place(step)
        assert number == seen[group]  # in their own order
        seen[group] += 1
        for count, steps in zip(seen, plan.group_steps, strict=True):
            assert abs(count - (step + 1) * steps / plan.steps) < len(sizes)
    assert tuple(seen) == plan.group_steps


@given(SIZES, WORLDS, BATCHES, st.data())
def test_given(sizes, world, batch, data):
    plan = division(sizes, world, batch)
    steps = data.draw(st.integers(0, plan.steps))
    found = Counter(group for group, _ in handed_out(plan, range(steps)))
    assert plan.given(steps) == tuple(found[group] for group in range(len(sizes)))


@given(SIZES, st.lists(st.tuples(WORLDS, BATCHES, st.floats(0, 1)), min_size=1, max_size=4))
def test_divided_again_nothing_is_given_twice(sizes, stops):
    found: Counter = Counter()
    begun = (0,) * len(sizes)
    for world, batch, share in stops:
        plan = division(sizes, world, batch, begun=begun)
        steps = int(share * plan.steps)
        found += handed_out(plan, range(steps))
        begun = plan.given(steps)
    last = division(sizes, 1, 2, begun=begun)
    found += handed_out(last, range(last.steps))
    assert found == Counter({(g, n): 1 for g, size in enumerate(sizes) for n in range(size)})


def test_huge_epochs_cost_nothing():
    plan = division((10**9, 3 * 10**9, 7), 64, 8)
    assert plan.batch(plan.steps // 2, 63)[1].stop > 0
    assert sum(plan.given(plan.steps)) == sum(plan.sizes) - sum(plan.left_out)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_small_permutations(size):
    seen = {tuple(permute(np.arange(size), size, keys_of(seed))) for seed in range(300)}
    assert len(seen) > {1: 0, 2: 1, 3: 5, 4: 20, 5: 70}[size]
