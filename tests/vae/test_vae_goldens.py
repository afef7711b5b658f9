"""The numbers of the reference implementation, to 1e-4 in float32."""

from functools import cache

import pytest
import torch
from safetensors.torch import load_file
from vae_cases import GOLDENS, golden_cases, golden_config, golden_set, load_case

from vae import WINDOW_FRAMES, AutoencoderKL, seeded_state_dict


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)


@torch.no_grad()
def raw_moments(model, x):
    windows = x.transpose(1, 2).split(WINDOW_FRAMES, dim=2)
    return torch.cat([model.encoder(w) for w in windows], dim=2).transpose(1, 2)


@torch.no_grad()
def raw_frames(model, latent):
    windows = latent.transpose(1, 2).split(model.config.compression.window_latents, dim=2)
    return torch.cat([model.decoder(w) for w in windows], dim=2).transpose(1, 2)


def check_encoding(model, case):
    x = case["input"]
    assert_close(raw_moments(model, x), case["moments"])
    posterior = model.posterior(x, allow_partial_window=True)
    assert_close(posterior.mean, case["mean"])
    assert_close(posterior.logvar, case["logvar"])
    generator = torch.Generator().manual_seed(case["noise_seed"])
    assert_close(posterior.sample(generator), case["sample"])


def check_decoding(model, case):
    assert_close(model.decode(case["mean"]), case["decoded"])


@pytest.mark.parametrize("file", golden_cases("v2_small"))
def test_narrow_model_encodes_as_the_reference(small, file):
    check_encoding(small, load_case("v2_small", file))


@pytest.mark.parametrize(
    "file", [c["file"] for c in golden_set("v2_small")["cases"] if c["decode"]]
)
def test_narrow_model_decodes_as_the_reference(small, file):
    check_decoding(small, load_case("v2_small", file))


@pytest.mark.parametrize(
    "file", ["uint8_b1_t34_32x32.safetensors", "uint8_b1_t18_32x32.safetensors"]
)
def test_frames_before_the_blend_are_the_references(small, file):
    case = load_case("v2_small", file)
    frames = raw_frames(small, case["mean"])[:, case["premix_frames"].long()]
    assert_close(frames, case["premix"])
    assert (frames - case["decoded"][:, case["premix_frames"].long()]).abs().max() > 1e-2


def test_encode_draws_the_references_noise(small):
    case = load_case("v2_small", "uint8_b2_t17_32x32.safetensors")
    torch.manual_seed(case["noise_seed"])
    assert_close(small.encode(case["input"]), case["sample"])


def test_weight_recipe_gives_the_stored_weights():
    stored = load_file(GOLDENS / "v2_small" / "weights.safetensors")
    seed = golden_set("v2_small")["weight_seed"]
    made = seeded_state_dict(golden_config("v2_small"), seed)
    assert made.keys() == stored.keys()
    for key, value in made.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, stored[key].float()), key


@cache
def full_size():
    config = golden_config("v2_full")
    seed = golden_set("v2_full")["weight_seed"]
    return AutoencoderKL.from_state_dict(config, seeded_state_dict(config, seed))


@pytest.mark.slow
@pytest.mark.parametrize("file", golden_cases("v2_full"))
def test_full_size_model_encodes_as_the_reference(file):
    check_encoding(full_size(), load_case("v2_full", file))


@pytest.mark.slow
@pytest.mark.parametrize("file", [c["file"] for c in golden_set("v2_full")["cases"] if c["decode"]])
def test_full_size_model_decodes_as_the_reference(file):
    check_decoding(full_size(), load_case("v2_full", file))
