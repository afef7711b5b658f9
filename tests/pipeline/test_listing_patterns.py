"""Patterns, and stores that answer slowly: which files are listed, and what is asked for them."""

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from helpers import LOCAL, make_store
from listing_cases import TEXT, complaint, listing, rows, write

from pipeline.config import DatasetConfig, StorageConfig
from pipeline.listing import read_listing
from pipeline.reading import stat_source
from pipeline.tars import Shelf

FILES = ("a.mp4", "a.txt", "b.webm", "x/a.mp4", "x/y/a.mp4", "x/y/b.png", "x1/c.mp4", "notes.md")


@pytest.fixture(params=["local", "memory"])
def tree(request, tmp_path):
    """The URI of a folder with ``FILES``."""
    base = str(tmp_path / "d") if request.param == "local" else f"memory://{tmp_path.name}-glob"
    for name in FILES:
        with fsspec.open(f"{base}/{name}", "wb", auto_mkdir=True) as file:
            file.write(name.encode())
    yield base
    if request.param == "memory":
        fsspec.filesystem("memory").rm(base, recursive=True)


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("*.mp4", ["a.mp4"]),
        ("?.*", ["a.mp4", "b.webm"]),
        ("*", ["a.mp4", "b.webm"]),
        ("x*/*.mp4", ["x/a.mp4", "x1/c.mp4"]),
        ("x[0-9]/*", ["x1/c.mp4"]),
        ("**/*.mp4", ["a.mp4", "x/a.mp4", "x/y/a.mp4", "x1/c.mp4"]),
        ("x/**", ["x/a.mp4", "x/y/a.mp4", "x/y/b.png"]),
    ],
)
def test_a_pattern_takes_the_files_that_match(tree, pattern, wanted):
    found = listing(f"{tree}/{pattern}")
    assert found.from_store
    got = found.table.to_pylist()
    assert [row["video"].split(tree.rsplit("/", 1)[1] + "/")[1] for row in got] == wanted
    for row in got:
        assert row["version"] == stat_source(row["video"], LOCAL)[0]
    captions = [row.get("caption") for row in got]
    texts = pattern in ("?.*", "*")
    assert captions == ["a.txt" if texts and name == "a.mp4" else None for name in wanted]


def test_patterns_that_match_nothing(tree):
    assert "holds no videos" in complaint(f"{tree}/*.mkv")
    assert "no videos or images, but 1 other files" in complaint(f"{tree}/*.md")
    assert "no pattern" in complaint(f"{tree}/a**/x")


def test_a_name_that_looks_like_a_pattern(tmp_path):
    write(tmp_path / "clips [1]" / "a.mp4", "x")
    write(tmp_path / "list*.csv", "video\na.mp4\n")
    assert len(rows(tmp_path / "clips [1]")) == 1
    assert rows(tmp_path / "list*.csv") == [{"video": "a.mp4"}]


class _Tired(MemoryFileSystem):
    """A store that fails now and then."""

    protocol = "tired"
    cachable = False
    calls = 0

    @classmethod
    def _strip_protocol(cls, path):
        return MemoryFileSystem._strip_protocol(path.replace("tired://", "memory://"))

    def _tire(self):
        _Tired.calls += 1
        if _Tired.calls % 2:
            raise ConnectionResetError("reset by peer")

    def find(self, path, **settings):
        self._tire()
        return super().find(path, **settings)

    def cat_file(self, path, **settings):
        self._tire()
        return super().cat_file(path, **settings)


def test_listing_and_captions_are_asked_for_with_patience(tmp_path):
    fsspec.register_implementation("tired", _Tired, clobber=True)
    memory, folder = fsspec.filesystem("memory"), f"/{tmp_path.name}-tired"
    try:
        for name in ("a.mp4", "a.txt", "b.mp4", "b.txt"):
            memory.pipe_file(f"{folder}/{name}", name.encode())
        found = read_listing(
            DatasetConfig(uri=f"tired:/{folder}"), StorageConfig(retry_seconds=20), TEXT
        )
    finally:
        memory.rm(folder, recursive=True)
    assert found.table["caption"].to_pylist() == ["a.txt", "b.txt"]
    assert _Tired.calls > 3


def test_captions_of_a_remote_store_are_read_once(tmp_path, monkeypatch):
    memory, folder = fsspec.filesystem("memory"), f"/{tmp_path.name}-captions"
    shelf = Shelf(make_store(tmp_path / "cache"), writes=True)
    read = []

    def captions(kept):
        read.clear()
        found = read_listing(DatasetConfig(uri=f"memory:/{folder}"), LOCAL, TEXT, kept).table
        return dict(zip("abc", found["caption"].to_pylist(), strict=True)), sorted(read)

    real = MemoryFileSystem.cat_file
    monkeypatch.setattr(
        MemoryFileSystem,
        "cat_file",
        lambda self, path, **more: read.append(path[-5]) or real(self, path, **more),
    )
    monkeypatch.setattr("pipeline.objects.version_of", lambda info: f"v{info['size']}")
    try:
        for name in ("a.mp4", "b.mp4", "c.mp4", "a.txt", "b.txt", "unused.txt"):
            memory.pipe_file(f"{folder}/{name}", name.encode())
        texts = {"a": "a.txt", "b": "b.txt", "c": None}
        assert captions(Shelf(shelf.store, writes=False)) == (texts, ["a", "b"])
        assert captions(shelf) == (texts, ["a", "b"])
        assert captions(shelf) == (texts, [])
        memory.pipe_file(f"{folder}/b.txt", b"another")
        memory.pipe_file(f"{folder}/c.txt", b"")
        texts = {"a": "a.txt", "b": "another", "c": ""}
        assert captions(shelf) == (texts, ["b", "c"])
        assert captions(shelf) == (texts, [])
        memory.rm(f"{folder}/a.txt")
        assert captions(shelf) == ({**texts, "a": None}, [])
        [name] = shelf.store.names("listings")
        shelf.store.write(f"listings/{name}", b"damaged")
        assert captions(shelf) == ({**texts, "a": None}, ["b", "c"])
    finally:
        memory.rm(folder, recursive=True)
