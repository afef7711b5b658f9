"""Counted cost of the full-size model: its bounds, and its FLOPs by another counter."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from vae_cases import random_clip

from vae import AutoencoderKL, Cost, VAEConfig, latent_frames
from vae.decoder import Decoder
from vae.encoder import Encoder
from vae.memory import decoding_cost, encoding_cost, make_plan

GB = 10**9


def test_a_window_of_544_by_992_stays_within_its_traffic_memory_and_flops():
    cost = encoding_cost(VAEConfig(), 544, 992, slice_frames=8)
    assert 40 * GB < cost.minimal_bytes < cost.bytes_moved <= 125 * GB
    assert cost.peak_bytes <= 7.6 * GB
    assert 70e12 < cost.flops <= 81.4e12


def test_the_same_window_in_slices_keeps_three_gigabytes():
    plan = make_plan(VAEConfig(), 544, 992, 17, torch.bfloat16, 3 * GB, device="cuda")
    assert plan.fits
    assert plan.peak_bytes <= 3 * GB
    cost = encoding_cost(VAEConfig(), 544, 992, slice_frames=plan.slice_frames)
    assert cost.peak_bytes <= 3 * GB
    assert cost.flops <= 81.4e12


def test_an_image_takes_a_third_of_the_reference():
    cost = encoding_cost(VAEConfig(), 512, 512, frames=1)
    assert cost.bytes_moved <= 4.3 * GB
    assert 0.9e12 < cost.flops <= 1.1e12


@pytest.mark.parametrize(("version", "frames"), [(2, 17), (2, 1), (1, 17)])
@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_flops_are_those_of_torchs_own_counter(part, version, frames):
    """Which misses ``addmm_``: the shortcuts that are added to what a convolution gave."""
    config = VAEConfig(version=version)
    cost_of = encoding_cost if part == "encoder" else decoding_cost
    counted = cost_of(config, 64, 64, frames, torch.float32, 8)
    with torch.device("meta"):
        half = (Encoder if part == "encoder" else Decoder)(config)
        latents = (
            latent_frames(frames, True, config.compression),
            *(2 * [64 // config.compression.spatial]),
        )
        shape = (3, frames, 64, 64) if part == "encoder" else (config.z_channels, *latents)
        with FlopCounterMode(display=False) as theirs, Shortcuts() as missed:
            half(torch.empty(1, *shape), 8)
    assert missed.flops > 0
    assert counted.flops == pytest.approx(theirs.get_total_flops() + missed.flops, rel=0.01)


class Shortcuts(TorchDispatchMode):
    """FLOPs of ``addmm_``."""

    flops = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._schema.name == "aten::addmm_":
            self.flops += 2 * args[1].numel() * args[2].shape[1]
        return func(*args, **(kwargs or {}))


def test_the_mean_alone_is_the_first_half_of_the_moments(small):
    x = random_clip(17).transpose(1, 2)
    mean = small.encoder(x).chunk(2, dim=1)[0]
    torch.testing.assert_close(small.encoder(x, mean_only=True), mean, atol=1e-5, rtol=0)


def test_a_model_tells_the_cost_of_its_encoder():
    with torch.device("meta"):
        model = AutoencoderKL.from_config(VAEConfig(), dtype=torch.bfloat16)
    cost = model.cost(512, 512, 1)
    assert isinstance(cost, Cost)
    assert cost == encoding_cost(VAEConfig(), 512, 512, 1, torch.bfloat16, 8)
