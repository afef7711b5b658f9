"""Opening a file touches that file and nothing else."""

import io
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler

import pytest

from pipeline.errors import Reason, SourceError
from pipeline.video.files import GuardedFile, open_container, sniff
from pipeline.video.probe import probe
from tests.clips import PLAYLISTS
from tests.pipeline.video.decoding import LIMITS
from tests.pipeline.video.loopback import serving


@pytest.fixture
def visited() -> Iterator[tuple[str, list[str]]]:
    """Address of a local web server, and the paths that it was asked for."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            """Nothing on the console."""

    with serving(Handler) as place:
        yield f"http://{place}/bait.ts", paths


class Named(io.BytesIO):
    """A file with a tempting name."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self.name = name


@pytest.mark.parametrize("name", ["video.mp4", "list.m3u8", "list.ffconcat", "session.sdp"])
@pytest.mark.parametrize("kind", PLAYLISTS)
def test_texts_that_name_files_and_addresses_open_nothing(
    kind: str, name: str, visited, clip, monkeypatch
) -> None:
    address, paths = visited
    bait = clip("h264_open_ts")
    monkeypatch.chdir(bait.parent)
    for target in (address, str(bait), bait.name, f"file:{bait}", f"concat:{bait}"):
        content = PLAYLISTS[kind].replace(b"%s", target.encode())
        with pytest.raises(SourceError) as caught:
            probe(Named(content, name), LIMITS)
        assert caught.value.reason is Reason.UNSUPPORTED_CONTAINER
        # Even where the look at the first bytes was fooled, FFmpeg itself must refuse.
        with pytest.raises(SourceError):
            open_container(GuardedFile(Named(content, name)), LIMITS)
    assert paths == []


def test_no_socket_is_opened(monkeypatch) -> None:
    before = _sockets()
    with pytest.raises(SourceError):
        probe(io.BytesIO(PLAYLISTS["sdp"]), LIMITS)
    assert _sockets() == before


def _sockets() -> list[str]:
    """Local UDP ports in use that an RTP session would bind (5004 to 5005)."""
    taken = []
    for port in (5004, 5005):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe_socket:
            try:
                probe_socket.bind(("127.0.0.1", port))
            except OSError:
                taken.append(str(port))
    return taken


def test_ffmpeg_sees_no_name(clip) -> None:
    with clip("bikes").open("rb") as file:
        container = open_container(GuardedFile(file), LIMITS)
        assert container.name == "<none>"
        container.close()
        assert not file.closed


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("bikes", "mov"),
        ("fragmented", "mov"),
        ("prores", "mov"),
        ("vp9", "matroska"),
        ("hevc10", "matroska"),
        ("mpeg4_avi", "avi"),
        ("mpeg2_ts", "mpegts"),
        ("city", "mpeg"),
        ("png", "image"),
        ("jpeg", "image"),
        ("webp", "image"),
        ("text", "unknown"),
        ("noise", "unknown"),
    ],
)
def test_first_bytes_tell_the_kind(name: str, kind: str, clip) -> None:
    assert sniff(clip(name).read_bytes()[:4096]) == kind


def test_no_thread_is_left_and_one_decodes(clip) -> None:
    before = threading.active_count()
    with clip("vp9").open("rb") as file:
        probe(file, LIMITS)
    assert threading.active_count() == before
