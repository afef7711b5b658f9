"""The numbers of the reference implementation, to 1e-4 in float32.

The narrow models' are compared path by path in ``test_vae_paths.py``.
"""

from functools import cache

import pytest
import torch
from safetensors.torch import load_file
from vae_cases import (
    GOLDENS,
    NARROW,
    golden_cases,
    golden_config,
    golden_set,
    load_case,
)

from vae import AutoencoderKL, seeded_state_dict


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)


def check_encoding(model, case):
    posterior = model.posterior(case["input"], allow_partial_window=True)
    assert_close(posterior.mean, case["mean"])
    assert_close(posterior.logvar, case["logvar"])
    generator = torch.Generator().manual_seed(case["noise_seed"])
    assert_close(posterior.sample(generator), case["sample"])


def check_decoding(model, case):
    assert_close(model.decode(case["mean"]), case["decoded"])


def test_both_versions_live_in_one_process():
    """In the reference, building one version changes the numbers of the other."""
    cases = {name: load_case(name, "uint8_b1_t17_32x32.safetensors") for name in NARROW}
    for order in (NARROW, NARROW[::-1]):
        models = {
            name: AutoencoderKL.from_file(GOLDENS / name / "weights.safetensors") for name in order
        }
        for name in NARROW:
            check_encoding(models[name], cases[name])
            check_decoding(models[name], cases[name])


def test_encode_draws_the_references_noise(small):
    case = load_case("v2_small", "uint8_b2_t17_32x32.safetensors")
    torch.manual_seed(case["noise_seed"])
    assert_close(small.encode(case["input"]), case["sample"])


@pytest.mark.parametrize("name", NARROW)
def test_weight_recipe_gives_the_stored_weights(name):
    stored = load_file(GOLDENS / name / "weights.safetensors")
    made = seeded_state_dict(golden_config(name), golden_set(name)["weight_seed"])
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
