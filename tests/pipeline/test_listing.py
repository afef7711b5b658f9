import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from helpers import LOCAL
from listing_cases import complaint, listing, rows, write

from pipeline.errors import UserError
from pipeline.reading import stat_source

# ---- directories


def test_a_directory_lists_videos_and_images_with_versions(tmp_path):
    for name in ("b.MP4", "a/c.mkv", "a/d.jpeg", "notes.md", "list.csv", "a/e.txt"):
        write(tmp_path / name, name)
    found = listing(tmp_path)
    assert found.from_store
    assert found.table.column_names == ["video", "version"]
    expected = sorted(str(tmp_path / name) for name in ("b.MP4", "a/c.mkv", "a/d.jpeg"))
    assert found.table["video"].to_pylist() == expected
    for row in found.table.to_pylist():  # a read checks this version: both must be made alike
        assert row["version"] == stat_source(row["video"], LOCAL)[0]


def test_sidecar_files_are_captions(tmp_path):
    for name in ("a.mp4", "b.mp4", "c.d.webm", "odd [1].mp4", "odd*.mp4"):
        write(tmp_path / name, "x")
    write(tmp_path / "a.txt", "  ein Hündchen\n")
    write(tmp_path / "c.d.txt", "007")
    write(tmp_path / "odd [1].txt", "brackets")
    write(tmp_path / "odd*.txt", "a star")
    captions = {row["video"].rsplit("/", 1)[1]: row["caption"] for row in rows(tmp_path)}
    assert captions == {
        "a.mp4": "ein Hündchen",
        "b.mp4": None,
        "c.d.webm": "007",
        "odd [1].mp4": "brackets",
        "odd*.mp4": "a star",
    }


def test_one_sidecar_is_enough(tmp_path):
    write(tmp_path / "a.mp4", "x")
    write(tmp_path / "a.txt", "one")
    assert [row["caption"] for row in rows(tmp_path)] == ["one"]


def test_a_sidecar_that_is_not_text_is_named(tmp_path):
    write(tmp_path / "a.mp4", "x")
    write(tmp_path / "a.txt", b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"a\.txt is not UTF-8"):
        listing(tmp_path)


def test_a_prefix_of_another_filesystem(tmp_path):
    filesystem = fsspec.filesystem("memory")
    folder = f"memory://{tmp_path.name}-listing"
    try:
        filesystem.pipe_file(f"{folder}/x/a.mp4", b"video")
        filesystem.pipe_file(f"{folder}/x/a.txt", b"seen")
        found = listing(folder)
        assert found.from_store
        [row] = found.table.to_pylist()
        assert row["video"].startswith("memory://")
        assert row["caption"] == "seen"
        assert row["version"] == stat_source(row["video"], LOCAL)[0]
    finally:
        filesystem.rm(folder, recursive=True)


def test_directories_that_hold_nothing(tmp_path):
    assert "holds no videos" in complaint(tmp_path)
    write(tmp_path / "a.txt", "only text")
    assert "holds no videos" in complaint(tmp_path)
    for name in ("none", "none/*.mp4", "none/**"):
        assert "there is nothing; name a directory" in complaint(tmp_path / name)


