"""Every golden of the narrow models through every path: bound 1e-4, and 1e-5 between paths."""

from functools import cache, partial

import pytest
import torch
from vae_cases import NARROW, golden_cases, load_case, narrow, one_by_one, windows_of

from vae import WINDOW_FRAMES, DiagonalGaussian

BOUND, BETWEEN, BETWEEN_PIXELS = 1e-4, 1e-5, 2e-5


def close(actual, expected, bound):
    torch.testing.assert_close(actual, expected, atol=bound, rtol=0)


@torch.no_grad()
def stacked(function, windows):
    """All windows of one length beside each other and beside another clip's, joined again."""
    made = {}
    for length in {window.shape[2] for window in windows}:
        alike = [i for i, window in enumerate(windows) if window.shape[2] == length]
        others = [-windows[i].flip(2) for i in alike]
        out = function(torch.cat([*(windows[i] for i in alike), *others]))
        made |= zip(alike, out.split(len(windows[0])), strict=False)
    return torch.cat([made[i] for i in range(len(windows))], dim=2).transpose(1, 2)


def plain_moments(model, x, size=None):
    return one_by_one(model.encoder, windows_of(x, WINDOW_FRAMES), size)


def stacked_moments(model, x):
    return stacked(model.encoder, windows_of(x, WINDOW_FRAMES))


def posterior_moments(model, x, budget=None):
    found = model.posterior(x, allow_partial_window=True, memory_budget=budget)
    return torch.cat((found.mean, found.logvar), dim=2)


def mean_moments(model, x):
    return model.mean(x, allow_partial_window=True)


ENCODING = {
    **{f"slices of {size}": partial(plain_moments, size=size) for size in (8, 4, 2, 1)},
    "posterior": posterior_moments,
    "least budget": partial(posterior_moments, budget=1),
    "batched": stacked_moments,
    "mean": mean_moments,
}
ONE_WAY = ("posterior", "batched", "mean")
"""Of version 1, which is not cut in time."""


@cache
def plain(name, file):
    return plain_moments(narrow(name), load_case(name, file)["input"])


@pytest.mark.parametrize("file", golden_cases("v2_small"))
@pytest.mark.parametrize("path", ENCODING)
def test_version_2_encodes_as_the_reference(path, file):
    check_encoding("v2_small", path, file)


@pytest.mark.parametrize("file", golden_cases("v1_small"))
@pytest.mark.parametrize("path", ONE_WAY)
def test_version_1_encodes_as_the_reference(path, file):
    check_encoding("v1_small", path, file)


def check_encoding(name, path, file):
    case, model = load_case(name, file), narrow(name)
    whole = plain(name, file)
    close(whole, case["moments"], BOUND)
    made = ENCODING[path](model, case["input"])
    close(made, whole[:, :, : made.shape[2]], BETWEEN)
    close(made[:, :, : model.config.z_channels], case["mean"], BOUND)
    if path != "mean":
        found = DiagonalGaussian.from_moments(made)
        close(found.logvar, case["logvar"], BOUND)
        generator = torch.Generator().manual_seed(case["noise_seed"])
        close(found.sample(generator), case["sample"], BOUND)


@pytest.mark.parametrize("file", golden_cases("v2_small"))
def test_the_first_frame_of_any_window_alone_gives_the_references_first_latent(file):
    case, model = load_case("v2_small", file), narrow("v2_small")
    for index, window in enumerate(windows_of(case["input"], WINDOW_FRAMES)):
        image = model.posterior(window[:, :, :1].transpose(1, 2))
        close(image.mean, case["mean"][:, 3 * index : 3 * index + 1], BOUND)
        close(image.logvar, case["logvar"][:, 3 * index : 3 * index + 1], BOUND)


def decoded(name):
    return [file for file in golden_cases(name) if "decoded" in load_case(name, file)]


@torch.no_grad()
def frames_before_the_blend(model, z, size=None):
    return one_by_one(model.decoder, windows_of(z, model.config.compression.window_latents), size)


def stacked_frames(model, z):
    return stacked(model.decoder, windows_of(z, model.config.compression.window_latents))


DECODING = {
    **{f"slices of {size}": partial(frames_before_the_blend, size=size) for size in (8, 4, 2, 1)},
    "batched": stacked_frames,
}


@cache
def plain_frames(name, file):
    return frames_before_the_blend(narrow(name), load_case(name, file)["mean"])


@pytest.mark.parametrize(("name", "file"), [(n, f) for n in NARROW for f in decoded(n)])
@pytest.mark.parametrize("budget", [None, 1], ids=["decode", "least budget"])
def test_both_versions_decode_as_the_reference(name, file, budget):
    case = load_case(name, file)
    close(narrow(name).decode(case["mean"], memory_budget=budget), case["decoded"], BOUND)
    if "premix" in case:
        before = plain_frames(name, file)[:, case["premix_frames"].long()]
        close(before, case["premix"], BOUND)
        assert (before - case["decoded"][:, case["premix_frames"].long()]).abs().max() > 1e-2


@pytest.mark.parametrize("file", decoded("v2_small"))
@pytest.mark.parametrize("path", DECODING)
def test_version_2_decodes_alike_on_all_paths(path, file):
    case = load_case("v2_small", file)
    made = DECODING[path](narrow("v2_small"), case["mean"])
    close(made, plain_frames("v2_small", file), BETWEEN_PIXELS)


@pytest.mark.parametrize("file", decoded("v1_small"))
def test_version_1_decodes_alike_on_all_paths(file):
    made = stacked_frames(narrow("v1_small"), load_case("v1_small", file)["mean"])
    close(made, plain_frames("v1_small", file), BETWEEN_PIXELS)
