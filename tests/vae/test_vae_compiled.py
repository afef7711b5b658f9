"""Norms as one kernel, and weights in the order of the activations: the same numbers."""

import dataclasses

import pytest
import torch
from vae_cases import GOLDENS, TINY, golden_cases, golden_config, load_case

from vae import AutoencoderKL, seeded_state_dict

NARROW = ("v2_small", "v1_small")


def fresh(name):
    return AutoencoderKL.from_file(GOLDENS / name / "weights.safetensors", golden_config(name))


def check_goldens(model, name):
    for file in golden_cases(name):
        case = load_case(name, file)
        posterior = model.posterior(case["input"], allow_partial_window=True)
        torch.testing.assert_close(posterior.mean, case["mean"], atol=1e-4, rtol=0)
        torch.testing.assert_close(posterior.logvar, case["logvar"], atol=1e-4, rtol=0)
        if "decoded" in case and case["input"].shape[1] <= 17:
            decoded = model.decode(case["mean"])
            torch.testing.assert_close(decoded, case["decoded"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", NARROW)
@pytest.mark.parametrize(
    "backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow, id="inductor")]
)
def test_compiled_norms_give_the_references_numbers(name, backend):
    model = fresh(name)
    model.compile_norms(backend)
    check_goldens(model, name)


def test_a_bounded_number_of_kernels_serves_all_sizes():
    made = []

    def backend(graph, _inputs):
        made.append(graph)
        return graph.forward

    torch.compiler.reset()
    model = fresh("v2_small")
    model.compile_norms(backend)
    for height, width in ((32, 32), (32, 48), (64, 32), (48, 80), (16, 16)):
        model.posterior(torch.zeros(1, 17, 3, height, width))
        model.posterior(torch.zeros(1, 1, 3, height, width))
    assert 0 < len(made) <= 8


@pytest.mark.parametrize("name", NARROW)
def test_weights_in_the_order_of_the_activations_are_the_same_weights(name):
    model, identity = fresh(name), fresh(name).encoder_sha256()
    model.order_weights()
    assert model.encoder_sha256() == identity
    check_goldens(model, name)


@pytest.mark.parametrize("version", [1, 2])
def test_a_model_on_another_device_has_its_weights_in_order_however_it_was_made(version):
    config = dataclasses.replace(TINY, version=version)
    made = [
        AutoencoderKL.from_config(config, device="meta"),
        AutoencoderKL.from_state_dict(config, seeded_state_dict(config, 0), device="meta"),
    ]
    for model in made:
        kernels = [p for name, p in model.named_parameters() if p.ndim > 3]
        assert {p.ndim for p in kernels} == {4, 5}
        for weight in kernels:
            order = torch.channels_last_3d if weight.ndim == 5 else torch.channels_last
            assert weight.is_contiguous(memory_format=order)
