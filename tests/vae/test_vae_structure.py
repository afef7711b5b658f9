"""The full-size model has exactly the tensors of the published file."""

import hashlib
import json

import pytest
import torch
from vae_cases import GOLDENS, TINY

from vae import AutoencoderKL, VAEConfig, seeded_state_dict, state_dict_shapes

PUBLISHED = json.loads((GOLDENS / "full_size_state_dict.json").read_text())


@pytest.mark.parametrize(("version", "tensors"), [(1, 258), (2, 262)])
def test_keys_and_shapes_are_the_published_ones(version, tensors):
    listing = PUBLISHED[f"v{version}"]["checkpoint"]
    published = {key: tuple(shape) for key, shape in listing.items()}
    assert state_dict_shapes(VAEConfig(version=version)) == published
    assert len(published) == tensors
    encoder = {key: shape for key, shape in published.items() if key.startswith("encoder.")}
    assert state_dict_shapes(VAEConfig(version=version), "encoder") == encoder


def test_fingerprint_is_the_published_files():
    """MD5 over the sorted ``key:d0_d1…`` and ``key`` strings, by which tools know the file."""
    strings = []
    for key, shape in state_dict_shapes(VAEConfig()).items():
        strings += [f"{key}:{'_'.join(map(str, shape))}", key]
    digest = hashlib.md5(",".join(sorted(strings)).encode()).hexdigest()
    assert digest == "68beaf8429b7c11aa8ca05b1bd0058bd"


@pytest.mark.parametrize(
    ("version", "z_channels", "encoder", "decoder"),
    [(1, 16, 99_710_880, 159_117_315), (2, 64, 109_885_696, 388_933_123)],
)
def test_parameter_counts_are_the_published_ones(version, z_channels, encoder, decoder):
    with torch.device("meta"):
        model = AutoencoderKL(version=version, z_channels=z_channels)
    assert sum(p.numel() for p in model.encoder.parameters()) == encoder
    assert sum(p.numel() for p in model.decoder.parameters()) == decoder
    assert sum(p.numel() for p in model.parameters()) == encoder + decoder
    assert len(list(model.encoder.parameters())) == {1: 108, 2: 110}[version]
    assert list(model.buffers()) == []


def test_seeded_weights_depend_on_the_seed_and_on_nothing_else():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    a, b, c = (seeded_state_dict(TINY, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not any(torch.equal(a[key], c[key]) for key in a)
    assert all(torch.equal(v, v.bfloat16().float()) for v in a.values())
