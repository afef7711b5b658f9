"""Loading is strict, and its errors say what to do."""

import dataclasses
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from vae_cases import TINY, random_clip

from vae import (
    AutoencoderKL,
    CheckpointError,
    VAEConfig,
    checkpoint_encoder_sha256,
    encoder_sha256,
    seeded_state_dict,
)


@pytest.fixture
def weights():
    return seeded_state_dict(TINY, 1)


@pytest.fixture
def write(tmp_path):
    def write(tensors, name="weights.safetensors"):
        save_file(tensors, tmp_path / name)
        return tmp_path / name

    return write


def assert_holds(model, weights, dtype=torch.float32):
    state = model.state_dict()
    assert state.keys() == weights.keys()
    for key, value in weights.items():
        assert state[key].dtype == dtype
        assert torch.equal(state[key], value.to(dtype)), key


def test_published_call_loads_the_file_that_it_is_given(tmp_path, monkeypatch):
    config = VAEConfig(num_res_blocks=1)
    tensors = {
        key: torch.zeros(shape, dtype=torch.bfloat16)
        for key, shape in _shapes(dataclasses.replace(config, z_channels=4)).items()
    }
    tensors["decoder.conv_out.bias"] += 0.5
    save_file(tensors, tmp_path / "vae_v2.safetensors")
    model = AutoencoderKL(
        model_path=str(tmp_path / "vae_v2.safetensors"),
        version=2,
        z_channels=4,
        num_res_blocks=1,
        world_size=1,
        weight_dict={},
    )
    assert model.config == dataclasses.replace(config, z_channels=4)
    assert model.dtype == torch.float32
    assert model.decoder.conv_out.bias.tolist() == [0.5, 0.5, 0.5]


def _shapes(config):
    model = AutoencoderKL.from_config(config, device="meta")
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_file_goes_straight_to_the_dtype_that_is_asked_for(weights, write, dtype, stored):
    path = write({key: value.to(stored) for key, value in weights.items()})
    model = AutoencoderKL.from_file(path, TINY, dtype=dtype)
    assert_holds(model, weights, dtype)
    assert model.dtype == dtype
    assert all(p.requires_grad and p.is_leaf for p in model.parameters())


def test_default_dtype_is_torchs_whatever_the_file_holds(weights, write):
    path = write({key: value.to(torch.bfloat16) for key, value in weights.items()})
    assert AutoencoderKL.from_file(path, TINY).dtype == torch.float32


def test_file_goes_straight_to_the_device_that_is_asked_for(weights, write):
    path = write(weights)
    model = AutoencoderKL.from_file(path, TINY, device="meta", dtype=torch.bfloat16)
    assert {p.device.type for p in model.parameters()} == {"meta"}
    with torch.device("meta"):
        assert AutoencoderKL.from_file(path, TINY).device.type == "meta"


def test_the_model_outlives_its_file(weights, write):
    path = write(weights)
    model = AutoencoderKL.from_file(path, TINY)
    path.write_bytes(b"\0" * path.stat().st_size)
    assert_holds(model, weights)


def test_the_model_copies_a_mapping(weights):
    model = AutoencoderKL.from_state_dict(TINY, weights)
    original = {key: value.clone() for key, value in weights.items()}
    for value in weights.values():
        value.zero_()
    assert_holds(model, original)


def test_both_spellings_of_the_last_convolution_load(weights, write):
    spelled = dict(weights)
    for part in ("weight", "bias"):
        spelled[f"decoder.conv_out.conv.{part}"] = spelled.pop(f"decoder.conv_out.{part}")
    assert_holds(AutoencoderKL.from_state_dict(TINY, spelled), weights)
    assert_holds(AutoencoderKL.from_file(write(spelled), TINY), weights)
    model = AutoencoderKL.from_config(TINY)
    model.load_state_dict(spelled)
    assert_holds(model, weights)


