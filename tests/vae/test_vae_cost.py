"""Counted cost of the full-size encoder, and slices of time within a budget."""

import pytest
import torch
from vae_cases import random_clip

from vae import VAEConfig
from vae.memory import encoding_cost, make_plan

GB = 10**9


def test_a_window_of_544_by_992_stays_within_its_traffic_memory_and_flops():
    cost = encoding_cost(VAEConfig(), 544, 992, slice_frames=8)
    assert 40 * GB < cost.minimal_bytes < cost.bytes_moved <= 125 * GB
    assert cost.peak_bytes <= 7.6 * GB
    assert 70e12 < cost.flops <= 81.4e12


def test_an_image_takes_a_third_of_the_reference():
    cost = encoding_cost(VAEConfig(), 512, 512, frames=1)
    assert cost.bytes_moved <= 4.3 * GB
    assert 0.9e12 < cost.flops <= 1.1e12


def test_slices_keep_a_budget():
    plan = make_plan(VAEConfig(), 544, 992, 17, torch.bfloat16, 3 * GB)
    assert plan.fits
    assert plan.peak_bytes <= 3 * GB
    assert list(plan.options.values()) == sorted(plan.options.values(), reverse=True)
    assert "more than the budget" in str(make_plan(VAEConfig(), 544, 992, 17, torch.bfloat16, GB))


@pytest.mark.parametrize("size", [1, 3, 4, 8])
def test_slices_change_no_number(small, size):
    x = random_clip(17, 48, 80).transpose(1, 2)
    torch.testing.assert_close(small.encoder(x, size), small.encoder(x), atol=1e-5, rtol=0)
    z = random_clip(3, 3, 5, batch=2)[:, :, :2].transpose(1, 2)
    torch.testing.assert_close(small.decoder(z, size), small.decoder(z), atol=2e-5, rtol=0)


def test_a_budget_changes_no_number(small):
    x = random_clip(34, 32, 32)
    least = small.posterior(x, memory_budget=1)
    torch.testing.assert_close(least.mean, small.posterior(x).mean, atol=1e-5, rtol=0)


def test_the_mean_alone_is_the_first_half_of_the_moments(small):
    x = random_clip(17).transpose(1, 2)
    mean = small.encoder(x).chunk(2, dim=1)[0]
    torch.testing.assert_close(small.encoder(x, mean_only=True), mean, atol=1e-5, rtol=0)
