"""Files that name other files or addresses, in every way that a source is read: nothing follows."""

import io
import os
import socket
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import av
import pytest

from pipeline.errors import Reason, SourceError
from pipeline.isolated.calls import look_apart
from pipeline.reading import open_source
from pipeline.video.decode import ClipFailure, decode_clips
from pipeline.video.probe import probe
from tests.clips import PLAYLISTS
from tests.pipeline.helpers import LOCAL
from tests.pipeline.video.decoding import LIMITS, recipe, request
from tests.pipeline.video.loopback import serving
from tests.pipeline.video.patching import refer

ATTACKS = {
    **PLAYLISTS,
    "hls_key": b'#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXT-X-KEY:METHOD=AES-128,URI="%s"\n'
    b"#EXTINF:9,\n%s\n#EXT-X-ENDLIST\n",
    "hls_map": b'#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:9\n#EXT-X-MAP:URI="%s"\n'
    b"#EXTINF:9,\n%s\n#EXT-X-ENDLIST\n",
    "hls_master": b"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n%s\n",
    "dash": b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    b'mediaPresentationDuration="PT9S"><Period><AdaptationSet mimeType="video/mp4">'
    b'<Representation id="1" bandwidth="1"><BaseURL>%s</BaseURL><SegmentList duration="9">'
    b'<SegmentURL media="%s"/></SegmentList></Representation></AdaptationSet></Period></MPD>',
    "srt": b"1\n00:00:00,000 --> 00:00:09,000\n%s\n",
    "vtt": b"WEBVTT\n\n00:00.000 --> 00:09.000\n%s\n",
    "ass": b"[Script Info]\nScriptType: v4.00+\n[Events]\nDialogue: 0,0:00:00.00,0:00:09.00,,%s\n",
    "asx": b"<asx version='3.0'><entry><ref href='%s'/></entry></asx>",
    "pls": b"[playlist]\nFile1=%s\nNumberOfEntries=1\nVersion=2\n",
    "m3u": b"%s\n",
    "vpl": b"ffconcat version 1.0\nfile '%s'\noption protocol_whitelist file,http,tcp\n",
    "rtsp": b"RTSP/1.0 200 OK\r\nLocation: %s\r\n\r\n",
    "imf": b'<?xml version="1.0"?><CompositionPlaylist xmlns="http://www.smpte-ra.org/schemas/'
    b'2067-3/2016"><Id>%s</Id></CompositionPlaylist>',
}
NAMES = (
    *("video.mp4", "list.m3u8", "list.ffconcat", "session.sdp", "a.mpd", "frame%03d.png"),
    *("subtitles.srt", "playlist.pls"),
)


@pytest.fixture
def visited():
    """Address of a local server, and what it was asked: connections count, answered or not."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def handle(self) -> None:
            paths.append("connection")

    with serving(Handler) as place:
        yield place, paths


@pytest.fixture
def canary(clip, tmp_path):
    """A video beside the attack, and whether it was read."""
    path = tmp_path / "canary.ts"
    path.write_bytes(clip("h264_open_ts").read_bytes())

    def reset() -> None:
        found = path.stat()
        os.utime(path, ns=(1, found.st_mtime_ns))

    def was_read() -> bool:
        return path.stat().st_atime_ns != 1

    reset()
    path.read_bytes()
    if not was_read():
        pytest.skip("this file system does not note when files are read")
    reset()
    return path, was_read


def references(address: str, canary: Path) -> list[str]:
    return [
        f"http://{address}/a.ts",
        f"tcp://{address}",
        str(canary),
        canary.name,
        f"file:{canary}",
        f"file://{canary}",
        f"concat:{canary}",
        f"subfile,,start,0,end,100,,:{canary}",
        f"crypto+file:{canary}",
    ]


def refused(file) -> None:
    """Neither the probe nor the decoder takes it."""
    with pytest.raises(SourceError) as caught:
        probe(file, LIMITS)
    assert caught.value.reason is Reason.UNSUPPORTED_CONTAINER
    file.seek(0)
    [failure] = decode_clips(file, [request()], recipe(), LIMITS)
    assert isinstance(failure, ClipFailure)
    assert failure.reason is Reason.UNSUPPORTED_CONTAINER


@pytest.mark.parametrize("kind", ATTACKS)
def test_nothing_else_is_opened(kind, visited, canary, tmp_path, monkeypatch, s3, s3_prefix):
    address, connections = visited
    bait, was_read = canary
    monkeypatch.chdir(bait.parent)
    (tmp_path / "frame001.png").write_bytes(b"")
    remote = s3.filesystem()
    for number, reference in enumerate(references(address, bait)):
        content = ATTACKS[kind].replace(b"%s", reference.encode())
        name = NAMES[number % len(NAMES)]
        path = tmp_path / name
        path.write_bytes(content)
        with open_source(str(path), None, LOCAL) as file:
            refused(file)
        named = io.BytesIO(content)
        named.name = str(path)  # type: ignore[attr-defined]
        refused(named)
        remote.pipe_file(f"{s3_prefix}/{name}", content)
        with open_source(f"s3://{s3_prefix}/{name}", None, s3.storage) as file:
            refused(file)
        with path.open("rb") as file, pytest.raises(SourceError) as caught:
            look_apart(file, LIMITS)
        assert caught.value.reason is Reason.UNSUPPORTED_CONTAINER
    assert connections == []
    assert not was_read()


@pytest.mark.parametrize("kind", ["alis", "url "])
def test_media_in_another_file_are_not_looked_for(kind, visited, canary, clip, tmp_path):
    """An MP4's track may say that its media are elsewhere; FFmpeg follows aliases if it is let."""
    address, connections = visited
    bait, was_read = canary
    for reference in references(address, bait):
        data = bytearray(clip("h264_open").read_bytes())
        refer(kind.encode(), reference.encode())(data)
        path = tmp_path / "video.mp4"
        path.write_bytes(data)
        with open_source(str(path), None, LOCAL) as file:
            found = list(decode_clips(file, [request()], recipe(), LIMITS))
        if kind == "alis":
            [failure] = found
            assert isinstance(failure, ClipFailure)
    assert connections == []
    assert not was_read()
    if kind == "alis":  # the trap works
        refer(b"alis", str(bait).encode())(data := bytearray(clip("h264_open").read_bytes()))
        path.write_bytes(data)
        options = {"enable_drefs": "1", "use_absolute_path": "1"}
        with av.open(str(path), options=options) as followed:
            next(followed.demux())
        assert was_read()


def test_the_traps_work(visited, canary):
    """A reference that is followed would be seen."""
    address, connections = visited
    host, port = address.split(":")
    with socket.create_connection((host, int(port))) as sock:
        sock.recv(1)
    assert connections == ["connection"]
    path, was_read = canary
    path.read_bytes()
    assert was_read()