def test_both_spellings_at_once_are_refused(weights):
    weights["decoder.conv_out.conv.bias"] = weights["decoder.conv_out.bias"]
    with pytest.raises(CheckpointError, match="twice, in both spellings"):
        AutoencoderKL.from_state_dict(TINY, weights)


def test_missing_surplus_and_misshapen_keys_are_named_with_counts(weights, write):
    del weights["encoder.conv_in.conv.bias"]
    del weights["encoder.norm_out.weight"]
    weights["encoder.extra"] = torch.zeros(1)
    weights["decoder.norm_out.bias"] = torch.zeros(9)
    path = write(weights)
    for load in (
        lambda: AutoencoderKL.from_file(path, TINY),
        lambda: AutoencoderKL.from_state_dict(TINY, weights),
    ):
        with pytest.raises(CheckpointError) as caught:
            load()
        message = str(caught.value)
        assert "2 missing: encoder.conv_in.conv.bias, encoder.norm_out.weight." in message
        assert "1 unexpected: encoder.extra." in message
        assert "1 misshapen: decoder.norm_out.bias (expected (8,), found (9,))." in message


def test_long_lists_of_keys_are_cut(weights):
    kept = {key: value for key, value in weights.items() if not key.startswith("decoder.up")}
    with pytest.raises(
        CheckpointError, match=r"missing: (decoder\S+, ){5}… \(\d+ more\)"
    ) as caught:
        AutoencoderKL.from_state_dict(TINY, kept)
    assert len(str(caught.value)) < 1000


def test_wrong_number_of_latent_channels_is_told_plainly(weights, write):
    config = dataclasses.replace(TINY, z_channels=1)
    with pytest.raises(CheckpointError, match=r"It has 2 latent channels.*pass z_channels=2"):
        AutoencoderKL.from_file(write(weights), config)


def test_version_1_file_is_recognised(weights, write):
    weights = {key: value for key, value in weights.items() if "patchify" not in key}
    weights["encoder.conv_out.conv.weight"] = torch.zeros(4, 8, 3, 3, 3)
    with pytest.raises(CheckpointError, match="version 1 file"):
        AutoencoderKL.from_file(write(weights), TINY)


def test_another_models_file_is_recognised(write):
    with pytest.raises(CheckpointError, match="no Step-Video VAE"):
        AutoencoderKL.from_file(write({"blocks.0.weight": torch.zeros(2)}), TINY)


def test_quantised_weights_are_refused(weights):
    weights["encoder.conv_in.conv.bias"] = weights["encoder.conv_in.conv.bias"].to(torch.int8)
    with pytest.raises(CheckpointError, match="int8"):
        AutoencoderKL.from_state_dict(TINY, weights)


def test_wrapped_state_dicts_are_refused(weights):
    with pytest.raises(CheckpointError, match="'state_dict' is mapped to dict"):
        AutoencoderKL.from_state_dict(TINY, {"state_dict": weights})


class Bomb:
    """Unpickling it would raise."""

    def __reduce__(self):
        return (pytest.fail, ("a pickle was read",))


@pytest.mark.parametrize("name", ["vae.pt", "vae.safetensors"])
@pytest.mark.parametrize("save", [torch.save, lambda o, p: p.write_bytes(pickle.dumps(o))])
def test_pickles_are_never_read(tmp_path, name, save):
    save({"weights": Bomb()}, tmp_path / name)
    with pytest.raises(CheckpointError, match=r"not a complete safetensors file.*never read"):
        AutoencoderKL(model_path=tmp_path / name, version=2, z_channels=64)
    with pytest.raises(CheckpointError, match="never read"):
        checkpoint_encoder_sha256(tmp_path / name)


@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_cut_files_are_refused(weights, write, size):
    path = write(weights)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match="not a complete safetensors file"):
        AutoencoderKL.from_file(path, TINY)


