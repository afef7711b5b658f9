"""One clip through the VAE and back: what it loses, in decibels and to look at."""

import contextlib
import math
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.buckets import MULTIPLE, Bucket
from pipeline.config import Config
from pipeline.errors import Reason, SourceError, UserError
from pipeline.reading import Source, open_source
from pipeline.room import is_out_of_memory
from pipeline.roundtrip import RoundTrip, Window, WindowScore, blended, finite, pixels
from pipeline.side_by_side import Sheet, SideBySideVideo, video_codec
from pipeline.video.decode import (
    ClipEnd,
    ClipFailure,
    ClipRequest,
    FrameRecipe,
    Segment,
    Target,
    decode_clips,
)
from pipeline.video.facts import VideoFacts
from pipeline.video.limits import DecodeLimits
from pipeline.video.probe import probe
from pipeline.weights import load_vae
from pipeline.windows import WINDOW_FRAMES, WindowGrid

MAX_OWN_PIXELS = 544 * 992
"""Larger pictures are shrunk to about this many pixels, those of the published generator's videos,
unless a size is asked for."""

_LIMITS = DecodeLimits()
_REMEDIES = {
    Reason.MISSING: "check the path or URI",
    Reason.UNREADABLE: "check permissions, credentials and --set storage.endpoint_url",
    Reason.SOURCE_CHANGED: "run again when nobody writes to it",
    Reason.TOO_SHORT: "pass --tail pad",
}
_REMEDY = "name a video or image that is whole, or convert it: ffmpeg -i CLIP clip.mp4"


@dataclass(frozen=True)
class Reconstruction:
    """The result.

    Attributes:
        clip: URI.
        size: of the frames that were encoded.
        frames: output frames shown, each once.
        clip_frames: output frames that the clip has; None where it was not read to its end.
        scores: of each window, in order; at least one.
        video, image: the files written; an image has no video.
        seconds: wall time.
    """

    clip: str
    size: Bucket
    frames: int
    clip_frames: int | None
    scores: tuple[WindowScore, ...]
    video: Path | None
    image: Path
    seconds: float

    @property
    def mean_psnr(self) -> float:
        """Mean of the windows' decibels."""
        return mean_psnr(self.scores)

    def to_json(self) -> dict[str, Any]:
        """Plain values, fit for JSON: decibels are None where nothing differs."""
        return {
            "clip": self.clip,
            "height": self.size.height,
            "width": self.size.width,
            "frames": self.frames,
            "clip_frames": self.clip_frames,
            "mean_psnr": finite(self.mean_psnr),
            "windows": [score.to_json() for score in self.scores],
            "video": None if self.video is None else str(self.video),
            "image": str(self.image),
            "seconds": round(self.seconds, 2),
        }


def mean_psnr(scores: Sequence[WindowScore]) -> float:
    """Mean of the decibels of at least one window."""
    decibels = [score.psnr for score in scores]
    return sum(decibels) / len(decibels)


def reconstruct(
    config: Config,
    size: Bucket | None,
    max_windows: int,
    begun: Callable[[VideoFacts, Bucket], None],
    scored: Callable[[WindowScore], None],
) -> Reconstruction:
    """Encode and decode the clip ``config.dataset.uri``, a window at a time, and write both files.

    Of the configuration also count ``vae``, ``storage``, ``resize``, ``windows.fps`` and ``.tail``,
    ``latents.statistic`` (``moments`` as ``mean``) and ``.seed``, and ``output.uri``, a local
    folder. The files get there when they are whole, in place of older ones.

    Args:
        config: what to do, and how.
        size: height and width to encode at; None for ``own_size`` of the clip.
        max_windows: windows to take, from the start; at least 1.
        begun: told once what the clip is and at what size it is encoded.
        scored: told of each window when it is done.

    Raises:
        UserError: the clip, the weights or the folder cannot be used, or memory is not enough.
    """
    clip, started = config.dataset.uri, time.monotonic()
    folder = _local_folder(config.output.uri)
    name = f"{_path(clip).stem}_reconstruction"
    try:
        with open_source(clip, None, config.storage) as file:
            facts = probe(file, _LIMITS)
            bucket = size or _own_size(clip, facts)
            begun(facts, bucket)
            with _workplace(folder) as work, _memory_explained(bucket):
                vae = load_vae(config.vae, config.storage)
                trip = RoundTrip(vae, facts, config.windows.rate, _seed(config), scored)
                reading = _Reading(file, config, facts, bucket, max_windows)
                video = None if facts.is_image else work / f"{name}.mp4"
                with _writing_explained(folder):
                    windows = blended(trip.windows(reading.segments()))
                    sheet = _show(windows, bucket, video, config.windows.rate or _rate(facts))
                    file.verify()
                    title = _title(config, bucket, mean_psnr(trip.scores))
                    sheet.image(title).save(work / f"{name}.png")
                    for path in work.iterdir():
                        path.replace(folder / path.name)
    except SourceError as error:
        raise _explained(clip, error) from error
    return Reconstruction(
        clip=clip,
        size=bucket,
        frames=trip.shown,
        clip_frames=None if reading.end is None else reading.end.frames,
        scores=tuple(trip.scores),
        video=None if facts.is_image else folder / f"{name}.mp4",
        image=folder / f"{name}.png",
        seconds=time.monotonic() - started,
    )


