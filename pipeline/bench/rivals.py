"""Other ways to decode a video to resized RGB on one thread: ffmpeg, PyAV, torchcodec."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av

from pipeline.bench.measure import Cost, resident_bytes
from pipeline.bench.work import Span, Work
from pipeline.errors import UserError
from pipeline.video.convert import KERNELS
from pipeline.windows import WINDOW_FRAMES

EXACT = "+accurate_rnd+bitexact+full_chroma_int+full_chroma_inp"
"""Flags of swscale that the pipeline sets beside the kernel, in ffmpeg's words."""

_POLL_S = 0.02


def ffmpeg_path() -> str | None:
    """Where the command is; None if there is none."""
    return shutil.which("ffmpeg")


def ffmpeg_version(command: str) -> str:
    """Its version, as it prints it."""
    found = subprocess.run([command, "-version"], capture_output=True, text=True, check=True)
    return found.stdout.split(" ", 3)[2]


def ffmpeg_start(command: str) -> float:
    """CPU seconds that the command takes to do nothing."""
    return min(_child([command, "-version"])[0] for _ in range(5))


def decode_with_ffmpeg(command: str, work: Work, flags: str, start_seconds: float) -> Cost:
    """``ffmpeg -threads 1`` to raw rgb24, thrown away; one process a clip.

    Args:
        flags: of swscale, beside the kernel.
        start_seconds: CPU seconds of its start, which are not counted.
    """
    frames, cpu, wall, peaks = 0, 0.0, 0.0, [0]
    for span in work.spans:
        seconds, elapsed, peak, printed = _child(_ffmpeg_arguments(command, work, span, flags))
        frames += int(printed.rpartition("frame=")[2].split()[0])
        cpu += seconds - start_seconds
        wall += elapsed
        peaks.append(peak or 0)
    return Cost(frames, cpu, wall, max(peaks) or None)


def _ffmpeg_arguments(command: str, work: Work, span: Span, flags: str) -> list[str]:
    start, end = span
    window = [] if start is None else ["-ss", f"{start:g}"]
    window += [] if end is None else ["-t", f"{end - (start or 0.0):g}"]
    geometry = work.geometry
    bucket = geometry.bucket
    width, height = geometry.scaled_width, geometry.scaled_height
    # round=up: an output frame shows the last source frame at or before its time.
    steps = [] if work.fps is None else [f"fps=fps={work.fps}:round=up"]
    steps += [f"scale={width}:{height}:flags={work.filter}{flags}", "format=rgb24"]
    if (min(width, bucket.width), min(height, bucket.height)) != (width, height):
        left, top = geometry.crop_left, geometry.crop_top
        steps.append(f"crop={min(width, bucket.width)}:{min(height, bucket.height)}:{left}:{top}")
    if width < bucket.width or height < bucket.height:
        steps.append(f"pad={bucket.width}:{bucket.height}:{geometry.pad_left}:{geometry.pad_top}")
    return [
        *(command, "-nostdin", "-v", "error", "-nostats", "-progress", "pipe:1"),
        *("-threads", "1", *window, "-i", work.path, "-map", "0:V:0"),
        *("-filter_threads", "1", "-vf", ",".join(steps), "-fps_mode", "passthrough"),
        *("-f", "rawvideo", "-y", os.devnull),
    ]


def _child(arguments: list[str]) -> tuple[float, float, int | None, str]:
    """Run a command: CPU seconds, wall seconds, highest resident memory, and what it printed."""
    peak = None
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        begun = time.monotonic()
        process = subprocess.Popen(arguments, stdout=output, stderr=errors)
        while True:
            found, status, usage = os.wait4(process.pid, os.WNOHANG)
            if found:
                break
            peak = resident_bytes(process.pid) or peak
            time.sleep(_POLL_S)
        wall = time.monotonic() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            raise UserError(f"{' '.join(arguments)} failed: {errors.read().strip()[-500:]}")
        output.seek(0)
        return usage.ru_utime + usage.ru_stime, wall, peak, output.read()


def decode_with_pyav(work: Work) -> int:
    """PyAV as one would write it down: decode, reformat, to_ndarray."""
    width, height = work.geometry.scaled_width, work.geometry.scaled_height
    if work.facts.rotation % 180:
        width, height = height, width
    frames = 0
    for frame, shows in _pyav_frames(work):
        if shows:
            frame.reformat(
                width=width,
                height=height,
                format="rgb24",
                interpolation=KERNELS[work.filter],
                threads=1,
            ).to_ndarray()
        frames += shows
    return frames


def decode_alone(work: Work) -> int:
    """The same without any conversion: what the codec takes."""
    return sum(shows for _, shows in _pyav_frames(work))


def _pyav_frames(work: Work) -> Iterator[tuple[av.VideoFrame, int]]:
    """Decoded frames of the clips, and how many output frames show each."""
    base, origin = work.facts.time_base, work.facts.origin
    for start, end in work.spans:
        with av.open(work.path) as container:
            stream = container.streams.video[0]
            stream.thread_type = "NONE"
            stream.codec_context.thread_count = 1
            if start is not None:
                container.seek(origin + int(start / base), stream=stream)
            begin = Fraction(start or 0.0)
            shown = 0
            for frame in container.decode(stream):
                seconds = ((frame.pts or 0) - origin) * base
                if seconds < begin:
                    continue
                if end is not None and seconds >= end:
                    break
                count = 1 if work.fps is None else int((seconds - begin) * work.fps) + 1 - shown
                shown += count
                yield frame, count


def torchcodec_missing() -> str | None:
    """Why torchcodec cannot be measured; None if it can."""
    try:
        import torchcodec.decoders
        import torchcodec.transforms  # noqa: F401
    except ImportError as error:
        return f"it is not installed ({error})"
    except (OSError, RuntimeError) as error:
        return f"it does not load ({str(error).strip().splitlines()[0]})"
    return None


def decode_with_torchcodec(work: Work) -> int:
    """torchcodec, resizing in its decoder (it knows but one kernel), 17 frames at a time."""
    import torch
    from torchcodec.decoders import VideoDecoder
    from torchcodec.transforms import Resize

    torch.set_num_threads(1)
    size = (work.geometry.scaled_height, work.geometry.scaled_width)
    frames = 0
    for start, end in work.spans:
        decoder: Any = VideoDecoder(
            work.path,
            dimension_order="NHWC",
            num_ffmpeg_threads=1,
            seek_mode="approximate",
            transforms=[Resize(size)],
        )
        rate = float(work.fps or decoder.metadata.average_fps)
        first = decoder.metadata.begin_stream_seconds
        stop = decoder.metadata.end_stream_seconds - first
        begin, stop = start or 0.0, stop if end is None else min(end, stop)
        count = round((stop - begin) * rate)
        for window in range(0, count, WINDOW_FRAMES):
            indices = range(window, min(window + WINDOW_FRAMES, count))
            times = [first + begin + (index + 0.01) / rate for index in indices]
            frames += len(decoder.get_frames_played_at(times).data)
    return frames