def test_missing_files_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        AutoencoderKL(model_path=tmp_path / "vae_v2.safetensors")
    with pytest.raises(CheckpointError, match="is a directory"):
        AutoencoderKL(model_path=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"version": 3}, "version=3 does not exist"),
        ({"world_size": 8}, "world_size=8.*one process"),
        ({"model_path": "a", "weight_dict": {"b": torch.zeros(1)}}, "only one of them"),
        ({"dtype": torch.int8}, "dtype=torch.int8"),
    ],
)
def test_unsupported_arguments_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        AutoencoderKL(**arguments, device="meta")


def test_weight_dict_is_loaded():
    config = VAEConfig(z_channels=4, num_res_blocks=1)
    tensors = {key: torch.empty(shape, device="meta") for key, shape in _shapes(config).items()}
    model = AutoencoderKL(3, 3, 4, 1, None, tensors, 1, 2, device="meta")
    assert model.config == config
    del tensors["encoder.norm_out.bias"]
    with pytest.raises(CheckpointError, match="1 missing"):
        AutoencoderKL(3, 3, 4, 1, None, tensors, 1, 2, device="meta")


def test_random_initialisation_is_torchs_and_usable():
    torch.manual_seed(0)
    a = AutoencoderKL.from_config(TINY)
    torch.manual_seed(0)
    b = AutoencoderKL.from_config(TINY, dtype=torch.bfloat16)
    assert b.dtype == torch.bfloat16
    assert_holds(b, a.state_dict(), torch.bfloat16)
    assert a.encode(random_clip(1)).isfinite().all()


def test_encoder_hash_follows_the_documented_bytes(weights):
    import hashlib

    digest = hashlib.sha256()
    for key in sorted(key for key in weights if key.startswith("encoder.")):
        array = weights[key].numpy().astype("<f4")
        shape = ",".join(map(str, array.shape))
        digest.update(f"{key}\0float32\0{shape}\0".encode() + array.tobytes())
    assert encoder_sha256(weights) == digest.hexdigest()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_encoder_hash_is_the_same_of_file_and_model(weights, write, dtype):
    path = write({key: value.to(dtype) for key, value in weights.items()})
    model = AutoencoderKL.from_file(path, TINY, dtype=dtype)
    assert model.encoder_sha256() == checkpoint_encoder_sha256(path)
    assert model.encoder_sha256() == encoder_sha256(load_file(path))


def test_encoder_hash_changes_with_what_decides_the_latents_alone(weights):
    reference = encoder_sha256(weights)
    reordered = dict(reversed(weights.items()))
    reordered["decoder.conv_out.bias"] = reordered["decoder.conv_out.bias"] + 1
    reordered["encoder.conv_in.conv.weight"] = (
        reordered["encoder.conv_in.conv.weight"].transpose(0, 1).contiguous().transpose(0, 1)
    )
    assert encoder_sha256(reordered) == reference

    bias = weights["encoder.conv_in.conv.bias"]
    flipped = bias.clone()
    flipped[3] = torch.nextafter(flipped[3], torch.tensor(torch.inf))
    without = {k: v for k, v in weights.items() if k != "encoder.conv_in.conv.bias"}
    variants = [
        without,
        {**without, "encoder.conv_in.conv.bias": flipped},
        {**without, "encoder.conv_in.conv.bias": bias.to(torch.float64)},
        {**without, "encoder.conv_in.conv.bias": bias.reshape(2, -1)},
        {**without, "encoder.conv_in.conv.bian": bias},
    ]
    hashes = {encoder_sha256(variant) for variant in variants}
    assert len(hashes) == len(variants)
    assert reference not in hashes


def test_encoder_hash_needs_an_encoder(weights, write):
    decoder = {key: value for key, value in weights.items() if key.startswith("decoder.")}
    with pytest.raises(CheckpointError, match="no tensor whose name begins"):
        encoder_sha256(decoder)
    with pytest.raises(CheckpointError, match="no tensor whose name begins"):
        checkpoint_encoder_sha256(write(decoder))


def test_encoder_hash_reads_no_decoder_and_works_without(weights, write):
    encoder = {key: value for key, value in weights.items() if key.startswith("encoder.")}
    assert checkpoint_encoder_sha256(write(encoder)) == encoder_sha256(weights)
