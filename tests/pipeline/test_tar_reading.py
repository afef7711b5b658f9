"""Members of tar files are read by range; what a tar file holds is kept between runs."""

import io

import fsspec
import pytest
from helpers import LOCAL, make_store
from tar_cases import MEMBERS, listing, samples
from tar_files import make_tar

from pipeline.errors import Reason, SourceError, UserError
from pipeline.reading import open_source
from pipeline.spans import find_place, member_uri
from pipeline.tars import Shelf


def test_a_member_is_read_by_range_and_pinned(tar):
    path = tar([("0.mp4", b"0" * 5000), ("1.mp4", b"1" * 3000)])
    rows = samples(listing(path))
    uri = member_uri("1.mp4", str(path))
    version = rows["1.mp4"]["version"]
    with open_source(uri, version, LOCAL) as file:
        assert file.seek(-10, io.SEEK_END) == 2990
        assert file.read() == b"1" * 10
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(SourceError) as caught, open_source(uri, version, LOCAL):
        pass
    assert caught.value.reason is Reason.SOURCE_CHANGED


def test_an_empty_member(tar):
    path = tar([("0.mp4", b""), ("1.mp4", b"x")])
    rows = samples(listing(path))
    uri = member_uri("0.mp4", str(path))
    with pytest.raises(SourceError) as caught, open_source(uri, rows["0.mp4"]["version"], LOCAL):
        pass
    assert caught.value.reason is Reason.EMPTY_FILE


def test_of_a_large_tar_file_only_headers_and_texts_are_read(ranged):
    big = [(f"{n}.mp4", bytes([n]) * 3_000_000) for n in range(6)]
    texts = [(f"{n}.txt", f"caption {n}") for n in range(6)]
    members = [m for pair in zip(big, texts, strict=True) for m in pair]
    data = make_tar(members)
    fsspec.filesystem("ranged").pipe_file("/d/a.tar", data)
    found = listing("ranged://d/a.tar")
    rows = samples(found)
    assert [rows[f"{n}.mp4"]["caption"] for n in range(6)] == [t for _, t in texts]
    assert sum(b - a for a, b in ranged.fetched) < 20_000
    ranged.fetched.clear()
    uri = found.table["video"][2].as_py()
    with open_source(uri, rows["2.mp4"]["version"], LOCAL) as file:
        assert file.read(100) == b"\x02" * 100
        file.seek(2_999_000)
        assert file.read() == b"\x02" * 1000
    first = find_place(uri, rows["2.mp4"]["version"]).offset
    assert ranged.fetched == [(first, first + 3_000_000)]  # one request, nothing of its neighbours


@pytest.mark.parametrize("scheme", ["memory", "local"])
def test_tar_files_elsewhere(tmp_path, scheme):
    filesystem = fsspec.filesystem("memory")
    base = f"memory://{tmp_path.name}-tars" if scheme == "memory" else str(tmp_path / "d")
    try:
        for name in ("a", "b"):
            with fsspec.open(f"{base}/{name}.tar", "wb", auto_mkdir=True) as file:
                file.write(make_tar([(f"{name}.mp4", name.encode())]))
        found = listing(f"{base}/*.tar")
        for uri, name in zip(found.table["video"].to_pylist(), "ab", strict=True):
            version = samples(found)[f"{name}.mp4"]["version"]
            with open_source(uri, version, LOCAL) as file:
                assert file.read() == name.encode()
                file.verify()
    finally:
        if scheme == "memory":
            filesystem.rm(base, recursive=True)


# ---- what is kept between runs


def test_what_a_tar_file_holds_is_read_once(tmp_path, tar, monkeypatch):
    path = tar(
        [*MEMBERS, ("0.json", {"n": [1, None], "x": "ü"}), ("bad.mp4", b"x"), ("bad.json", "{")]
    )
    store = make_store(tmp_path / "cache")
    first = listing(path, Shelf(store, writes=False))
    assert store.names("listings") == []
    assert samples(listing(path, Shelf(store, writes=True))) == samples(first)
    [name] = store.names("listings")
    opened = []
    real = open_source
    monkeypatch.setattr(
        "pipeline.tars.open_source", lambda *given: opened.append(given[0]) or real(*given)
    )
    assert listing(path, Shelf(store, writes=False)).table.equals(first.table)
    assert samples(listing(path, Shelf(store, writes=False))) == samples(first)
    assert opened == []
    for broken in (b"", b"{}", b"[1]", b'{"samples": [1], "note": null}'):
        store.write(f"listings/{name}", broken)
        assert samples(listing(path, Shelf(store, writes=True))) == samples(first)
    assert len(opened) == 4
    path.write_bytes(make_tar(MEMBERS[:1]))
    assert samples(listing(path, Shelf(store, writes=True))).keys() == {"0.mp4"}
    assert len(store.names("listings")) == 2


def test_a_cache_that_cannot_be_written(tmp_path, tar):
    path = tar(MEMBERS)
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(UserError, match=r"output\.uri .* cannot be written"):
        listing(path, Shelf(make_store(tmp_path / "cache"), writes=True))


def test_a_tar_file_that_changes_while_it_is_listed(tar, monkeypatch):
    path = tar(MEMBERS)
    monkeypatch.setattr("pipeline.listing._version", lambda *_: "another")
    with pytest.raises(UserError, match="source_changed"):
        listing(path)
