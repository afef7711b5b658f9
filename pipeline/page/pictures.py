"""Windows as strips of a few frames, small enough to ride in a page."""

import base64
import io
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.page.look import Frames, Looked
from pipeline.page.wording import bucket_size, last_part
from pipeline.side_by_side import AMPLIFIED, difference

_FRAMES = 3
_GAP = 4
_WIDTH = 760
_QUALITY = 82


@dataclass(frozen=True)
class Shown:
    """One window in a page: texts, and ``strips`` as (label, data URI) of ``width``×``height``."""

    name: str
    about: str
    psnr: str
    strips: tuple[tuple[str, str], ...]
    width: int
    height: int


def show(window: Looked) -> Shown:
    """The strips of a window: frames given, decoded, and their amplified difference."""
    pick = window.pick
    places = np.unique(np.linspace(0, len(window.given) - 1, _FRAMES).round().astype(int))
    given, decoded = window.given[places], window.decoded[places]
    rows = {
        "source": given,
        "reconstruction": decoded,
        f"difference, {AMPLIFIED} times": difference(given, decoded),
    }
    images = {label: _strip(frames) for label, frames in rows.items()}
    width, height = images["source"].size
    return Shown(
        name=last_part(pick.source["uri"]),
        about=_about(window),
        psnr=f"{window.psnr:.1f} dB" if math.isfinite(window.psnr) else "∞ dB",
        strips=tuple((label, _data_uri(image)) for label, image in images.items()),
        width=width,
        height=height,
    )


def _about(window: Looked) -> str:
    pick = window.pick
    size = bucket_size(pick.bucket)
    if pick.frames == 1:
        return f"an image, at {size}"
    when = f" from {pick.first_frame / pick.fps:.2f} s" if pick.fps else ""
    padded = (
        f"padded: {pick.valid_frames} of {pick.frames} frames are real"
        if pick.padded
        else f"full: {pick.frames} frames"
    )
    return f"window {pick.window}{when}, at {size}, {padded}"


def _strip(frames: Frames) -> Image.Image:
    """Frames beside each other, shrunk where they are wider than a page needs."""
    gap = np.zeros((frames.shape[1], _GAP, 3), np.uint8)
    parts: list[npt.NDArray[np.uint8]] = []
    for frame in frames:
        parts += [frame] if not parts else [gap, frame]
    image = Image.fromarray(np.concatenate(parts, axis=1))
    if image.width > _WIDTH:
        height = max(1, round(image.height * _WIDTH / image.width))
        image = image.resize((_WIDTH, height), Image.Resampling.LANCZOS)
    return image


def _data_uri(image: Image.Image) -> str:
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(sink.getvalue()).decode()}"
