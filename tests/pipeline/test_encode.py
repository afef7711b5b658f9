import hashlib
import warnings

import numpy as np
import pytest
import torch
from encode_cases import MOMENTS, FakeVAE, encode_windows, ids, numbered_frames, random_frames
from helpers import make_contract
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.encode import pixels_to_input, window_noise
from pipeline.errors import Reason

# ---- input


def test_pixels_become_what_the_vae_was_trained_on():
    frames = random_frames(2)
    x = pixels_to_input(torch.from_numpy(frames), torch.float32)
    assert x.shape == (2, 17, 3, 32, 32)
    assert x.dtype == torch.float32
    want = frames.transpose(0, 1, 4, 2, 3).astype(np.float64) / 127.5 - 1
    np.testing.assert_allclose(x.numpy(), want, atol=1e-6)
    ends = torch.zeros((1, 1, 16, 16, 3), dtype=torch.uint8)
    assert (pixels_to_input(ends, torch.float32) == -1).all()
    assert (pixels_to_input(ends + 255, torch.float32) == 1).all()


def test_the_input_has_the_dtype_of_the_weights_and_the_order_of_the_frames():
    x = pixels_to_input(torch.from_numpy(random_frames(1)), torch.bfloat16)
    assert x.dtype == torch.bfloat16
    assert x.permute(0, 1, 3, 4, 2).is_contiguous()


def test_frames_that_cannot_be_written_to_are_encoded(vae):
    frames = random_frames(1)
    frames.flags.writeable = False  # as Ray hands them out
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert encode_windows(vae, frames, ids(1), MOMENTS, 0, 1).bad == {}


# ---- statistics


@pytest.mark.parametrize("length", [17, 1])
def test_moments_are_the_posteriors(vae, length):
    frames = random_frames(2, length)
    encoded = encode_windows(vae, frames, ids(2), MOMENTS, 0, 2)
    with torch.no_grad():
        posterior = vae.posterior(pixels_to_input(torch.from_numpy(frames), vae.dtype))
    latents = 3 if length == 17 else 1
    assert list(encoded.tensors) == ["mean", "logvar"]
    assert encoded.tensors["mean"].shape == (2, latents, 2, 2, 2)
    np.testing.assert_array_equal(encoded.tensors["mean"], posterior.mean.numpy())
    np.testing.assert_array_equal(encoded.tensors["logvar"], posterior.logvar.numpy())
    assert encoded.bad == {}


def test_mean_is_the_mean_of_moments(vae):
    frames = random_frames(2)
    moments = encode_windows(vae, frames, ids(2), MOMENTS, 0, 2)
    contract = make_contract(dtype="float32", statistic="mean")
    mean = encode_windows(vae, frames, ids(2), contract, 0, 2)
    assert list(mean.tensors) == ["mean"]
    np.testing.assert_allclose(mean.tensors["mean"], moments.tensors["mean"], rtol=0, atol=1e-5)


def test_a_sample_is_mean_and_seeded_noise(vae):
    frames = random_frames(2)
    moments = encode_windows(vae, frames, ids(2), MOMENTS, 0, 2).tensors
    contract = make_contract(dtype="float32", statistic="sample")
    drawn = encode_windows(vae, frames, ids(2), contract, 7, 2)
    assert list(drawn.tensors) == ["sample"]
    noise = np.stack([window_noise(7, i, (3, 2, 2, 2)).numpy() for i in ids(2)])
    want = moments["mean"] + np.exp(moments["logvar"] / 2) * noise
    np.testing.assert_allclose(drawn.tensors["sample"], want, rtol=1e-5, atol=1e-5)
    other = encode_windows(vae, frames, ids(2), contract, 8, 2)
    assert not np.allclose(drawn.tensors["sample"], other.tensors["sample"], atol=1e-2)


