"""The full-size model has exactly the tensors of the published file."""

import hashlib
import json

import torch
from vae_cases import GOLDENS, TINY

from vae import AutoencoderKL, VAEConfig, seeded_state_dict, state_dict_shapes

PUBLISHED = json.loads((GOLDENS / "full_size_state_dict.json").read_text())["v2"]


def test_keys_and_shapes_are_the_published_ones():
    published = {key: tuple(shape) for key, shape in PUBLISHED["checkpoint"].items()}
    assert state_dict_shapes(VAEConfig()) == published
    assert len(published) == 262


def test_fingerprint_is_the_published_files():
    """MD5 over the sorted ``key:d0_d1…`` and ``key`` strings, by which tools know the file."""
    strings = []
    for key, shape in state_dict_shapes(VAEConfig()).items():
        strings += [f"{key}:{'_'.join(map(str, shape))}", key]
    digest = hashlib.md5(",".join(sorted(strings)).encode()).hexdigest()
    assert digest == "68beaf8429b7c11aa8ca05b1bd0058bd"


def test_parameter_counts_are_the_published_ones():
    with torch.device("meta"):
        model = AutoencoderKL(version=2, z_channels=64)
    assert sum(p.numel() for p in model.parameters()) == 498_818_819
    assert sum(p.numel() for p in model.encoder.parameters()) == 109_885_696
    assert sum(p.numel() for p in model.decoder.parameters()) == 388_933_123
    assert len(list(model.encoder.parameters())) == 110
    assert list(model.buffers()) == []


def test_seeded_weights_depend_on_the_seed_and_on_nothing_else():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    a, b, c = (seeded_state_dict(TINY, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not any(torch.equal(a[key], c[key]) for key in a)
    assert all(torch.equal(v, v.bfloat16().float()) for v in a.values())
