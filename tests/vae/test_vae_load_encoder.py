"""An encoder alone: what is read, what is allocated, and that it is the same."""

import io
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save, save_file
from vae_cases import GOLDENS, TINY, random_clip

from vae import (
    AutoencoderKL,
    CheckpointError,
    VAEConfig,
    check_shapes,
    encoder_sha256,
    load_encoder,
    seeded_state_dict,
    state_dict_shapes,
)

SMALL = GOLDENS / "v2_small" / "weights.safetensors"


class Recorder(io.BytesIO):
    """Counts the bytes that are read."""

    count = 0

    def read(self, count: int = -1, /) -> bytes:
        data = super().read(count)
        self.count += len(data)
        return data


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_encoder_and_hash_are_those_of_the_whole_model(dtype):
    whole = AutoencoderKL.from_file(SMALL, dtype=dtype)
    encoder, sha256 = load_encoder(SMALL, dtype=dtype)
    assert sha256 == encoder_sha256(
        AutoencoderKL.from_file(SMALL, dtype=torch.bfloat16).state_dict()
    )
    assert encoder.config == whole.config
    assert encoder.dtype == dtype
    x = random_clip(1).to(dtype)
    assert torch.equal(encoder.posterior(x).mean, whole.posterior(x).mean)
    assert encoder.encoder_sha256() == whole.encoder_sha256()
    assert all(key.startswith("encoder.") for key in encoder.state_dict())


def test_the_header_and_the_encoder_are_read_alone():
    weights = seeded_state_dict(TINY, 1)
    file = Recorder(save(weights))
    _, sha256 = load_encoder(file, TINY)
    header = 8 + int.from_bytes(file.getvalue()[:8], "little")
    encoder = sum(t.nbytes for key, t in weights.items() if key.startswith("encoder."))
    assert file.count == header + encoder
    assert sha256 == encoder_sha256(weights)
    assert not file.closed


def test_a_file_that_does_not_fit_is_refused_by_its_header():
    file = Recorder(save(seeded_state_dict(TINY, 1)))
    with pytest.raises(CheckpointError, match="32 groups"):
        load_encoder(file)
    assert file.count == 8 + int.from_bytes(file.getvalue()[:8], "little")


def test_a_model_without_decoder_says_so():
    encoder, _ = load_encoder(SMALL)
    latent = encoder.encode(random_clip(1))
    with pytest.raises(AttributeError, match=r"no decoder.*parts='encoder'.*from_file"):
        encoder.decode(latent)
    assert not hasattr(encoder, "decoder")
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        _ = encoder.other


def test_every_way_of_making_an_encoder_gives_the_same():
    weights = seeded_state_dict(TINY, 1)
    alone = seeded_state_dict(TINY, 1, parts="encoder")
    assert alone.keys() == state_dict_shapes(TINY, "encoder").keys()
    assert all(torch.equal(value, weights[key]) for key, value in alone.items())
    x = random_clip(1)
    expected = AutoencoderKL.from_state_dict(TINY, weights).posterior(x).mean
    for given in (weights, alone):
        model = AutoencoderKL.from_state_dict(TINY, given, parts="encoder")
        assert torch.equal(model.posterior(x).mean, expected)
    empty = AutoencoderKL.from_config(TINY, parts="encoder", device="meta")
    assert empty.state_dict().keys() == alone.keys()


def test_a_damaged_decoder_does_not_matter_to_the_encoder(tmp_path):
    path = tmp_path / "w.safetensors"
    weights = seeded_state_dict(TINY, 1)
    del weights["decoder.norm_out.bias"]
    save_file(weights, path)
    load_encoder(path, TINY)
    shapes = {key: tuple(value.shape) for key, value in weights.items()}
    check_shapes(shapes, TINY, "encoder")
    for refuse in (
        lambda: AutoencoderKL.from_file(path, TINY),
        lambda: check_shapes(shapes, TINY),
    ):
        with pytest.raises(CheckpointError, match=r"1 missing: decoder\.norm_out\.bias"):
            refuse()


@pytest.mark.parametrize("parts", ["all", "encoder"])
def test_the_encoder_must_fit_exactly(tmp_path, parts):
    path = tmp_path / "w.safetensors"
    weights = seeded_state_dict(TINY, 1)
    weights["encoder.extra"] = weights.pop("encoder.norm_out.bias")
    weights["more"] = torch.zeros(1)
    save_file(weights, path)
    for load in (
        lambda: AutoencoderKL.from_file(path, TINY, parts=parts),
        lambda: AutoencoderKL.from_state_dict(TINY, weights, parts=parts),
        lambda: check_shapes({k: tuple(w.shape) for k, w in weights.items()}, TINY, parts),
    ):
        with pytest.raises(CheckpointError) as caught:
            load()
        assert "1 missing: encoder.norm_out.bias." in str(caught.value)
        assert "2 unexpected: encoder.extra, more." in str(caught.value)


CHILD = """
import resource, sys
import torch
from vae import load_encoder
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
torch.zeros(1).to(torch.bfloat16)
before = peak()
model, _ = load_encoder(sys.argv[1])
print(peak() - before, sum(p.nbytes for p in model.parameters()))
"""


def test_peak_memory_is_the_encoders(tmp_path):
    path = tmp_path / "w.safetensors"
    config = VAEConfig(
        z_channels=4,
        encoder_ch=96,
        encoder_ch_mult=(1, 1, 1, 1),
        decoder_ch=256,
        decoder_ch_mult=(1, 1, 1, 1),
    )
    shapes = state_dict_shapes(config)
    save_file({key: torch.zeros(shape) for key, shape in shapes.items()}, path)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(path)], capture_output=True, text=True, check=True
    )
    peak, encoder = map(int, done.stdout.split())
    assert 15e6 < encoder < 40e6
    assert path.stat().st_size > 5 * encoder
    assert peak < encoder + 40e6  # a piece of the file, its copy, and the modules' code
