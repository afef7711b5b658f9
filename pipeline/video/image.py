"""Still images: read by Pillow, resampled as video frames are."""

import io
import warnings
from typing import Any

import av
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.errors import Reason, SourceError
from pipeline.video.facts import VideoFacts
from pipeline.video.files import GuardedFile, sniff
from pipeline.video.limits import DecodeLimits

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
_ORIENTATION = 0x0112
_MAX_BYTES = 512 * 1024 * 1024
# EXIF orientations as degrees counter-clockwise (mirrored ones by their rotation alone).
_ROTATIONS = {3: 180, 4: 180, 5: 270, 6: 270, 7: 90, 8: 90}


def is_image(file: GuardedFile) -> bool:
    """Whether the first bytes are those of an image."""
    return sniff(file.head) == "image"


def probe_image(file: GuardedFile, limits: DecodeLimits) -> VideoFacts:
    """Facts about a still image.

    Raises:
        SourceError: see ``read_image``.
    """
    with _open(file, limits) as image:
        return _read_facts(image)


def read_image(file: GuardedFile, limits: DecodeLimits) -> tuple[VideoFacts, av.VideoFrame]:
    """Facts, and the picture as an upright RGB frame; transparent parts become black.

    Raises:
        SourceError: ``invalid_data``, ``too_large``, ``unsupported_container`` for an animation,
            or a failure of the file.
    """
    with _open(file, limits) as image:
        facts = _read_facts(image)
        try:
            upright = ImageOps.exif_transpose(image)
            rgb = _on_black(upright)
        except (OSError, ValueError, SyntaxError) as error:
            raise SourceError(
                Reason.DECODE_ERROR, f"the image cannot be decoded: {error}"
            ) from error
    return facts, av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")


def _open(file: GuardedFile, limits: DecodeLimits) -> Image.Image:
    if file.size > _MAX_BYTES:
        raise SourceError(Reason.TOO_LARGE, f"an image of {file.size} bytes")
    if file.head[4:8] == b"ftyp":
        raise SourceError(Reason.UNSUPPORTED_CONTAINER, "AVIF and HEIC images are not read")
    content = io.BytesIO(file.at(0, file.size))
    try:
        with warnings.catch_warnings():
            # The limit that counts is checked below, before pixels are decoded.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(content, formats=_FORMATS)
    except Image.DecompressionBombError as error:
        raise SourceError(Reason.TOO_LARGE, str(error)) from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise SourceError(Reason.INVALID_DATA, "the image cannot be opened") from error
    if image.width * image.height > limits.max_pixels:
        raise SourceError(
            Reason.TOO_LARGE,
            f"{image.width}x{image.height} is more than {limits.max_pixels} pixels",
        )
    if getattr(image, "n_frames", 1) > 1:
        raise SourceError(
            Reason.UNSUPPORTED_CONTAINER,
            f"an animated {image.format} is neither a still image nor a video that is read here",
        )
    return image


def _read_facts(image: Image.Image) -> VideoFacts:
    try:
        return _facts(image)
    except (OSError, ValueError, SyntaxError) as error:
        raise SourceError(Reason.INVALID_DATA, f"the image cannot be read: {error}") from error


def _facts(image: Image.Image) -> VideoFacts:
    turn = int(image.getexif().get(_ORIENTATION, 1))
    rotation = _ROTATIONS.get(turn, 0)
    size = image.size if turn < 5 or turn > 8 else (image.height, image.width)
    return VideoFacts(
        width=size[0],
        height=size[1],
        coded_width=image.width,
        coded_height=image.height,
        sar_num=1,
        sar_den=1,
        rotation=rotation,
        fps=None,
        frames=1,
        duration=None,
        codec=str(image.format).lower(),
        pixel_format=image.mode,
        container="image",
        time_base_num=1,
        time_base_den=1,
        origin=0,
        is_image=True,
    )


def _on_black(image: Image.Image) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """uint8 ``(height, width, 3)``; alpha laid over black."""
    if image.mode.startswith("I;16") or image.mode == "I":
        # Sixteen bits of grey: the upper eight.
        grey = np.clip(np.asarray(image).astype(np.int64) >> 8, 0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        black = Image.new("RGBA", rgba.size, (0, 0, 0, 255))
        return np.asarray(Image.alpha_composite(black, rgba).convert("RGB"))
    return np.asarray(image.convert("RGB"))
