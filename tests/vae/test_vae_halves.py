"""Errors of bfloat16 and float16 against the reference's float32: the table in vae/README.md."""

import re
from functools import cache
from pathlib import Path

import pytest
import torch
from vae_cases import (
    NARROW,
    golden_cases,
    golden_config,
    golden_set,
    load_case,
    narrow,
    one_by_one,
    windows_of,
)

import vae
from vae import AutoencoderKL, seeded_state_dict
from vae.decoder import blend_borders

README = (Path(vae.__file__).parent / "README.md").read_text()
ROW = re.compile(
    r"^\| (?P<dtype>\w+) \| `(?P<name>\w+)` \| (?P<clips>ordinary|near-constant) \|"
    r"(?P<mean>[^|]+)\|(?P<logvar>[^|]+)\|(?P<decoded>[^|]+)\|$",
    re.MULTILINE,
)
TABLE = {(m["dtype"], m["name"], m["clips"]): m for m in ROW.finditer(README)}


def bounds(cell):
    """Relative and largest error of a cell "0.03 / 0.1"; None for a dash."""
    numbers = re.findall(r"[\d.]+", cell)
    return tuple(map(float, numbers)) or None


def errors(actual, expected):
    difference = actual.float() - expected
    return float(difference.norm() / expected.norm()), float(difference.abs().max())


def check(model, name, clips):
    dtype = str(model.dtype).removeprefix("torch.")
    row = TABLE[dtype, name, clips]
    constant = clips == "near-constant"
    worst: dict[str, list] = {"mean": [], "logvar": [], "decoded": []}
    for file in golden_cases(name):
        if file.startswith(("flat", "lowcontrast")) != constant:
            continue
        case = load_case(name, file)
        windows = windows_of(case["input"].to(model.dtype), 17)
        moments = one_by_one(model.encoder, windows)
        assert moments.dtype == model.dtype
        for key, values in zip(("mean", "logvar"), moments.chunk(2, dim=2), strict=True):
            worst[key].append(errors(values, case[key]))
        if "decoded" in case:
            latents = case["mean"].to(model.dtype)
            frames = one_by_one(
                model.decoder, windows_of(latents, model.config.compression.window_latents)
            )
            assert frames.dtype == model.dtype
            worst["decoded"].append(errors(blend_borders(frames), case["decoded"]))
    for key, found in worst.items():
        limits = bounds(row[key])
        assert (limits is None) == (not found), key
        for measured, limit in zip(zip(*found, strict=True), limits or (), strict=bool(found)):
            assert limit / 3 < max(measured) <= limit, (key, measured)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("name", NARROW)
@pytest.mark.parametrize("clips", ["ordinary", "near-constant"])
def test_errors_of_the_narrow_models_are_those_of_the_readme(dtype, name, clips):
    check(narrow(name, dtype), name, clips)


@cache
def full_size(dtype):
    config, seed = golden_config("v2_full"), golden_set("v2_full")["weight_seed"]
    return AutoencoderKL.from_state_dict(config, seeded_state_dict(config, seed), dtype=dtype)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_errors_of_the_full_size_are_those_of_the_readme(dtype):
    check(full_size(dtype), "v2_full", "ordinary")


def test_the_readme_has_no_other_rows():
    halves = [(dtype, name) for dtype in ("bfloat16", "float16") for name in NARROW]
    expected = {(*half, clips) for half in halves for clips in ("ordinary", "near-constant")}
    expected |= {(dtype, "v2_full", "ordinary") for dtype in ("bfloat16", "float16")}
    assert set(TABLE) == expected
