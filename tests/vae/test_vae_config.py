import dataclasses
import re

import pytest
import torch
from vae_cases import TINY, golden_config

from vae import AutoencoderKL, VAEConfig


def test_defaults_are_the_published_model():
    config = VAEConfig()
    assert config == golden_config("v2_full")
    assert (config.version, config.z_channels, config.norm_groups) == (2, 64, 32)
    assert config.encoder_widths == (128, 256, 512, 512)
    assert config.decoder_widths == (128, 256, 512, 512)
    assert config.patch_channels == 2048


def test_version_1_is_published_with_16_latent_channels_and_no_patchify():
    config = VAEConfig(version=1)
    assert config.z_channels == 16
    assert config.encoder_widths == (128, 256, 512, 512)
    assert VAEConfig(version=1, z_channels=48).z_channels == 48  # divides no width
    assert VAEConfig(version=2, z_channels=16).z_channels == 16


@pytest.mark.parametrize(("version", "factors", "latents"), [(1, (4, 8), 5), (2, (8, 16), 3)])
def test_the_version_decides_the_compression(version, factors, latents):
    compression = VAEConfig(version=version).compression
    assert (compression.temporal, compression.spatial) == factors
    assert compression.window_latents == latents


def test_lists_become_tuples_so_that_configs_compare_and_hash():
    config = VAEConfig(encoder_ch_mult=[4, 8, 16, 16])
    assert config == VAEConfig()
    assert hash(config) == hash(VAEConfig())


def test_every_norm_follows_the_config():
    model = AutoencoderKL.from_config(dataclasses.replace(TINY, norm_eps=1e-3), device="meta")
    norms = [m for m in model.modules() if isinstance(m, torch.nn.GroupNorm)]
    assert {(norm.num_groups, norm.eps) for norm in norms} == {(4, 1e-3)}


def test_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TINY.version = 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": 0}, r"version=0 must be at least 1"),
        ({"version": 3}, r"version=3 does not exist; pass version=2 .* or version=1"),
        ({"z_channels": -1}, r"z_channels=-1 must be at least 1"),
        ({"in_channels": -1}, r"in_channels=-1"),
        ({"num_res_blocks": 0}, r"num_res_blocks=0"),
        ({"encoder_ch": 20}, r"encoder_ch=20.*multiple of norm_groups=32"),
        ({"decoder_ch": 16}, r"decoder_ch=16.*multiple of norm_groups=32"),
        ({"encoder_ch_mult": (1, 2, 4)}, r"encoder_ch_mult=\(1, 2, 4\).*4 entries.*of 16"),
        ({"version": 1, "encoder_ch_mult": (1, 2, 4)}, r"encoder_ch_mult=.*4 entries.*of 8\."),
        ({"decoder_ch_mult": (1, 2, 4, 4, 4)}, r"decoder_ch_mult.*4 entries"),
        ({"encoder_ch_mult": (1, 2, 0, 4)}, r"encoder_ch_mult.*positive"),
        ({"z_channels": 48}, r"last width 512 must be divisible by 4 \* z_channels = 192.*128"),
        ({"encoder_spatiotemporal_down_levels": (1,)}, r"down_levels=\(1,\).*two different.*of 8"),
        (
            {"version": 1, "encoder_spatiotemporal_down_levels": (1,)},
            r"down_levels=\(1,\).*two different.*of 4",
        ),
        ({"encoder_spatiotemporal_down_levels": (2, 3)}, r"down_levels=\(2, 3\).*\(0, 1, 2\)"),
        ({"decoder_spatiotemporal_up_levels": (0, 3)}, r"up_levels=\(0, 3\).*\(1, 2, 3\)"),
        ({"decoder_spatiotemporal_up_levels": (3, 3)}, r"up_levels=\(3, 3\)"),
        ({"norm_eps": 0.0}, r"norm_eps=0.0.*1e-5"),
    ],
)
def test_impossible_values_are_named_with_a_remedy(changes, words):
    with pytest.raises(ValueError, match=words):
        VAEConfig(**changes)


@pytest.mark.parametrize(
    "changes",
    [{"z_channels": 1.5}, {"version": "2"}, {"encoder_ch_mult": 4}, {"encoder_ch_mult": "4444"}],
)
def test_wrong_types_are_named(changes):
    with pytest.raises(TypeError, match=re.escape(f"VAEConfig.{next(iter(changes))}=")):
        VAEConfig(**changes)


@pytest.mark.parametrize("down", [(0, 1), (0, 2), (1, 2)])
@pytest.mark.parametrize("up", [(1, 2), (1, 3), (2, 3)])
def test_any_two_levels_may_resample_time(down, up):
    config = dataclasses.replace(
        TINY, encoder_spatiotemporal_down_levels=down, decoder_spatiotemporal_up_levels=up
    )
    model = AutoencoderKL.from_config(config, device="meta")
    latent = model.encode(torch.empty(1, 17, 3, 32, 48, device="meta"))
    assert latent.shape == (1, 3, 2, 2, 3)
    assert model.decode(latent).shape == (1, 17, 3, 32, 48)
