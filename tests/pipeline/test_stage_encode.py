"""The encode stage: packs of frames become packs of latents."""

import copy

import numpy as np
import pytest
from encode_cases import FakeVAE, numbered_frames, random_frames
from helpers import NARROW, WIDE, make_config, make_recipe, make_segment

from pipeline.encode import WindowEncoder
from pipeline.packs import FRAMES, Event, PackMeta, rows, to_batch
from pipeline.stages.encode import Encoder


@pytest.fixture(scope="module")
def encoder():
    config = make_config(vae=copy.deepcopy(NARROW))
    return Encoder(config, make_recipe(config, dtype="float32"))


def pack(*segments, events=(), frames=None):
    meta = PackMeta("p", segments, events)
    if frames is None:
        frames = numbered_frames(sum(segment.windows for segment in segments))
    return to_batch(meta, {FRAMES: frames})


def encode(encoder, batch):
    [(meta, tensors)] = rows(encoder(batch))
    return meta, tensors


def test_a_pack_of_frames_becomes_a_pack_of_latents(encoder):
    event = Event("end", "t", "t-g", 2, 40, None)
    frames = random_frames(3)
    segments = make_segment(windows=2), make_segment("t", windows=1)
    meta, tensors = encode(encoder, pack(*segments, events=(event,), frames=frames))
    assert [s.source_id for s in meta.segments] == ["s", "t"]
    assert meta.events == (event,)
    want = encoder.encode(frames, meta.sample_ids)
    for name in ("mean", "logvar"):
        np.testing.assert_array_equal(tensors[name], want.tensors[name])


def test_a_pack_of_events_alone_passes_through(encoder):
    event = Event("failed", "s", "s-g", reason="missing", message="gone")
    meta, tensors = encode(
        encoder, pack(events=(event,), frames=np.zeros((0, 1, 16, 16, 3), np.uint8))
    )
    assert meta.segments == ()
    assert meta.events == (event,)
    assert {name: len(tensor) for name, tensor in tensors.items()} == {"mean": 0, "logvar": 0}


@pytest.mark.parametrize(
    ("dtype", "value", "reason", "words"),
    [
        ("float16", float("nan"), "not_finite", "holds NaN or infinity"),
        ("float16", 1e6, "overflow", "set latents.dtype: float32"),
    ],
)
def test_only_the_segment_with_bad_numbers_is_refused(dtype, value, reason, words):
    config = make_config()
    recipe = make_recipe(config, dtype=dtype)
    model = FakeVAE([0.0, 1.0, 2.0, value, 4.0])
    chosen = Encoder(config, recipe, lambda *_: WindowEncoder(model, recipe.contract, 0, 2))
    first = make_segment("a", windows=2)
    bad = make_segment("b", 7, 2)
    last = make_segment("c", windows=1)
    meta, tensors = encode(chosen, pack(first, bad, last))
    assert meta.segments == (first, last)
    assert tensors["mean"][:, -1, -1, -1, -1].tolist() == [0, 1, 4]
    assert len(tensors["logvar"]) == 3
    [event] = meta.events
    assert (event.kind, event.source_id, event.generation) == ("failed", "b", "b-g")
    assert event.reason == reason
    assert "window 8 at 32x32" in event.message
    assert words in event.message


def test_nothing_is_left_of_a_pack_that_is_bad_altogether():
    recipe, model = make_recipe(), FakeVAE([float("nan")] * 2)
    chosen = Encoder(make_config(), recipe, lambda *_: WindowEncoder(model, recipe.contract, 0, 1))
    meta, tensors = encode(chosen, pack(make_segment("a", windows=1), make_segment("b", windows=1)))
    assert meta.segments == ()
    assert [event.source_id for event in meta.events] == ["a", "b"]
    assert tensors["mean"].shape == (0, 3, 2, 2, 2)


def test_buckets_that_are_not_square(encoder):
    frames = np.zeros((1, 17, 32, 64, 3), np.uint8)
    _, tensors = encode(encoder, pack(make_segment(windows=1, bucket=WIDE), frames=frames))
    assert tensors["mean"].shape == (1, 3, 2, 2, 4)


def test_an_encoder_tells_how_long_it_worked_and_how_long_it_was_in_the_vae(encoder):
    effort = encode(encoder, pack(make_segment(windows=3)))[0].effort
    assert effort.windows == 3
    assert 0 < effort.vae_seconds < effort.seconds