_AS_NOBODY = """
import os, sys
from pipeline.config import DatasetConfig, StorageConfig
from pipeline.errors import UserError
from pipeline.listing import read_listing
read_listing(DatasetConfig(uri=sys.argv[1]), StorageConfig(), set())  # imports all it needs
os.setegid(65534)
os.seteuid(65534)
for uri in sys.argv[1:]:
    try:
        found = read_listing(DatasetConfig(uri=uri), StorageConfig(), set()).table
        print(*(video.rsplit("/", 1)[-1] for video in found["video"].to_pylist()))
    except UserError as error:
        print(error)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user takes root")
def test_a_folder_that_cannot_be_read_is_named():
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are of their user alone
        root = Path(name)
        root.chmod(0o755)
        for path in ("a/x.mp4", "open/b/y.mp4", "open/secret/z.mp4"):
            write(root / path, "x")
        (root / "open/secret").chmod(0o700)
        uris = ["", "/open/*/*.mp4", "/open/**", "/open/s*/*.mp4", "/a/*.mp4", "/open/[ab]/*.mp4"]
        uris = [name + uri for uri in uris]
        done = subprocess.run(
            [sys.executable, "-c", _AS_NOBODY, *uris], capture_output=True, text=True, check=True
        )
    told = done.stdout.splitlines()
    for uri, line in zip(uris[:4], told, strict=False):
        assert line.startswith(f"dataset.uri {uri}: {name}/open/secret cannot be read: Permission")
    assert told[4:] == ["x.mp4", "y.mp4"]  # nothing there can match


def test_a_file_that_is_no_known_list(tmp_path):
    write(tmp_path / "list.tsv", "video\na.mp4\n")
    text = complaint(tmp_path / "list.tsv")
    assert ".csv, .jsonl, .ndjson, .parquet" in text
    assert "dataset.format" in text


# ---- CSV


def test_csv_keeps_text_as_text(tmp_path):
    path = write(
        tmp_path / "l.csv",
        "id,video,caption,version,score,note\n"
        '007,1.mp4,12,1e5,0.5,"a, b"\n'
        'NA,2.mp4,null,"3",2,NA\n'
        ',3.mp4,"two\nlines",,,\n',
    )
    assert rows(path) == [
        {
            "id": "007",
            "video": "1.mp4",
            "caption": "12",
            "version": "1e5",
            "score": 0.5,
            "note": "a, b",
        },
        {
            "id": "NA",
            "video": "2.mp4",
            "caption": "null",
            "version": "3",
            "score": 2,
            "note": "NA",
        },
        {
            "id": None,
            "video": "3.mp4",
            "caption": "two\nlines",
            "version": None,
            "score": None,
            "note": None,
        },
    ]


def test_csv_with_everything_quoted_has_gaps_too(tmp_path):
    path = write(
        tmp_path / "l.csv", '"video","id","start"\r\n"a.mp4","","1.5"\r\n"b.mp4","x",""\r\n'
    )
    found = listing(path).table
    assert found["id"].to_pylist() == [None, "x"]
    assert found["start"].cast(pa.float64()).to_pylist() == [1.5, None]


def test_csv_of_spreadsheets(tmp_path):
    path = write(tmp_path / "l.csv", b"\xef\xbb\xbfvideo,caption\r\na.mp4,caf\xc3\xa9\r\n")
    assert rows(path) == [{"video": "a.mp4", "caption": "café"}]


@pytest.mark.parametrize("text", ["", "video,caption\na.mp4\n", b"video\n\xff\xfe\n"])
def test_a_csv_that_cannot_be_read(tmp_path, text):
    assert "not a CSV" in complaint(write(tmp_path / "l.csv", text))


def test_a_csv_of_a_header_alone_is_empty(tmp_path):
    assert "holds no videos" in complaint(write(tmp_path / "l.csv", "video,caption\n"))


# ---- JSONL


def test_jsonl(tmp_path):
    lines = [{"video": "a.mp4", "id": 7, "tags": ["x"]}, {"video": "b.mp4", "extra": 1.5}]
    text = "\n\n".join(json.dumps(line) for line in lines)
    for name in ("l.jsonl", "l.ndjson", "L.JSONL"):
        found = rows(write(tmp_path / name, text))
        assert [row["video"] for row in found] == ["a.mp4", "b.mp4"]
        assert [row["tags"] for row in found] == [["x"], None]
        assert [row["extra"] for row in found] == [None, 1.5]


def test_a_line_separator_inside_a_value_does_not_end_a_line(tmp_path):
    text = json.dumps({"video": "a.mp4", "caption": "one\u2028two\x85"}, ensure_ascii=False)
    assert rows(write(tmp_path / "l.jsonl", text))[0]["caption"] == "one\u2028two\x85"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"video": "a"}\n{"video": \n', "line 2 is not JSON"),
        ('{"video": "a"}\n\n["b"]\n', "line 3 is not a JSON object"),
        (b'{"video": "\xff"}', "line 1 is not JSON"),
        ('{"id": "a"}\n{"id": 3}', "column 'id' mixes types"),
        ('{"n": 1}\n{"n": 1e400}\n{"n": 123456789012345678901234567890}', "column 'n'"),
        ("", "holds no videos"),
        ("\n\n", "holds no videos"),
    ],
)
def test_a_jsonl_that_cannot_be_read(tmp_path, text, message):
    assert message in complaint(write(tmp_path / "l.jsonl", text))


# ---- Parquet, and all


def test_parquet(tmp_path):
    table = pa.table({"video": ["a.mp4", "b.mp4"], "caption": ["x", None], "n": [1, 2]})
    pq.write_table(table, tmp_path / "l.parquet")
    found = listing(tmp_path / "l.parquet")
    assert found.table.equals(table)
    assert not found.from_store


def test_a_parquet_that_cannot_be_read(tmp_path):
    assert "not a Parquet file" in complaint(write(tmp_path / "l.parquet", "video\na.mp4\n"))
    pq.write_table(pa.table({"video": pa.array([], pa.string())}), tmp_path / "m.parquet")
    assert "holds no videos" in complaint(tmp_path / "m.parquet")
    data = (tmp_path / "m.parquet").read_bytes()
    for end in (10, len(data) // 2, len(data) - 9):
        broken = data[:end] + data[-8:]  # the footer's length and the magic number still stand
        assert "dataset.uri" in complaint(write(tmp_path / "n.parquet", broken))


def test_the_format_may_be_set(tmp_path):
    path = write(tmp_path / "list.tsv", "video\na.mp4\n")
    assert rows(path, format="csv") == [{"video": "a.mp4"}]


@pytest.mark.parametrize("name", ["none.csv", "none.jsonl", "none.parquet", "a.mp4/x.csv"])
def test_a_list_that_is_not_there(tmp_path, name):
    write(tmp_path / "a.mp4", "x")
    assert "there is nothing" in complaint(tmp_path / name)


def test_a_directory_taken_for_a_list(tmp_path):
    text = complaint(tmp_path, format="csv")
    assert "is a directory" in text
    assert "dataset.format is csv" in text


class _Unreachable(MemoryFileSystem):
    protocol = "unreachable"
    cachable = False

    def find(self, path, **_):
        raise RuntimeError("no route to host")

    def cat_file(self, path, **_):
        raise RuntimeError("no route to host")


@pytest.mark.parametrize("uri", ["unreachable://a/videos", "unreachable://a/list.csv"])
def test_a_store_that_does_not_answer(uri):
    fsspec.register_implementation("unreachable", _Unreachable, clobber=True)
    assert "cannot be read: RuntimeError: no route to host" in complaint(uri)
