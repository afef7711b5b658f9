"""FLOPs by the shapes of layers against those that are counted operator by operator."""

import pytest

from vae import VAEConfig, encoding_cost, encoding_flops

NARROW = {"norm_groups": 4, "encoder_ch": 8, "decoder_ch": 8, "z_channels": 2}


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("frames", [17, 1])
@pytest.mark.parametrize("levels", [(1, 2), (0, 2), (0, 1)])
def test_they_are_what_is_counted(version, frames, levels):
    for blocks, mult in ((1, (1, 2, 1, 1)), (2, (1, 1, 3, 4))):
        config = VAEConfig(
            version=version,
            num_res_blocks=blocks,
            encoder_ch_mult=mult,
            encoder_spatiotemporal_down_levels=levels,
            **NARROW,
        )
        counted = encoding_cost(config, 64, 96, frames).flops
        assert encoding_flops(config, 64, 96, frames) == counted


def test_the_published_models_are_counted_alike():
    for version in (1, 2):
        config = VAEConfig(version=version)
        assert encoding_flops(config, 544, 992) == encoding_cost(config, 544, 992).flops
