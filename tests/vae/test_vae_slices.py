"""Slices of time, splits of the batch and budgets change no number; nothing sees later frames."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from vae_cases import TINY, narrow, random_clip, windows_of

from vae import AutoencoderKL, VAEConfig, memory, seeded_state_dict
from vae.memory import CPU_SURPLUS

FRAMES = [1, 9, 17, 18, 26, 34]
SIDES = st.sampled_from([16, 32, 48])
SLICES = st.one_of(st.none(), st.integers(1, 17))
BUDGETS = st.one_of(
    st.none(), st.integers(1, 10**6), st.integers(CPU_SURPLUS, CPU_SURPLUS + 10 * 2**20)
)
TINY_1 = VAEConfig(**{**vars(TINY), "version": 1})


@pytest.fixture(scope="module")
def tiny_1():
    return AutoencoderKL.from_state_dict(TINY_1, seeded_state_dict(TINY_1, 1))


def close(actual, expected, bound=1e-5):
    torch.testing.assert_close(actual, expected, atol=bound, rtol=0)


@torch.no_grad()
def each_alone(function, x, length, size=None):
    """Windows of ``length`` of each clip of a batch by themselves."""
    parts = [[function(w[i : i + 1], size) for i in range(len(x))] for w in windows_of(x, length)]
    return torch.cat([torch.cat(part) for part in parts], dim=2).transpose(1, 2)


@settings(deadline=None, max_examples=12)
@given(st.sampled_from(FRAMES), SIDES, SIDES, st.integers(1, 3), SLICES, BUDGETS)
def test_no_way_to_encode_changes_a_number(tiny, frames, height, width, batch, size, budget):
    x = random_clip(frames, height, width, batch)
    expected = each_alone(tiny.encoder, x, 17)
    close(each_alone(tiny.encoder, x, 17, size), expected)
    found = tiny.posterior(x, allow_partial_window=True, memory_budget=budget)
    close(torch.cat((found.mean, found.logvar), dim=2), expected)
    close(tiny.mean(x, allow_partial_window=True, memory_budget=budget), expected[:, :, :2])


@settings(deadline=None, max_examples=12)
@given(st.integers(1, 7), SIDES, st.sampled_from([16, 32]), st.integers(1, 2), SLICES, BUDGETS)
def test_no_way_to_decode_changes_a_number(tiny, latents, height, width, batch, size, budget):
    shape = (batch, latents, 2, height // 16, width // 16)
    z = torch.randn(shape, generator=torch.Generator().manual_seed(latents))
    expected = each_alone(tiny.decoder, z, 3)
    close(each_alone(tiny.decoder, z, 3, size), expected, 2e-5)
    default, least = tiny.decode(z), tiny.decode(z, memory_budget=budget)
    close(least, default, 2e-5)
    unblended = [f for f in range(default.shape[1]) if f == 0 or f % 17 not in (0, 16)]
    close(default[:, unblended], expected[:, unblended], 2e-5)


@settings(deadline=None, max_examples=15)
@given(st.sampled_from([1, 5, 13, 17, 22, 34]), SIDES, st.integers(1, 3), BUDGETS)
def test_no_split_of_a_batch_changes_a_number_of_version_1(tiny_1, frames, side, batch, budget):
    x = random_clip(frames, side, side, batch)
    expected = each_alone(tiny_1.encoder, x, 17)
    found = tiny_1.posterior(x, allow_partial_window=True, memory_budget=budget)
    close(torch.cat((found.mean, found.logvar), dim=2), expected)


def test_activations_of_too_many_elements_split_the_batch(tiny, monkeypatch):
    x = random_clip(17, 32, 48, batch=5)
    whole, plan = tiny.mean(x), tiny.memory_plan(32, 48)
    sizes = []
    forward = tiny.encoder.forward

    def recorded(x, *arguments):
        sizes.append(len(x))
        return forward(x, *arguments)

    monkeypatch.setattr(tiny.encoder, "forward", recorded)
    tiny.mean(x)
    assert sizes == [5]
    assert plan.batch >= 5
    most = memory.counted(TINY, 17, torch.float32, 8, "encoder", "cpu").largest_elements
    monkeypatch.setattr(memory, "MAX_ELEMENTS", round(2.5 * most * 32 * 48 / 512**2))
    assert tiny.memory_plan(32, 48).batch == 2
    split = tiny.mean(x)
    assert sizes == [5, 2, 2, 1]
    close(split, whole)


def encode_whole(model, x):
    return each_alone(model.encoder, x, 17)


def encode_sliced(model, x):
    return each_alone(model.encoder, x, 17, 3)


@torch.no_grad()
def encode_stacked(model, x):
    """Beside another clip in the batch."""
    windows = windows_of(torch.cat((x, -x.flip(1))), 17)
    return torch.cat([model.encoder(w, 4)[: len(x)] for w in windows], dim=2).transpose(1, 2)


def encode_split(model, x):
    return model.posterior(x, memory_budget=1).mean


@pytest.mark.parametrize("encode", [encode_whole, encode_sliced, encode_stacked, encode_split])
@settings(deadline=None, max_examples=8)
@given(st.integers(0, 33), SIDES)
def test_a_frame_changes_no_bit_of_an_earlier_latent(tiny, encode, changed, side):
    x = random_clip(34, side, 32)
    y = x.clone()
    y[:, changed] = -y[:, changed]
    before, after = encode(tiny, x), encode(tiny, y)
    window, frame = divmod(changed, 17)
    first = 3 * window - (-frame // 8)
    assert torch.equal(before[:, :first], after[:, :first])
    assert torch.equal(before[:, 3 * window + 3 :], after[:, 3 * window + 3 :])
    assert (before != after)[:, first : 3 * window + 3].flatten(2).any(dim=2).all()


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 2), SLICES)
def test_a_latent_changes_no_bit_of_an_earlier_frame(tiny, changed, size):
    z = torch.randn(1, 2, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    y = z.clone()
    y[:, :, changed] = -y[:, :, changed]
    before, after = tiny.decoder(z, size), tiny.decoder(y, size)
    first = max(0, 8 * changed - 7)
    assert torch.equal(before[:, :, :first], after[:, :, :first])
    assert (before != after)[:, :, first:].transpose(1, 2).flatten(2).any(dim=2).all()


class Convolutions(TorchDispatchMode):
    """Counts convolutions by the axes of their input."""

    def __init__(self):
        super().__init__()
        self.by_axes = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "convolution" in func._schema.name:
            self.by_axes[args[0].ndim] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["v2_small", "v1_small"])
@pytest.mark.parametrize("way", ["posterior", "mean", "encode"])
def test_an_image_never_runs_a_convolution_over_time(name, way):
    method = getattr(narrow(name), way)
    with Convolutions() as seen:
        method(random_clip(1, batch=2))
    assert seen.by_axes[4] > 10
    assert not seen.by_axes[5]
    with Convolutions() as seen:
        method(random_clip(17))
    assert seen.by_axes[5] > 10


@pytest.mark.parametrize("version", [1, 2])
def test_the_full_size_runs_an_image_without_convolutions_over_time(version):
    with torch.device("meta"):
        model, x = AutoencoderKL(version=version), torch.empty(1, 1, 3, 256, 256)
        with Convolutions() as seen:
            model.encoder(x.transpose(1, 2))
    assert set(seen.by_axes) == {4}


def test_a_last_window_of_one_frame_is_an_image(small):
    with Convolutions() as alone:
        small.posterior(random_clip(17))
    with Convolutions() as longer:
        small.posterior(random_clip(18), allow_partial_window=True)
    assert longer.by_axes[5] == alone.by_axes[5]