def own_size(width: int, height: int) -> Bucket:
    """The size of a picture, at most about ``MAX_OWN_PIXELS``, cut to multiples of 16.

    Raises:
        ValueError: nothing would be left of a side.
    """
    scale = min(1.0, math.sqrt(MAX_OWN_PIXELS / (width * height)))
    sides = [int(side * scale) // MULTIPLE * MULTIPLE for side in (height, width)]
    if min(sides) == 0:
        raise ValueError(
            f"a picture of height {height} and width {width} is too small, or too long, for a size "
            f"in steps of {MULTIPLE} pixels"
        )
    return Bucket(*sides)


def _own_size(clip: str, facts: VideoFacts) -> Bucket:
    try:
        return own_size(facts.width, facts.height)
    except ValueError as error:
        raise UserError(f"{clip}: {error}; pass one, e.g. --size 64x64") from error


class _Reading:
    """Decodes the clip; ``end`` is known once its end was met."""

    def __init__(
        self, file: Source, config: Config, facts: VideoFacts, bucket: Bucket, max_windows: int
    ) -> None:
        self.end: ClipEnd | None = None
        self._file = file
        self._request = ClipRequest(
            key=config.dataset.uri,
            start=None,
            end=None,
            ranges=((0, max_windows),),
            targets=(Target(bucket, segment_windows=1),),
            expected_size=(facts.width, facts.height),
        )
        self._recipe = FrameRecipe(
            fps=config.windows.rate,
            grid=WindowGrid(tail=config.windows.tail),
            resize=config.resize.policy,
            filter=config.resize.filter,
        )

    def segments(self) -> Iterator[Segment]:
        """Windows, one a segment, in order. Raises ``SourceError``, also where there is none."""
        none = True
        for found in decode_clips(self._file, [self._request], self._recipe, _LIMITS):
            if isinstance(found, ClipFailure):
                raise SourceError(found.reason, found.message)
            if isinstance(found, ClipEnd):
                self.end = found
            else:
                none = False
                yield found
        if none:
            frames = 0 if self.end is None else self.end.frames
            raise SourceError(
                Reason.TOO_SHORT, f"{frames} frames make no window of {WINDOW_FRAMES}"
            )


def _show(windows: Iterable[Window], size: Bucket, video: Path | None, rate: Fraction) -> Sheet:
    """Write the video, if one is wanted, and collect the sheet."""
    sheet = Sheet()
    with contextlib.ExitStack() as stack:
        film = None
        if video is not None:
            film = SideBySideVideo(video, size.height, size.width, rate, video_codec())
            stack.enter_context(film)
        for window in windows:
            frames = zip(window.times, window.given, pixels(window.decoded), strict=True)
            for number, (seconds, given, decoded) in enumerate(frames, window.first):
                sheet.add(f"frame {number}, {float(seconds):.2f} s", given, decoded)
                if film is not None:
                    film.add(seconds, given, decoded)
    return sheet


def _rate(facts: VideoFacts) -> Fraction:
    """Frames per second by the header, within reason."""
    return Fraction(min(max(facts.fps or 25.0, 1.0), 240.0)).limit_denominator(1001)


def _seed(config: Config) -> int | None:
    return config.latents.seed if config.latents.statistic == "sample" else None


def _title(config: Config, size: Bucket, mean: float) -> str:
    name = _path(config.dataset.uri).name
    checkpoint = config.vae.checkpoint
    weights = "RANDOM, noise by nature" if checkpoint is None else PurePosixPath(checkpoint).name
    return f"{name}  {size.height}x{size.width}  mean PSNR {mean:.2f} dB  weights {weights}"


def _path(uri: str) -> PurePosixPath:
    """Without a query, which may hold secrets."""
    return PurePosixPath(uri.partition("?")[0] if "://" in uri else uri)


def _local_folder(uri: str) -> Path:
    if "://" in uri:
        raise UserError(f"--out {uri}: the files are written to a local folder; name one")
    return Path(uri)


@contextlib.contextmanager
def _workplace(folder: Path) -> Iterator[Path]:
    """A temporary folder in ``folder``, which is made."""
    with _writing_explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        place = tempfile.TemporaryDirectory(prefix=".reconstruct-", dir=folder)
    with place as name:
        yield Path(name)


@contextlib.contextmanager
def _writing_explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"--out {folder}: {error.strerror or error}; name a folder that can be written to"
        ) from error


@contextlib.contextmanager
def _memory_explained(size: Bucket) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"a window of {size.height}x{size.width} does not fit in memory; pass a smaller "
            "--size, or --dtype bfloat16 on a GPU"
        ) from error


def _explained(clip: str, error: SourceError) -> UserError:
    message = error.message if clip in error.message else f"{clip}: {error.message}"
    return UserError(f"{message}; {_REMEDIES.get(error.reason, _REMEDY)}")
