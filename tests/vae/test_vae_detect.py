"""What a checkpoint holds is told by its names and shapes."""

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vae_cases import GOLDENS, TINY, golden_config

from vae import (
    AutoencoderKL,
    CheckpointError,
    VAEConfig,
    detect_config,
    seeded_state_dict,
    state_dict_shapes,
)

LISTED = json.loads((GOLDENS / "full_size_state_dict.json").read_text())


def listed(version):
    return {key: tuple(shape) for key, shape in LISTED[f"v{version}"]["checkpoint"].items()}


@pytest.mark.parametrize("version", [1, 2])
def test_the_published_files_are_told(version):
    assert detect_config(listed(version)) == VAEConfig(version=version)
    encoder = {key: shape for key, shape in listed(version).items() if key.startswith("encoder.")}
    told = detect_config(encoder)
    assert (told.version, told.z_channels) == (version, {1: 16, 2: 64}[version])
    assert told.encoder_widths == (128, 256, 512, 512)


@pytest.mark.parametrize("name", ["v1_small", "v2_small"])
def test_the_golden_files_are_told(name):
    model = AutoencoderKL.from_file(GOLDENS / name / "weights.safetensors", device="meta")
    assert model.config == golden_config(name)


LEVEL_PAIRS = [(0, 1), (0, 2), (1, 2)]


@settings(max_examples=25, deadline=None)
@given(
    version=st.sampled_from([1, 2]),
    z_channels=st.sampled_from([1, 2, 4]),
    blocks=st.integers(1, 3),
    encoder=st.tuples(*[st.integers(1, 3)] * 3, st.sampled_from([2, 4])),
    decoder=st.tuples(*[st.integers(1, 3)] * 3, st.sampled_from([2, 4])),
    down=st.sampled_from(LEVEL_PAIRS),
    up=st.sampled_from(LEVEL_PAIRS),
    channels=st.tuples(st.integers(1, 4), st.integers(1, 4)),
)
def test_any_model_is_told_by_its_shapes(
    version, z_channels, blocks, encoder, decoder, down, up, channels
):
    config = VAEConfig(
        version=version,
        in_channels=channels[0],
        out_channels=channels[1],
        z_channels=z_channels,
        num_res_blocks=blocks,
        encoder_ch=8,
        encoder_ch_mult=encoder,
        decoder_ch=8,
        decoder_ch_mult=decoder,
        encoder_spatiotemporal_down_levels=down,
        decoder_spatiotemporal_up_levels=tuple(level + 1 for level in up),
        norm_groups=4,
    )
    shapes = state_dict_shapes(config)
    told = detect_config(shapes, norm_groups=4)
    assert told.decoder_widths == config.decoder_widths  # the unit of the decoder is not told
    assert dataclasses.replace(told, decoder_ch=8, decoder_ch_mult=decoder) == config
    assert state_dict_shapes(told) == shapes


def test_the_groups_of_the_norms_are_not_told():
    with pytest.raises(CheckpointError, match="32 groups in its norms, which nothing in the file"):
        detect_config(state_dict_shapes(TINY))
    assert detect_config(state_dict_shapes(TINY), norm_groups=2).norm_groups == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"encoder.conv_in.conv.weight": None}, r"encoder.conv_in.conv.weight is missing"),
        ({"encoder.conv_in.conv.weight": (32, 3)}, r"has the shape \(32, 3\).*five axes"),
        ({"decoder.up.2.block.0.conv1.conv.weight": None}, r"decoder.up.2.*is missing"),
        ({"encoder.down.1.block.0.conv1.conv.weight": (40, 32, 3, 3, 3)}, "no multiples of 32"),
        ({"encoder.down.0.block.0.conv1.conv.weight": (0, 32, 3, 3, 3)}, r"\(0, 32, 3, 3, 3\)"),
        ({"encoder.down.2.downsample.conv.conv.weight": None}, "two different levels"),
    ],
)
def test_something_else_is_refused(changes, words):
    shapes = listed(2)
    for key, shape in changes.items():
        shapes.pop(key)
        if shape is not None:
            shapes[key] = shape
    with pytest.raises(CheckpointError, match=words):
        detect_config(shapes, source="x.safetensors")


def test_another_models_file_is_refused():
    with pytest.raises(CheckpointError, match=r"x\.safetensors: .* no Step-Video VAE"):
        detect_config({"blocks.0.weight": (2, 2)}, source="x.safetensors")


@pytest.mark.parametrize(
    ("asked", "stored"),
    [
        ({"version": 2, "z_channels": 2}, {"version": 1, "z_channels": 2}),
        ({"version": 1, "z_channels": 2}, {"version": 2, "z_channels": 2}),
        ({"version": 1, "z_channels": 2}, {"version": 1, "z_channels": 1}),
        ({"version": 2, "z_channels": 1}, {"version": 1, "z_channels": 2}),
    ],
)
@pytest.mark.parametrize("parts", ["all", "encoder"])
def test_errors_put_a_wrong_version_or_width_right(asked, stored, parts):
    asked, stored = (dataclasses.replace(TINY, **fields) for fields in (asked, stored))
    with pytest.raises(CheckpointError) as caught:
        AutoencoderKL.from_state_dict(asked, seeded_state_dict(stored, 1), parts=parts)
    message = str(caught.value)
    if asked.version != stored.version:
        assert f"version {stored.version} file" in message
        assert f"pass version={stored.version}, z_channels={stored.z_channels}" in message
    else:
        assert f"pass z_channels={stored.z_channels}" in message


@pytest.mark.parametrize("version", [1, 2])
def test_the_published_call_takes_the_channels_of_the_weights(version):
    config = VAEConfig(version=version, z_channels=4, num_res_blocks=1)
    weights = AutoencoderKL.from_config(config, device="meta").state_dict()
    model = AutoencoderKL(version=version, num_res_blocks=1, weight_dict=weights, device="meta")
    assert model.config == config
    wrong = 3 - version
    with pytest.raises(CheckpointError, match=f"pass version={version}, z_channels=4"):
        AutoencoderKL(version=wrong, num_res_blocks=1, weight_dict=weights, device="meta")
    with pytest.raises(CheckpointError, match="pass z_channels=4"):
        AutoencoderKL(
            version=version, z_channels=8, num_res_blocks=1, weight_dict=weights, device="meta"
        )


def test_without_weights_the_published_channels_are_meant():
    assert AutoencoderKL(version=1, device="meta").config == VAEConfig(version=1, z_channels=16)
    assert AutoencoderKL(device="meta").config == VAEConfig(version=2, z_channels=64)
