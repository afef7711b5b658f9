"""Legal and illegal clips."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from vae_cases import random_clip

from vae import COMPRESSIONS, decoded_frames, fit_frames, latent_frames
from vae.frames import check_video

VERSION_1 = COMPRESSIONS[1]
PARTIAL_1 = {1: 1, 5: 2, 9: 3, 13: 4, 17: 5, 18: 6, 22: 7, 26: 8, 30: 9, 34: 10}
WHOLE_1 = {1: 1, 17: 5, 34: 10}
PARTIAL = {1: 1, 9: 2, 17: 3, 18: 4, 26: 5, 34: 6}
WHOLE = {1: 1, 17: 3, 34: 6}


@pytest.mark.parametrize("frames", range(1, 35))
@pytest.mark.parametrize(("partial", "table"), [(True, PARTIAL), (False, WHOLE)])
def test_latent_frames_table(frames, partial, table):
    if frames in table:
        assert latent_frames(frames, partial) == table[frames]
    else:
        with pytest.raises(ValueError, match=f"T={frames} frames"):
            latent_frames(frames, partial)


@pytest.mark.parametrize("frames", range(1, 35))
@pytest.mark.parametrize(("partial", "table"), [(True, PARTIAL_1), (False, WHOLE_1)])
def test_latent_frames_table_of_version_1(frames, partial, table):
    if frames in table:
        assert latent_frames(frames, partial, VERSION_1) == table[frames]
    else:
        with pytest.raises(ValueError, match=f"T={frames} frames"):
            latent_frames(frames, partial, VERSION_1)


@pytest.mark.parametrize("frames", range(1, 35))
def test_encoder_gives_what_the_table_says(tiny, frames):
    x = random_clip(frames, 16, 16)
    if frames in PARTIAL:
        latent = tiny.encode(x, allow_partial_window=True)
        assert latent.shape == (1, PARTIAL[frames], 2, 1, 1)
        assert tiny.decode(latent).shape == x.shape
    else:
        with pytest.raises(ValueError, match=f"T={frames} frames"):
            tiny.encode(x, allow_partial_window=True)
    if frames not in WHOLE:
        with pytest.raises(ValueError, match=f"x, axis 1: T={frames} frames.*fit_frames"):
            tiny.encode(x)


@pytest.mark.parametrize(
    ("frames", "partial", "nearest"),
    [
        (2, False, "1 and 17"),
        (16, False, "1 and 17"),
        (18, False, "17 and 34"),
        (33, False, "17 and 34"),
        (200, False, "187 and 204"),
        (2, True, "1 and 9"),
        (16, True, "9 and 17"),
        (20, True, "18 and 26"),
        (33, True, "26 and 34"),
        (0, False, "1"),
    ],
)
def test_illegal_lengths_name_their_valid_neighbours(frames, partial, nearest):
    with pytest.raises(ValueError, match=rf"nearest: {nearest}\)"):
        latent_frames(frames, partial)


def test_illegal_lengths_of_version_1_name_their_valid_neighbours():
    with pytest.raises(ValueError, match=r"17 plus 1, 5, 9 or 13 \(nearest: 22 and 26\)"):
        latent_frames(23, True, VERSION_1)
    with pytest.raises(ValueError, match=r"17 plus 1 or 9 \(nearest: 18 and 26\)"):
        latent_frames(23, True)
    with pytest.raises(ValueError, match=r"multiple of 17 \(nearest: 1 and 17\)"):
        latent_frames(5, False, VERSION_1)


def test_version_1_takes_multiples_of_8():
    x = torch.zeros(1, 17, 3, 24, 40)
    check_video(x, 3, torch.float32, compression=VERSION_1)
    with pytest.raises(ValueError, match=r"H=24 on axis 3.*of 16 \(nearest: 16 and 32\)"):
        check_video(x, 3, torch.float32)
    with pytest.raises(ValueError, match=r"W=36 on axis 4.*of 8 \(nearest: 32 and 40\)"):
        check_video(x[..., :36], 3, torch.float32, compression=VERSION_1)
    short = x[:, :13]
    check_video(short, 3, torch.float32, allow_partial_window=True, compression=VERSION_1)
    with pytest.raises(ValueError, match=r"axis 1: T=13"):
        check_video(short, 3, torch.float32, compression=VERSION_1)


@given(st.sampled_from(["pad", "truncate"]), st.integers(1, 120), st.booleans())
def test_fit_frames_makes_any_clip_legal(policy, frames, as_bytes):
    x = torch.arange(frames, dtype=torch.uint8 if as_bytes else torch.float32)
    x = x.reshape(1, frames, 1, 1, 1).expand(2, frames, 3, 1, 2)
    fitted, valid = fit_frames(x, policy)
    latent_frames(fitted.shape[1])
    assert fitted.dtype == x.dtype
    assert fitted.shape[0] == 2
    assert fitted.shape[2:] == x.shape[2:]
    assert 1 <= valid <= frames
    assert torch.equal(fitted[:, :valid], x[:, :valid])
    if policy == "pad":
        assert valid == frames
        assert fitted.shape[1] - frames < 17
        assert (fitted[:, valid:] == x[:, -1:]).all()
    else:
        assert fitted.shape[1] == valid
        assert valid == 1 if frames < 17 else frames - valid < 17
    again, still = fit_frames(fitted, "error")
    assert again is fitted
    assert still == fitted.shape[1]


@given(st.integers(1, 200), st.sampled_from(sorted(COMPRESSIONS)))
def test_decoded_frames_inverts_latent_frames(latents, version):
    compression = COMPRESSIONS[version]
    frames = decoded_frames(latents, compression)
    assert latent_frames(frames, allow_partial_window=True, compression=compression) == latents


@given(st.integers(1, 1000), st.sampled_from(sorted(COMPRESSIONS)), st.booleans())
def test_legal_lengths_come_back_from_their_latents(frames, version, partial):
    compression = COMPRESSIONS[version]
    try:
        latents = latent_frames(frames, partial, compression)
    except ValueError:
        return
    assert decoded_frames(latents, compression) == frames


def test_fit_frames_refuses_what_it_cannot_fit():
    with pytest.raises(ValueError, match=r"T=20 frames.*17 and 34"):
        fit_frames(torch.zeros(1, 20, 3, 16, 16), "error")
    with pytest.raises(ValueError, match="policy='crop' is unknown"):
        fit_frames(torch.zeros(1, 20, 3, 16, 16), "crop")
    with pytest.raises(ValueError, match="at least one frame"):
        fit_frames(torch.zeros(1, 0, 3, 16, 16))
    with pytest.raises(ValueError, match=r"must have shape \(B, T, C, H, W\)"):
        fit_frames(torch.zeros(20, 3, 16, 16))


def test_padded_clip_decodes_to_its_own_length(tiny):
    x = random_clip(20, 16, 16)
    fitted, valid_frames = fit_frames(x, policy="pad")
    assert tiny.decode(tiny.encode(fitted))[:, :valid_frames].shape == x.shape


BAD_CLIPS = {
    "single clip": (torch.zeros(17, 3, 32, 32), r"4 axes.*five.*x\[None\].*x\[:, None\]"),
    "channels first": (torch.zeros(1, 3, 17, 32, 32), r"17 channels on axis 2.*Axis 1 looks"),
    "channels last": (torch.zeros(1, 17, 32, 32, 3), r"Axis 4 looks.*permute\(0, 1, 4, 2, 3\)"),
    "alpha": (torch.zeros(1, 17, 4, 32, 32), "4 channels on axis 2.*expected 3"),
    "empty batch": (torch.zeros(0, 17, 3, 32, 32), "empty along axis 0"),
    "no frames": (torch.zeros(1, 0, 3, 32, 32), "empty along axis 1"),
    "height": (torch.zeros(1, 17, 3, 40, 32), r"H=40 on axis 3.*16 \(nearest: 32 and 48\)"),
    "width": (torch.zeros(1, 17, 3, 32, 8), r"W=8 on axis 4.*16 \(nearest: 16\)"),
    "length": (torch.zeros(1, 16, 3, 32, 32), r"axis 1: T=16.*1 and 17.*fit_frames"),
    "uint8": (torch.zeros(1, 17, 3, 32, 32, dtype=torch.uint8), r"uint8.*/ 127.5 - 1"),
    "wrong float": (torch.zeros(1, 1, 3, 32, 32).bfloat16(), r"bfloat16.*x.to\(torch.float32\)"),
    "bytes as floats": (torch.full((1, 1, 3, 16, 16), 255.0), "from 255 to 255.*x / 127.5 - 1"),
    "infinite": (torch.full((1, 1, 3, 16, 16), torch.inf), "from inf to inf"),
}


@pytest.mark.parametrize("name", BAD_CLIPS)
def test_bad_clips_are_refused_with_a_remedy(tiny, name):
    x, words = BAD_CLIPS[name]
    for method in (tiny.encode, tiny.posterior):
        with pytest.raises(ValueError, match=words):
            method(x)


@pytest.mark.parametrize("other", [0.0, 300.0])
def test_nan_is_refused(tiny, other):
    x = torch.full((1, 1, 3, 16, 16), other)
    x[0, 0, 1, 2, 3] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        tiny.encode(x)


def test_a_little_overshoot_is_accepted(tiny):
    assert tiny.encode(torch.full((1, 1, 3, 16, 16), 1.2)).isfinite().all()


def test_suggested_permutations_are_right(tiny):
    right = torch.zeros(1, 17, 3, 32, 48)
    assert right.permute(0, 2, 1, 3, 4).permute(0, 2, 1, 3, 4).shape == right.shape
    assert right.permute(0, 1, 3, 4, 2).permute(0, 1, 4, 2, 3).shape == right.shape
    with pytest.raises(ValueError, match=r"permute\(0, 2, 1, 3, 4\)"):
        tiny.encode(right.permute(0, 2, 1, 3, 4))


def test_something_else_than_a_tensor_is_refused(tiny):
    with pytest.raises(TypeError, match=r"torch.Tensor, not list"):
        tiny.encode([[0.0]])


BAD_LATENTS = {
    "axes": (torch.zeros(3, 2, 4, 4), r"4 axes.*z\[None\]"),
    "channels first": (torch.zeros(1, 2, 3, 4, 4), r"3 channels.*Axis 1 looks.*z.permute"),
    "another model": (torch.zeros(1, 3, 16, 4, 4), "16 channels on axis 2.*expected 2"),
    "empty": (torch.zeros(1, 0, 2, 4, 4), "empty along axis 1"),
    "integers": (torch.zeros(1, 3, 2, 4, 4, dtype=torch.int64), "int64"),
}


@pytest.mark.parametrize("name", BAD_LATENTS)
def test_bad_latents_are_refused_with_a_remedy(tiny, name):
    z, words = BAD_LATENTS[name]
    with pytest.raises(ValueError, match=words):
        tiny.decode(z)


def test_decoding_nothing_is_refused():
    with pytest.raises(ValueError, match="t=0"):
        decoded_frames(0)
