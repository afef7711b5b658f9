"""Sources of any store, and files that are fetched: what they are, and why one cannot be read."""

import io
import types

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from helpers import LOCAL

from pipeline.errors import Reason, SourceError, UserError
from pipeline.reading import fetch_file, open_source, stat_source


def reason_of(uri, version=None, storage=LOCAL):
    with pytest.raises(SourceError) as caught, open_source(uri, version, storage):
        pass
    assert uri in caught.value.message
    return caught.value.reason


# ---- sources


def test_a_source_is_a_seekable_file(tmp_path, memory):
    (tmp_path / "a").write_bytes(b"0123456789")
    fsspec.filesystem("memory").pipe_file(f"{memory}/a", b"0123456789")
    for uri in (str(tmp_path / "a"), f"{memory}/a"):
        version, _ = stat_source(uri, LOCAL)
        with open_source(uri, version, LOCAL) as file:
            assert file.seek(6) == 6
            assert file.read(3) == b"678"


def test_a_source_that_changed_since_the_plan(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"one")
    version, _ = stat_source(str(path), LOCAL)
    path.write_bytes(b"other")
    assert reason_of(str(path), version) is Reason.SOURCE_CHANGED
    with open_source(str(path), None, LOCAL) as file:  # the dataset's own version: not checked
        assert file.read() == b"other"


def test_sources_that_cannot_be_read(tmp_path):
    (tmp_path / "empty").touch()
    assert reason_of(str(tmp_path / "empty")) is Reason.EMPTY_FILE
    assert reason_of(str(tmp_path / "none")) is Reason.MISSING
    assert reason_of(str(tmp_path)) is Reason.MISSING
    assert reason_of("quux://a/b") is Reason.UNREADABLE
    with pytest.raises(SourceError, match="is a directory"):
        stat_source(str(tmp_path), LOCAL)


def test_a_directory_in_the_way_is_missing_not_a_crash(tmp_path):
    (tmp_path / "a").write_bytes(b"x")
    assert reason_of(str(tmp_path / "a" / "b")) in (Reason.MISSING, Reason.UNREADABLE)


class _Refusing(MemoryFileSystem):
    """A store whose client library raises errors of its own kind, as botocore does."""

    protocol = "refusing"
    cachable = False

    def info(self, path, **_):
        raise RuntimeError("no credentials")

    def open(self, path, *_, **__):
        return io.BytesIO(b"x")


class _RefusingToOpen(_Refusing):
    protocol = "refusingtoopen"

    def info(self, path, **_):
        return {"name": path, "size": 1, "type": "file", "ETag": "e"}

    def open(self, path, *_, **__):
        raise RuntimeError("no credentials")


@pytest.mark.parametrize("kind", [_Refusing, _RefusingToOpen])
def test_an_unusual_exception_of_a_store_costs_one_source(kind):
    fsspec.register_implementation(kind.protocol, kind, clobber=True)
    uri = f"{kind.protocol}://a/b.mp4"
    with (
        pytest.raises(SourceError, match="RuntimeError: no credentials") as caught,
        open_source(uri, None, LOCAL),
    ):
        pass
    assert caught.value.reason is Reason.UNREADABLE


def test_an_exception_of_the_reader_is_not_the_sources(tmp_path):
    (tmp_path / "a").write_bytes(b"x")
    with pytest.raises(ZeroDivisionError), open_source(str(tmp_path / "a"), None, LOCAL):
        raise ZeroDivisionError


# ---- checkpoints


def test_a_local_file_is_used_where_it_lies(tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"x")
    assert fetch_file(str(path), LOCAL, tmp_path / "down") == path
    assert fetch_file(f"file://{path}", LOCAL, tmp_path / "down") == path
    assert not (tmp_path / "down").exists()
    with pytest.raises(UserError, match="no such file"):
        fetch_file(str(tmp_path / "none"), LOCAL, tmp_path / "down")


def test_a_remote_file_is_fetched_once_a_version(tmp_path, memory, monkeypatch):
    uri = f"{memory}/w.safetensors"
    filesystem = fsspec.filesystem("memory")
    filesystem.pipe_file(uri, b"first")
    fetched = []
    get_file = MemoryFileSystem.get_file
    counted = types.MethodType(
        lambda self, *given, **named: (fetched.append(1), get_file(self, *given, **named))[1],
        filesystem,
    )
    monkeypatch.setattr(filesystem, "get_file", counted)
    one = fetch_file(uri, LOCAL, tmp_path)
    assert one.suffix == ".safetensors"
    assert one.read_bytes() == b"first"
    assert fetch_file(uri, LOCAL, tmp_path) == one
    assert len(fetched) == 1
    filesystem.pipe_file(uri, b"another")
    two = fetch_file(uri, LOCAL, tmp_path)
    assert two.read_bytes() == b"another"
    assert one.read_bytes() == b"first"
    assert sorted(tmp_path.iterdir()) == sorted([one, two])
    with pytest.raises(UserError, match=r"does not exist; name a readable file"):
        fetch_file(f"{memory}/none", LOCAL, tmp_path)
