"""The contact sheet: windows as they went into the VAE, above what their latents decode to."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from pipeline.page.look import Frames, Looked
from pipeline.page.wording import last_part

_SHOWN = 5
_MARGIN = 4
_LABEL_HEIGHT = 16


def contact_sheet(note: str, windows: Sequence[Looked]) -> bytes:
    """A PNG: under a note, two rows a window, of frames that went in and of decoded ones."""
    strips = [_strip(_label(window), window.given, window.decoded) for window in windows]
    sink = io.BytesIO()
    _stack(note, strips).save(sink, "PNG")
    return sink.getvalue()


def evenly(frames: Frames, count: int) -> Frames:
    """At most ``count`` frames, evenly spread, the first and the last among them."""
    places = np.linspace(0, len(frames) - 1, count).round().astype(int)
    found: Frames = frames[np.unique(places)]
    return found


def _label(window: Looked) -> str:
    pick = window.pick
    return (
        f"{last_part(pick.source['uri'])}  window {pick.window}  frame {pick.first_frame}  "
        f"PSNR {window.psnr:.2f} dB: in / decoded"
    )


def _strip(label: str, given: Frames, decoded: Frames) -> Image.Image:
    rows = [np.concatenate(list(evenly(frames, _SHOWN)), axis=1) for frames in (given, decoded)]
    picture = np.concatenate(rows, axis=0)
    strip = Image.new("RGB", (picture.shape[1], picture.shape[0] + _LABEL_HEIGHT), "white")
    ImageDraw.Draw(strip).text((2, 2), label, fill="black")
    strip.paste(Image.fromarray(picture), (0, _LABEL_HEIGHT))
    return strip


def _stack(note: str, strips: Sequence[Image.Image]) -> Image.Image:
    width = max([strip.width for strip in strips] + [480]) + 2 * _MARGIN
    height = _LABEL_HEIGHT + sum(strip.height + _MARGIN for strip in strips) + _MARGIN
    sheet = Image.new("RGB", (width, height), "white")
    ImageDraw.Draw(sheet).text((_MARGIN, 2), note, fill="black")
    top = _LABEL_HEIGHT
    for strip in strips:
        sheet.paste(strip, (_MARGIN, top))
        top += strip.height + _MARGIN
    return sheet
