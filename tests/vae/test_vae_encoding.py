"""What encode and decode promise beyond the reference's numbers."""

import pytest
import torch
from vae_cases import TINY, random_clip

from vae import AutoencoderKL, VAEConfig, seeded_state_dict
from vae.decoder import blend_borders


@pytest.mark.parametrize("changed", [0, 1, 8, 9, 16])
def test_a_frame_influences_no_earlier_latent(tiny, changed):
    x = random_clip(17)
    y = x.clone()
    y[:, changed] = -y[:, changed]
    a, b = tiny.posterior(x), tiny.posterior(y)
    first = -(-changed // 8)
    for before, after in ((a.mean, b.mean), (a.logvar, b.logvar)):
        assert torch.equal(before[:, :first], after[:, :first])
        assert (before[:, first:] != after[:, first:]).flatten(2).any(dim=2).all()


def test_an_image_is_the_first_latent_of_its_window(small):
    x = random_clip(17)
    window, image = small.posterior(x), small.posterior(x[:, :1])
    torch.testing.assert_close(image.mean, window.mean[:, :1], atol=1e-5, rtol=0)
    torch.testing.assert_close(image.logvar, window.logvar[:, :1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("batch", [1, 2])
def test_windows_are_independent_bit_for_bit(small, batch):
    x = random_clip(51, batch=batch)
    whole = small.posterior(x)
    for i in range(3):
        alone = small.posterior(x[:, 17 * i : 17 * i + 17])
        assert torch.equal(alone.mean, whole.mean[:, 3 * i : 3 * i + 3])
        assert torch.equal(alone.logvar, whole.logvar[:, 3 * i : 3 * i + 3])


def test_windows_may_be_stacked_in_the_batch(small):
    x = random_clip(34, batch=2)
    stacked = small.posterior(x.reshape(4, 17, 3, 32, 32)).mean.reshape(2, 6, 2, 2, 2)
    torch.testing.assert_close(stacked, small.posterior(x).mean, atol=1e-5, rtol=0)


def test_same_call_same_bits(tiny):
    x = random_clip(34)
    a = tiny.encode(x, generator=torch.Generator().manual_seed(3))
    b = tiny.encode(x, generator=torch.Generator().manual_seed(3))
    c = tiny.encode(x, generator=torch.Generator().manual_seed(4))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(tiny.decode(a), tiny.decode(b))


def test_input_is_left_as_it_was(tiny):
    x = random_clip(34)
    z = tiny.posterior(x).mean
    before, latent = x.clone(), z.clone()
    tiny.encode(x)
    tiny.decode(z)
    assert torch.equal(x, before)
    assert torch.equal(z, latent)


def test_a_generator_leaves_the_global_random_state_alone(tiny):
    x = random_clip(1)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    tiny.encode(x, generator=torch.Generator().manual_seed(0))
    tiny.decode(tiny.posterior(x).mean)
    assert torch.equal(torch.get_rng_state(), before)
    tiny.encode(x)
    assert not torch.equal(torch.get_rng_state(), before)


def test_any_memory_layout_is_encoded_alike(tiny):
    x = random_clip(17)
    permuted = x.permute(0, 2, 1, 3, 4).contiguous().permute(0, 2, 1, 3, 4)
    assert not permuted.is_contiguous()
    assert torch.equal(tiny.posterior(permuted).mean, tiny.posterior(x).mean)


@pytest.mark.parametrize(("frames", "latents"), [(1, 1), (17, 3), (34, 6)])
def test_decoding_gives_the_shape_that_was_encoded(tiny, frames, latents):
    x = random_clip(frames, 32, 48, batch=2)
    latent = tiny.encode(x)
    assert latent.shape == (2, latents, 2, 2, 3)
    assert tiny.decode(latent).shape == x.shape


def test_results_are_ordinary_tensors_without_a_graph(tiny):
    latent = tiny.encode(random_clip(1))
    assert not latent.requires_grad
    assert not latent.is_inference()
    weight = torch.ones((), requires_grad=True)
    (latent * weight).sum().backward()
    assert weight.grad == latent.sum()


def test_borders_are_blended_in_order_and_nowhere_else():
    video = torch.zeros(1, 51, 1, 1, 1)
    video[:, 16], video[:, 17] = 1.0, 2.0
    video[:, 33], video[:, 34] = 3.0, 5.0
    expected = video.clone()
    expected[:, 17] = 0.6 * 2.0 + 0.4 * 1.0
    expected[:, 16] = 0.76 * 1.0 + 0.24 * 2.0
    expected[:, 34] = 0.6 * 5.0 + 0.4 * 3.0
    expected[:, 33] = 0.76 * 3.0 + 0.24 * 5.0
    torch.testing.assert_close(blend_borders(video), expected)


def test_single_windows_are_not_blended():
    video = torch.arange(17.0).reshape(1, 17, 1, 1, 1)
    assert torch.equal(blend_borders(video.clone()), video)


def test_two_models_do_not_influence_each_other(tiny):
    x = random_clip(17)
    before = tiny.posterior(x).mean
    other = AutoencoderKL.from_config(
        type(TINY)(z_channels=1, encoder_ch=32, encoder_ch_mult=(1, 1, 1, 1), norm_eps=1e-3)
    )
    other.posterior(x)
    assert torch.equal(tiny.posterior(x).mean, before)


def test_works_on_meta_without_looking_at_values():
    with torch.device("meta"):
        model = AutoencoderKL(version=2, z_channels=64)
        latent = model.encode(torch.empty(1, 34, 3, 64, 48))
        video = model.decode(latent)
    assert latent.is_meta
    assert latent.shape == (1, 6, 64, 4, 3)
    assert video.shape == (1, 34, 3, 64, 48)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
@pytest.mark.parametrize("version", [1, 2])
def test_shapes_ranges_and_dtypes(version, dtype):
    """What the table in vae/README.md says."""
    config = VAEConfig(**{**vars(TINY), "version": version})
    weights, dtype = seeded_state_dict(config, 1), getattr(torch, dtype)
    model = AutoencoderKL.from_state_dict(config, weights, dtype=dtype)
    x = random_clip(34, 32, 48, batch=2).to(dtype)
    latents, positions = (6, (2, 3)) if version == 2 else (10, (4, 6))
    posterior = model.posterior(x)
    assert posterior.mean.shape == posterior.logvar.shape == (2, latents, 2, *positions)
    assert -30 <= posterior.logvar.min() <= posterior.logvar.max() <= 20
    video = model.decode(posterior.mean.float())
    made = [posterior.mean, posterior.logvar, model.mean(x), model.encode(x), video]
    assert {value.dtype for value in made} == {dtype}
    assert all(value.isfinite().all() for value in made)
    assert video.shape == x.shape
    assert video.is_contiguous()
