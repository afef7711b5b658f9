import numpy as np
from helpers import SMALL, WIDE, make_facts, make_segment
from hypothesis import given
from hypothesis import strategies as st

from pipeline.effort import Effort
from pipeline.packs import (
    FRAMES,
    META,
    Event,
    PackMeta,
    Reference,
    facts_from_json,
    facts_to_json,
    rows,
    to_batch,
)

INTEGERS = st.integers(-(2**63), 2**63 - 1)
NAMES = st.text(max_size=6)
SEGMENTS = st.builds(
    make_segment,
    source=NAMES,
    first=st.integers(0, 2**40),
    windows=st.integers(1, 3),
    bucket=st.sampled_from([SMALL, WIDE]),
    frames=st.sampled_from([1, 17]),
    time_base=st.tuples(st.integers(1, 2**31), st.integers(1, 2**31)),
    pts=st.lists(st.lists(INTEGERS, max_size=3), max_size=2),
    fps=st.floats(0, 1e4),
    last=st.booleans(),
    frames_actual=st.none() | st.integers(0, 2**40),
)
EVENTS = st.builds(
    Event,
    kind=st.sampled_from(["end", "failed"]),
    source_id=NAMES,
    generation=NAMES,
    windows=st.integers(0, 2**40),
    frames_actual=st.integers(0, 2**40),
    facts=st.none() | NAMES,
    reason=NAMES,
    message=NAMES,
)
REFERENCES = st.builds(
    Reference,
    segment=SEGMENTS,
    shard=NAMES,
    first_row=st.integers(0, 2**40),
    checksums=st.lists(NAMES, max_size=2),
)
METAS = st.builds(
    PackMeta,
    pack_id=NAMES,
    segments=st.lists(SEGMENTS, max_size=3).map(tuple),
    events=st.lists(EVENTS, max_size=3).map(tuple),
    references=st.lists(REFERENCES, max_size=2).map(tuple),
    effort=st.none()
    | st.builds(
        Effort,
        encoder=NAMES,
        begun=st.floats(0, 1e10),
        seconds=st.floats(0, 1e6),
        windows=st.integers(0, 2**40),
        frame_bytes=st.integers(0, 2**40),
    ),
)


@given(METAS)
def test_a_meta_travels_as_text_unchanged(meta):
    assert PackMeta.from_json(meta.to_json()) == meta


@given(METAS)
def test_sample_ids_are_those_of_the_segments_in_order(meta):
    assert meta.sample_ids == [i for segment in meta.segments for i in segment.sample_ids]


@given(st.builds(make_facts, fps=st.none() | st.floats(0, 1e3), origin=INTEGERS, codec=NAMES))
def test_facts_travel_as_text_unchanged(facts):
    assert facts_from_json(facts_to_json(facts)) == facts


def test_a_pack_is_a_batch_of_one_row():
    meta = PackMeta("p", (make_segment(),), ())
    frames = np.arange(24, dtype=np.uint8).reshape(2, 1, 2, 2, 3)
    batch = to_batch(meta, {FRAMES: frames})
    assert {name: len(column) for name, column in batch.items()} == {META: 1, FRAMES: 1}
    [(found, tensors)] = rows(batch)
    assert found == meta
    assert list(tensors) == [FRAMES]
    assert tensors[FRAMES].dtype == np.uint8
    np.testing.assert_array_equal(tensors[FRAMES], frames)


def test_packs_of_different_sizes_share_a_batch():
    metas = [PackMeta(str(n), (make_segment(first=n, windows=n + 1),), ()) for n in range(3)]
    column = np.empty(3, dtype=object)
    for n in range(3):
        column[n] = np.full((n + 1, 1, 16, 16, 3), n, np.uint8)
    batch = {META: np.array([m.to_json() for m in metas], dtype=object), FRAMES: column}
    for n, (meta, tensors) in enumerate(rows(batch)):
        assert meta == metas[n]
        assert tensors[FRAMES].shape == (n + 1, 1, 16, 16, 3)
        assert (tensors[FRAMES] == n).all()
