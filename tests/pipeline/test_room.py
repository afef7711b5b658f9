"""Micro-batches, and what happens where memory runs out."""

import pytest
import torch
from encode_cases import MOMENTS, FakeVAE, ids, numbered_frames
from helpers import make_config, make_recipe
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.encode import WindowEncoder
from pipeline.errors import UserError
from pipeline.room import Room, is_out_of_memory
from pipeline.stages.encode import Encoder
from vae.memory import DEVICE_SHARE


@settings(max_examples=50)
@given(
    count=st.integers(1, 20),
    memory=st.integers(31, 1000),
    asked=st.one_of(st.none(), st.integers(1, 12)),
)
def test_nothing_is_lost_where_memory_runs_out(count, memory, asked):
    model = FakeVAE([float(n) for n in range(count)], memory=memory)
    encoder = WindowEncoder(model, MOMENTS, 0, asked)
    shape = (17, 32, 32)
    for _ in range(2):
        model.calls.clear()
        encoded = encoder(numbered_frames(count), ids(count))
        assert encoded.tensors["mean"][:, -1, -1, -1, -1].tolist() == list(range(count))
        assert sum(model.calls) == count
    held, calls = (encoder.room.budget(shape), encoder.room.windows(shape)), len(model.calls)
    model.tried.clear()
    encoder(numbered_frames(count), ids(count))
    assert len(model.tried) == calls  # what held is remembered: nothing runs out again
    assert (encoder.room.budget(shape), encoder.room.windows(shape)) == held


@pytest.mark.parametrize("asked", [None, 12])
@pytest.mark.parametrize(
    ("memory", "tried"),
    [
        (6 + 54 * 6, [(12, 8), (6, 8), (6, 8)]),
        (6 + 54 * 2, [(12, 8), (6, 8), (3, 8), (1, 8)]),
        (60, [(12, 8), (6, 8), (3, 8), (1, 8)]),
        (59, [(12, 8), (6, 8), (3, 8), (1, 8), (1, 4)]),
        (44, [(12, 8), (6, 8), (3, 8), (1, 8), (1, 4), (1, 2)]),
        (34, [(12, 8), (6, 8), (3, 8), (1, 8), (1, 4), (1, 2), (1, 1)]),
    ],
)
def test_half_of_what_was_tried_comes_next_then_the_next_finer_slices(memory, tried, asked):
    """Whatever the budget says: it is far beyond the memory."""
    model = FakeVAE([float(n) for n in range(12)], memory=memory)
    WindowEncoder(model, MOMENTS, 0, asked)(numbered_frames(12), ids(12))
    assert model.tried[: len(tried)] == tried
    assert set(model.tried[len(tried) :]) <= {tried[-1]}  # what held is not left again


def test_a_budget_of_a_few_windows_is_halved_from_what_went_at_once():
    """A call of more windows is split by the VAE; these did not all go at once."""
    model = FakeVAE([float(n) for n in range(12)], memory=6 + 54 * 2)
    encoder = WindowEncoder(model, MOMENTS, 0, 12)
    encoder.room._whole = 6 + 54 * 4
    encoder(numbered_frames(12), ids(12))
    assert model.tried == [(4, 8)] + [(2, 8)] * 6


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("cuDNN: ALLOC_FAILED")])
def test_every_kind_of_a_lack_of_memory_is_met(error):
    model = FakeVAE([0.0, 1.0], memory=60)
    model.error = error
    encoded = WindowEncoder(model, MOMENTS, 0, 2)(numbered_frames(2), ids(2))
    assert encoded.tensors["mean"][:, -1, -1, -1, -1].tolist() == [0, 1]
    assert model.tried == [(2, 8), (1, 8), (1, 8)]


def test_an_image_has_no_finer_slices():
    encoder = WindowEncoder(FakeVAE([0.0], memory=59), MOMENTS, 0)
    with pytest.raises(UserError, match="one window of 1 frames of 32x32"):
        encoder(numbered_frames(1)[:, :1], ids(1))


def test_a_window_that_never_fits_is_told_with_remedies():
    encoder = WindowEncoder(FakeVAE([0.0], memory=0), MOMENTS, 0)
    with pytest.raises(UserError, match=r"window of 17 frames of 32x32.*smaller bucket"):
        encoder(numbered_frames(1), ids(1))


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    class Broken(FakeVAE):
        def posterior(self, x, memory_budget):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        WindowEncoder(Broken([0.0]), MOMENTS, 0)(numbered_frames(1), ids(1))


def test_the_cpus_own_error_is_known_as_a_lack_of_memory():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_windows_of_a_call_follow_from_pixels_and_memory(vae):
    room = Room(vae, None)
    assert room.windows((1, 32, 32)) > room.windows((17, 32, 32)) > 1
    assert room.windows((17, 544, 992)) == 1
    assert Room(vae, 3).windows((17, 32, 32)) == 3


@pytest.mark.parametrize(
    ("gpus", "share", "held"), [(0.25, 0.25, [0.25]), (1, 1.0, []), (2, 1.0, [])]
)
def test_encoders_that_share_a_gpu_keep_to_their_part(gpus, share, held, monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *a: asked.append(a))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (90, 100))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 10)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 10)
    monkeypatch.setattr(FakeVAE, "device", torch.device("cuda:1"))
    run = make_config(run__runner="ray", run__gpus_per_encoder=gpus).run
    room = Room(FakeVAE([0.0]), None, run.device_share)
    assert room.budget((17, 32, 32)) == int(DEVICE_SHARE * (100 * share - 10))
    assert asked == [(part, FakeVAE.device) for part in held]


def test_the_share_of_the_configuration_reaches_the_encoder(monkeypatch):
    made = []
    monkeypatch.setattr("pipeline.encode.Room", lambda *arguments: made.append(arguments))
    config = make_config(run__gpus_per_encoder=0.5, run__micro_batch=3)
    Encoder(config, make_recipe(config))
    [(_, micro_batch, share)] = made
    assert (micro_batch, share) == (3, 0.5)
    assert make_config().run.device_share == 1
