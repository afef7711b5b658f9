"""Packed sequences against plain lists."""

import pickle

from helpers import make_facts, make_source
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import Reason, SourceError
from pipeline.packed import CHUNK, Packed, in_batches
from pipeline.video.facts import Header

lengths = st.integers(0, 3 * CHUNK)
bounds = st.none() | st.integers(-3 * CHUNK, 3 * CHUNK)


@given(lengths, lengths, bounds, bounds, st.sampled_from([None, 1, 2, -1]))
def test_it_reads_as_the_list_does(first, second, start, stop, step):
    items = [(n, str(n)) for n in range(first + second)]
    packed = Packed(items[:first])
    packed.extend(Packed(items[first:]))
    assert len(packed) == len(items)
    assert list(packed) == items
    assert packed[start:stop:step] == items[start:stop:step]
    assert [packed[n] for n in range(-len(items), 0)] == items
    packed.append((-1, "last"))
    assert packed[len(items)] == packed[-1] == (-1, "last")


def test_sources_come_back_equal_and_take_little():
    failure = SourceError(Reason.MISSING, "gone")
    sources = [make_source(f"s{n}", facts=make_facts(frames=n)) for n in range(5 * CHUNK)]
    header = make_source("header", facts=Header(128, 64, 25.0, 100, 4.0))
    packed = Packed([*sources, header, make_source("lost", failure=failure)])
    assert packed[: len(sources)] == sources
    assert packed[len(sources)] == header
    assert packed[-1].failure.reason is Reason.MISSING
    assert packed.nbytes < 60 * len(sources)
    sent = pickle.loads(pickle.dumps(packed))
    assert sent[: len(sources)] == sources


def test_batches_are_of_one_size_but_the_last():
    assert list(in_batches(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(in_batches([], 3)) == []
