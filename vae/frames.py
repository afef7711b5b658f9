"""Which clips are legal: window arithmetic, fitting, and checks with remedies."""

from __future__ import annotations

import math
from numbers import Integral
from typing import Literal

import torch
from torch import Tensor

from vae.compression import VERSION_2, WINDOW_FRAMES, Compression

VALUE_LIMIT = 1.5
"""Pixels beyond ±1.5 are taken for a wrong range; resampling may overshoot ±1 a little."""


FitPolicy = Literal["pad", "truncate", "error"]
"""What :func:`fit_frames` does with a clip that is neither one frame nor whole windows."""


def latent_frames(
    frames: int, allow_partial_window: bool = False, compression: Compression = VERSION_2
) -> int:
    """Latent frames of a clip: 1 for one frame, else 3 (version 1: 5) per window of 17.

    With ``allow_partial_window`` the last window may also be one of the short ones of which every
    frame reaches a latent: 1 or 9 frames give 1 or 2 latents; in version 1, 1, 5, 9 or 13 frames
    give 1 to 4.

    Raises:
        ValueError: no latents are defined for this number of frames; the message names the
            nearest valid numbers and the remedy.
    """
    windows, rest = divmod(frames, WINDOW_FRAMES)
    partial = compression.partial_windows
    clean = allow_partial_window or frames == 1
    if frames >= 1 and (rest == 0 or (clean and rest in partial)):
        return windows * compression.window_latents + -(-rest // compression.temporal)
    tails = (0, *partial) if allow_partial_window else (0,)
    valid = {1} | {(windows + i) * WINDOW_FRAMES + tail for i in (0, 1) for tail in tails}
    below = max((n for n in valid if 0 < n < frames), default=None)
    above = min(n for n in valid if n > frames)
    rule = "1 frame, or a multiple of 17"
    if allow_partial_window:
        *most, last = map(str, partial)
        rule += f", or a multiple of 17 plus {', '.join(most)} or {last}"
    nearest = f"{above}" if below is None else f"{below} and {above}"
    raise ValueError(
        f"T={frames} frames do not make whole windows; a clip has {rule} (nearest: {nearest}). "
        "Call fit_frames(x, policy='pad') or policy='truncate', or cut the clip."
    )


def decoded_frames(latents: int, compression: Compression = VERSION_2) -> int:
    """Frames that ``latents`` latent frames decode to.

    17 per window of 3 (version 1: 5); a rest of k latents is a short last window of 8(k-1) + 1
    (version 1: 4(k-1) + 1) frames.

    Raises:
        ValueError: ``latents`` is not positive.
    """
    if latents < 1:
        raise ValueError(f"t={latents} latent frames cannot be decoded; at least 1 is needed.")
    windows, rest = divmod(latents, compression.window_latents)
    return windows * WINDOW_FRAMES + (compression.temporal * (rest - 1) + 1 if rest else 0)


def fit_frames(x: Tensor, policy: FitPolicy = "pad") -> tuple[Tensor, int]:
    """Make any clip (B, T, C, H, W), of any dtype, legal in time: one frame or whole windows.

    Policies: ``"pad"`` repeats the last frame up to the next multiple of 17; ``"truncate"`` keeps
    the first multiple of 17 frames (one frame, if there are fewer than 17), as the published
    generator does; ``"error"`` accepts legal clips alone. A legal clip is returned as it is.

    Returns:
        The clip, and the number of its leading frames that come from ``x``. Trim what
        is decoded by it: ``vae.decode(latent)[:, :valid_frames]``.

    Raises:
        ValueError: x has not five axes or no frames, the policy is unknown, or the clip is not
            legal under ``"error"``.
    """
    if x.ndim != 5 or x.shape[1] == 0:
        raise ValueError(
            f"x must have shape (B, T, C, H, W) with at least one frame, not {tuple(x.shape)}."
        )
    frames = x.shape[1]
    whole = frames // WINDOW_FRAMES * WINDOW_FRAMES
    if policy not in ("pad", "truncate", "error"):
        raise ValueError(f"policy={policy!r} is unknown; use 'pad', 'truncate' or 'error'.")
    if frames in (1, whole):
        return x, frames
    if policy == "truncate":
        kept = max(whole, 1)
        return x[:, :kept], kept
    if policy == "pad":
        missing = whole + WINDOW_FRAMES - frames
        tail = x[:, -1:].expand(-1, missing, -1, -1, -1)
        return torch.cat((x, tail), dim=1), frames
    latent_frames(frames)  # raises, naming the neighbours
    raise AssertionError(f"{frames} frames are legal")


def check_video(
    x: Tensor,
    channels: int,
    dtype: torch.dtype,
    allow_partial_window: bool = False,
    compression: Compression = VERSION_2,
) -> None:
    """Check that ``x`` can be encoded: (B, T, C, H, W), ``dtype``, values in [-1, 1].

    T is 1 or whole windows, H and W are multiples of ``compression.spatial``.

    The values are looked at on the CPU only, so that no device is made to wait.

    Raises:
        TypeError: x is not a tensor.
        ValueError: shape, dtype or values are wrong; the message names axis, value and remedy.
    """
    _check_axes("x", x, "(B, T, C, H, W)", channels, "from a single clip (T, C, H, W), use x[None]")
    if not x.is_floating_point():
        raise ValueError(
            f"x has dtype {x.dtype}; the VAE takes floating point in [-1, 1]. "
            f"For 0..255 pixels: x.to({dtype}) / 127.5 - 1."
        )
    if x.dtype != dtype:
        raise ValueError(
            f"x has dtype {x.dtype}, the weights have {dtype}. Cast the clip: x.to({dtype})."
        )
    try:
        latent_frames(x.shape[1], allow_partial_window, compression)
    except ValueError as error:
        raise ValueError(f"x, axis 1: {error}") from None
    factor = compression.spatial
    for axis, name in ((3, "H"), (4, "W")):
        size = x.shape[axis]
        if size % factor:
            below = size // factor * factor
            nearest = f"{below} and {below + factor}" if below else f"{factor}"
            raise ValueError(
                f"x has {name}={size} on axis {axis}, which must be a multiple of {factor} "
                f"(nearest: {nearest}). Resize or crop the clip."
            )
    if x.device.type == "cpu":
        _check_values(x)


def check_window(height: int, width: int, frames: int, compression: Compression) -> None:
    """Check the sizes of one window, in pixels and frames.

    Raises:
        ValueError: a size is no positive multiple of ``compression.spatial``, or no window has so
            many frames.
    """
    factor = compression.spatial
    for name, size in (("height", height), ("width", width)):
        if not _is_whole(size) or size < 1 or size % factor:
            raise ValueError(f"{name}={size!r} must be a positive multiple of {factor}.")
    legal = (*compression.partial_windows, WINDOW_FRAMES)
    if not _is_whole(frames) or frames not in legal:
        *most, last = map(str, legal)
        raise ValueError(f"frames={frames!r}: a window has {', '.join(most)} or {last} frames.")


def check_latent(z: Tensor, channels: int) -> None:
    """Check that ``z`` can be decoded: (B, t, C, h, w), floating point.

    Raises:
        TypeError: z is not a tensor.
        ValueError: shape or dtype is wrong; the message names axis, value and remedy.
    """
    _check_axes(
        "z", z, "(B, t, C, h, w)", channels, "from a single latent (t, C, h, w), use z[None]"
    )
    if not z.is_floating_point():
        raise ValueError(f"z has dtype {z.dtype}; a latent is floating point.")


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _check_axes(name: str, x: Tensor, layout: str, channels: int, single: str) -> None:
    """Five non-empty axes with ``channels`` channels on axis 2."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, not {type(x).__name__}.")
    shape = tuple(x.shape)
    if x.ndim != 5:
        raise ValueError(
            f"{name} has {x.ndim} axes, {shape}; it must have five, {layout}: {single}; "
            f"from a batch of images (B, C, H, W), use {name}[:, None]."
        )
    if 0 in shape:
        raise ValueError(f"{name} is empty along axis {shape.index(0)}: {shape}, {layout}.")
    if shape[2] == channels:
        return
    problem = f"{name} has {shape[2]} channels on axis 2 of {layout}, expected {channels}: {shape}."
    for axis, order in ((1, (0, 2, 1, 3, 4)), (4, (0, 1, 4, 2, 3))):
        if shape[axis] == channels:
            raise ValueError(
                f"{problem} Axis {axis} looks like the channels: use {name}.permute{order}."
            )
    raise ValueError(f"{problem} Use a model built for {shape[2]} channels, or other input.")


def _check_values(x: Tensor) -> None:
    """Values within ±``VALUE_LIMIT`` and no NaN; a NaN never hides the rest of the message."""
    low, high = (float(value) for value in torch.aminmax(x.detach()))
    if low >= -VALUE_LIMIT and high <= VALUE_LIMIT:
        return
    if math.isnan(low) or math.isnan(high):
        raise ValueError("x contains NaN. Pixels must be finite and lie in [-1, 1].")
    raise ValueError(
        f"x has values from {low:.4g} to {high:.4g}; the VAE takes [-1, 1]. "
        "For 0..255 pixels: x / 127.5 - 1; for pixels in [0, 1]: x * 2 - 1."
    )
