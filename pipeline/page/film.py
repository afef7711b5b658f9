"""Windows as files to look at: a sheet of each, and a video of all, with their differences."""

import contextlib
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

from PIL import Image

from pipeline.page.access import unwritable
from pipeline.page.look import Looked
from pipeline.side_by_side import Sheet, SideBySideVideo, difference, video_codec

_RATE = 25.0


def write_windows(windows: Iterable[Looked], folder: Path, name: str) -> list[Path]:
    """Write ``NAME_BUCKET_window_K.png`` of each window, and ``NAME_BUCKET.mp4`` of each bucket.

    All show source, reconstruction and difference beside each other; images get no video. Older
    files of these names are replaced.

    Raises:
        UserError: the folder cannot be written to.
    """
    written: list[Path] = []
    films: dict[str, SideBySideVideo] = {}
    shown: dict[str, int] = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            for window in windows:
                pick = window.pick
                path = folder / f"{name}_{pick.bucket}_window_{pick.window}.png"
                _sheet(window).save(path)
                written.append(path)
                if pick.frames == 1:
                    continue
                rate = Fraction(pick.fps or _RATE).limit_denominator(1001)
                if pick.bucket not in films:
                    path = folder / f"{name}_{pick.bucket}.mp4"
                    height, width = window.given.shape[1:3]
                    film = SideBySideVideo(path, height, width, rate, video_codec(), pictures=3)
                    films[pick.bucket] = stack.enter_context(film)
                    written.append(path)
                first = shown.get(pick.bucket, 0)
                shown[pick.bucket] = first + len(window.given)
                apart = difference(window.given, window.decoded)
                for k in range(len(window.given)):
                    films[pick.bucket].add(
                        (first + k) / rate, window.given[k], window.decoded[k], apart[k]
                    )
    except OSError as error:
        raise unwritable(folder, error.strerror or str(error)) from error
    return written


def _sheet(window: Looked) -> Image.Image:
    sheet = Sheet()
    pick = window.pick
    for k in range(len(window.given)):
        repeated = " (a repetition)" if k >= pick.valid_frames else ""
        sheet.add(f"frame {pick.first_frame + k}{repeated}", window.given[k], window.decoded[k])
    return sheet.image(f"window {pick.window}, {pick.bucket}, PSNR {window.psnr:.2f} dB")
