"""Reading sources: one version of the bytes or none, and the source's reason for each failure."""

import hashlib
import io
import os
import pickle
from pathlib import Path

import fsspec
import pytest
from s3fs.utils import FileExpired

from pipeline import reading
from pipeline.config import StorageConfig
from pipeline.errors import Reason, SourceError, UserError
from pipeline.reading import (
    BLOCKS,
    Source,
    fetch_file,
    file_remedy,
    open_source,
    source_error,
    stat_source,
)
from pipeline.retry import Retry
from pipeline.storage import version_of

LOCAL = StorageConfig(retry_seconds=0)
DATA = b"bytes of a video" * 64


def reason_of(call):
    with pytest.raises(SourceError) as met:
        call()
    return met.value.reason


# ---- local files


def test_a_local_file(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(DATA)
    version, size = stat_source(str(path), LOCAL)
    assert size == len(DATA)
    with open_source(str(path), version, LOCAL) as source:
        assert source.read() == DATA
        assert source.seek(-4, io.SEEK_END) == len(DATA) - 4 == source.tell()
        assert source.read(9) == DATA[-4:]
        assert source.read(9) == b""
        source.verify()


def test_a_local_file_of_another_version_is_not_read(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(DATA)
    version, _ = stat_source(str(path), LOCAL)
    path.write_bytes(DATA + b"more")

    def read():
        with open_source(str(path), version, LOCAL):
            pytest.fail("opened")

    assert reason_of(read) is Reason.SOURCE_CHANGED
    with open_source(str(path), None, LOCAL) as source:  # the dataset's own version is no promise
        assert source.read() == DATA + b"more"


@pytest.mark.parametrize("what", ["pipe", "device", "folder"])
def test_what_is_no_regular_file_is_not_read(tmp_path, what):
    """A named pipe would keep the run waiting for a writer, and a device has no end."""
    path = tmp_path / "a.mp4"
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    else:
        path = Path("/dev/zero")

    def read():
        with open_source(str(path), None, LOCAL):
            pytest.fail("opened")

    assert reason_of(read) is Reason.MISSING


def test_a_file_that_cannot_seek_is_unreadable():
    """An HTTP server that tells no length gives one."""

    class Stream(io.BytesIO):
        def seek(self, offset, whence=0):
            raise ValueError("Cannot seek streaming HTTP file")

    source = Source("http://host/a.mp4", Stream(DATA), Retry(0), lambda: "1")
    assert reason_of(lambda: source.seek(0, io.SEEK_END)) is Reason.UNREADABLE


@pytest.mark.parametrize("how", ["longer", "shorter", "touched"])
def test_a_local_file_changed_in_place_while_it_is_read(tmp_path, how):
    path = tmp_path / "a.mp4"
    path.write_bytes(DATA)
    with open_source(str(path), stat_source(str(path), LOCAL)[0], LOCAL) as source:
        assert source.read(10) == DATA[:10]
        if how == "touched":
            os.utime(path, (1, 1))
        else:
            with path.open("r+b") as file:
                file.truncate(len(DATA) + (1 if how == "longer" else -1))
        assert reason_of(lambda: source.read(10)) is Reason.SOURCE_CHANGED
        assert reason_of(source.verify) is Reason.SOURCE_CHANGED


def test_a_local_file_replaced_by_another_is_read_to_its_own_end(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(DATA)
    with open_source(str(path), None, LOCAL) as source:
        assert source.read(10) == DATA[:10]
        (tmp_path / "b.mp4").write_bytes(b"other")
        (tmp_path / "b.mp4").replace(path)
        assert source.read() == DATA[10:]


@pytest.mark.parametrize(
    ("name", "reason"),
    [("gone.mp4", Reason.MISSING), (".", Reason.MISSING), ("empty.mp4", Reason.EMPTY_FILE)],
)
def test_local_files_that_are_none(tmp_path, name, reason):
    (tmp_path / "empty.mp4").touch()
    path = str(tmp_path / name)

    def read():
        with open_source(path, None, LOCAL):
            pytest.fail("opened")

    assert reason_of(read) is reason
    if reason is Reason.MISSING:
        assert reason_of(lambda: stat_source(path, LOCAL)) is reason


# ---- other schemes


@pytest.fixture
def memory(tmp_path):
    files = fsspec.filesystem("memory")
    folder = f"/{tmp_path.name}"
    files.pipe_file(f"{folder}/a.mp4", DATA)
    yield files, f"memory://{folder}/a.mp4"
    files.rm(folder, recursive=True)


def test_another_scheme_is_asked_whether_it_changed(memory):
    files, uri = memory
    version, size = stat_source(uri, LOCAL)
    assert size == len(DATA)
    with open_source(uri, version, LOCAL) as source:
        assert source.read() == DATA
        source.verify()
        files.pipe_file(uri, DATA + b"more")
        assert reason_of(source.verify) is Reason.SOURCE_CHANGED


def test_another_version_in_another_scheme(memory):
    _, uri = memory

    def read():
        with open_source(uri, "12-never", LOCAL):
            pytest.fail("opened")

    assert reason_of(read) is Reason.SOURCE_CHANGED


def test_a_missing_file_of_another_scheme():
    uri = "memory://nowhere/at/all.mp4"
    assert reason_of(lambda: stat_source(uri, LOCAL)) is Reason.MISSING
    assert reason_of(lambda: open_source(uri, None, LOCAL).__enter__()) is Reason.MISSING


@pytest.mark.parametrize(
    ("info", "version"),
    [
        ({"ETag": '"abc"', "size": 3}, "abc"),
        ({"etag": "abc"}, "abc"),
        ({"md5Hash": "abc="}, "abc="),
        ({"size": 3, "mtime": 1.5}, "3-1.5"),
        ({"size": 3, "last_modified": "now"}, "3-now"),
        ({"size": 3}, "3-"),
    ],
)
def test_what_tells_a_version(info, version):
    assert version_of(info) == version


# ---- S3, with readings as they come


class Remote(io.BytesIO):
    """An open object of s3fs: each reading of a range gives what stands next in ``readings``."""

    def __init__(self, etag, readings, size=None):
        super().__init__()
        self.details = {"ETag": f'"{etag}"'}
        self.size = len(DATA) if size is None else size
        self.readings = list(readings)
        self.fetched = []

    def _fetch_range(self, start, end):
        self.fetched.append((start, end))
        found = self.readings.pop(0)
        if isinstance(found, Exception):
            raise found
        return found


class Files:
    def __init__(self, remote):
        self.remote = remote
        self.opened = []

    def open(self, path, mode, **options):
        self.opened.append((path, mode, options))
        return self.remote


def read_s3(monkeypatch, remote, version, purpose="decode", storage=LOCAL):
    files = Files(remote)
    monkeypatch.setattr(reading, "open_filesystem", lambda uri, storage: (files, "b/a.mp4"))
    monkeypatch.setattr(reading, "Retry", lambda seconds: Retry(seconds, sleep=lambda _: None))
    with open_source("s3://b/a.mp4", version, storage, purpose) as source:
        return source.read(), files


MD5 = hashlib.md5(DATA).hexdigest()
BAD = b"x" + DATA[1:]
WORSE = b"y" + DATA[1:]


@pytest.mark.parametrize(
    ("etag", "readings", "left"),
    [
        (MD5, [DATA, BAD], 1),
        (MD5, [BAD, DATA, BAD], 1),
        (MD5, [BAD, WORSE, DATA, BAD], 1),
        ("f" * 32, [DATA, DATA, BAD], 1),  # the ETag of an object encrypted with a key of KMS
        (f"{MD5}-2", [DATA, DATA, BAD], 1),
        ("f" * 32, [BAD, DATA, DATA, BAD], 1),
    ],
)
def test_a_small_object_is_read_until_its_bytes_are_believed(monkeypatch, etag, readings, left):
    remote = Remote(etag, readings)
    data, files = read_s3(monkeypatch, remote, etag)
    assert data == DATA
    assert len(remote.readings) == left
    assert set(remote.fetched) == {(0, len(DATA))}
    assert len(files.opened) == 1


def test_three_different_readings_are_unreadable(monkeypatch):
    remote = Remote(MD5, [BAD, WORSE, b"z" + DATA[1:], DATA])
    assert reason_of(lambda: read_s3(monkeypatch, remote, MD5)) is Reason.UNREADABLE


@pytest.mark.parametrize("before", [[], [BAD]])
def test_a_small_object_replaced_between_its_readings(monkeypatch, before):
    remote = Remote(MD5, [*before, FileExpired("b/a.mp4", MD5), DATA])
    assert reason_of(lambda: read_s3(monkeypatch, remote, MD5)) is Reason.SOURCE_CHANGED
    assert remote.readings == [DATA]  # no further attempt


def test_a_reading_that_fails_is_repeated_within_the_budget(monkeypatch):
    remote = Remote(MD5, [TimeoutError(), ConnectionResetError(), DATA])
    data, _ = read_s3(monkeypatch, remote, MD5, storage=StorageConfig(retry_seconds=60))
    assert data == DATA
    remote = Remote(MD5, [TimeoutError(), DATA])
    assert reason_of(lambda: read_s3(monkeypatch, remote, MD5)) is Reason.UNREADABLE


@pytest.mark.parametrize("purpose", ["probe", "decode"])
def test_a_large_object_is_read_in_blocks(monkeypatch, purpose):
    remote = Remote("e", [], size=BLOCKS["decode"][0] + 1)
    remote.write(DATA)
    remote.seek(0)
    data, files = read_s3(monkeypatch, remote, "e", purpose)
    assert data == DATA
    block, count = BLOCKS[purpose]
    options = files.opened[0][2]
    assert options["block_size"] == block
    assert (options["cache_type"], options["cache_options"]["maxblocks"]) == ("blockcache", count)
    assert remote.fetched == []


def test_an_object_of_another_version_is_not_read(monkeypatch):
    remote = Remote("e", [], size=BLOCKS["decode"][0] + 1)
    assert reason_of(lambda: read_s3(monkeypatch, remote, "d")) is Reason.SOURCE_CHANGED


# ---- reasons


class Breaking(io.BytesIO):
    def __init__(self, error):
        super().__init__(DATA)
        self.error = error

    def read(self, count=-1):
        raise self.error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (FileNotFoundError("x"), Reason.MISSING),
        (IsADirectoryError("x"), Reason.MISSING),
        (FileExpired("x", "e"), Reason.SOURCE_CHANGED),
        (PermissionError("x"), Reason.UNREADABLE),
        (TimeoutError("x"), Reason.UNREADABLE),
        (ValueError("x"), Reason.UNREADABLE),
        (SourceError(Reason.TOO_LARGE, "x"), Reason.TOO_LARGE),
    ],
)
def test_reasons_of_errors(error, reason):
    assert source_error("s3://b/a.mp4", error).reason is reason
    source = Source("s3://b/a.mp4", Breaking(error), Retry(0), lambda: "v")
    with pytest.raises(SourceError) as met:
        source.read(4)
    assert met.value.reason is reason
    assert pickle.loads(pickle.dumps(met.value)).reason is reason


# ---- files of the job itself


def test_fetching_keeps_versions_apart(tmp_path, memory):
    files, uri = memory
    first = fetch_file(uri, LOCAL, tmp_path / "kept")
    assert first.read_bytes() == DATA
    assert fetch_file(uri, LOCAL, tmp_path / "kept") == first
    files.pipe_file(uri, b"other")
    second = fetch_file(uri, LOCAL, tmp_path / "kept")
    assert second.read_bytes() == b"other"
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {first.name, second.name}


def test_fetching_what_is_not_there(tmp_path):
    with pytest.raises(UserError, match="name a readable file"):
        fetch_file("memory://nowhere/w.safetensors", LOCAL, tmp_path)
    with pytest.raises(UserError, match="there is no such file"):
        fetch_file(str(tmp_path / "w.safetensors"), LOCAL, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_a_store_refuses_wants_other_advice():
    assert file_remedy(SourceError(Reason.MISSING, "gone")) == "name a readable file"
    assert "credentials" in file_remedy(SourceError(Reason.UNREADABLE, "NoCredentialsError"))