@pytest.mark.parametrize("statistic", ["moments", "mean", "sample"])
def test_micro_batches_change_nothing(vae, statistic):
    frames = random_frames(5)
    contract = make_contract(dtype="float32", statistic=statistic)
    one, four = (encode_windows(vae, frames, ids(5), contract, 3, size) for size in (1, 4))
    for name in contract.tensors:
        np.testing.assert_allclose(one.tensors[name], four.tensors[name], rtol=0, atol=1e-5)


@settings(max_examples=30)
@given(count=st.integers(1, 9), size=st.integers(1, 12))
def test_every_window_is_encoded_once_in_order(count, size):
    model = FakeVAE([float(n) for n in range(count)])
    encoded = encode_windows(model, numbered_frames(count), ids(count), MOMENTS, 0, size)
    assert encoded.tensors["mean"][:, -1, -1, -1, -1].tolist() == list(range(count))
    assert sum(model.calls) == count
    assert max(model.calls) <= size


# ---- noise


def test_noise_follows_from_seed_and_sample_alone():
    state = torch.get_rng_state()
    one = window_noise(3, "a", (3, 2, 4, 4))
    torch.rand(5)
    assert torch.equal(one, window_noise(3, "a", (3, 2, 4, 4)))
    torch.set_rng_state(state)
    window_noise(3, "a", (3, 2, 4, 4))
    assert torch.equal(torch.get_rng_state(), state)  # the global generator is left alone
    for seed, name in ((4, "a"), (3, "b"), (-3, "a")):
        assert not torch.equal(one, window_noise(seed, name, (3, 2, 4, 4)))


def test_noise_is_the_documented_one():
    digest = hashlib.sha256(b"5:abc").digest()
    start = int.from_bytes(digest[:8], "little") & (2**63 - 1)
    want = torch.randn((1, 2, 2, 2), generator=torch.Generator().manual_seed(start))
    assert torch.equal(window_noise(5, "abc", (1, 2, 2, 2)), want)


def test_noise_is_standard_normal():
    noise = torch.stack([window_noise(0, str(n), (3, 8, 4, 4)) for n in range(200)])
    assert abs(noise.mean().item()) < 0.02
    assert abs(noise.std().item() - 1) < 0.02


# ---- stored numbers


def test_float16_is_the_nearest_to_the_posterior(vae):
    frames = random_frames(2)
    wide = encode_windows(vae, frames, ids(2), MOMENTS, 0, 2).tensors
    narrow = encode_windows(vae, frames, ids(2), make_contract(), 0, 2).tensors
    for name, tensor in narrow.items():
        assert tensor.dtype == np.float16
        np.testing.assert_array_equal(tensor, wide[name].astype(np.float16))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("statistic", ["moments", "mean", "sample"])
def test_numbers_that_are_none_are_told(value, dtype, statistic):
    contract = make_contract(dtype=dtype, statistic=statistic)
    model = FakeVAE([0.0, value, 1.0, 2.0])
    encoded = encode_windows(model, numbered_frames(4), ids(4), contract, 0, 3)
    assert encoded.bad == {1: Reason.NOT_FINITE}


def test_logvar_is_looked_at_too():
    model = FakeVAE([0.0, 0.0], [0.0, float("nan")])
    encoded = encode_windows(model, numbered_frames(2), ids(2), MOMENTS, 0, 1)
    assert encoded.bad == {1: Reason.NOT_FINITE}


@pytest.mark.parametrize(
    ("value", "fits"), [(65504.0, True), (-65504.0, True), (65535.0, False), (-1e30, False)]
)
def test_numbers_beyond_float16(value, fits):
    model = FakeVAE([0.0, value])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # an overflow is told once, by the row's reason
        narrow = encode_windows(model, numbered_frames(2), ids(2), make_contract(), 0, 2)
    assert narrow.bad == ({} if fits else {1: Reason.OVERFLOW})
    wide = encode_windows(model, numbered_frames(2), ids(2), MOMENTS, 0, 2)
    assert wide.bad == {}
    assert wide.tensors["mean"][1, -1, -1, -1, -1] == np.float32(value)
