import json
import math

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs
from helpers import LOCAL, make_config

from pipeline.catalog import read_catalog
from pipeline.errors import UserError
from pipeline.identity import source_id
from pipeline.reading import stat_source


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def listed(tmp_path):
    """Makes the catalog of rows, as JSONL in a folder with the files ``a.mp4`` and ``b.mp4``."""
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(name.encode())

    def make(rows, **fields):
        uri = write_rows(tmp_path / "list.jsonl", rows)
        return read_catalog(make_config(dataset__uri=uri, **fields))

    make.folder = tmp_path
    return make


def complaint(listed, rows, **fields):
    with pytest.raises(UserError) as caught:
        listed(rows, **fields)
    return str(caught.value)


# ---- columns


def test_the_usual_columns(listed):
    catalog = listed(
        [
            {
                "video": "a.mp4",
                "caption": "one",
                "id": 7,
                "start": 1,
                "end": 2.5,
                "version": "v1",
                "width": 64,
                "height": 48,
                "fps": 25,
                "frames": 100,
                "duration": 4,
                "score": 0.5,
            }
        ]
    )
    assert catalog.sources.to_pylist() == [
        {
            "source_id": source_id("7", 1.0, 2.5),
            "id": "7",
            "uri": str(listed.folder / "a.mp4"),
            "start": 1.0,
            "end": 2.5,
            "version": "v1",
            "pinned": False,
            "width": 64,
            "height": 48,
            "fps": 25.0,
            "frames": 100,
            "duration": 4.0,
            "reason": None,
            "message": None,
        }
    ]
    [columns] = catalog.columns.to_pylist()
    assert columns.pop("digest")
    assert columns == {
        "source_id": source_id("7", 1.0, 2.5),
        "caption": "one",
        "score": 0.5,
    }
    assert catalog.notes == ()


@pytest.mark.parametrize(
    "video", ["video_path", "media_path", "path", "file_name", "url", "uri", "video"]
)
@pytest.mark.parametrize("caption", ["text", "cap", "prompt", "caption"])
def test_aliases_are_found_and_told(listed, video, caption):
    catalog = listed([{video: "a.mp4", caption: "one"}])
    assert catalog.sources["uri"].to_pylist() == [str(listed.folder / "a.mp4")]
    assert catalog.columns["caption"].to_pylist() == ["one"]
    assert catalog.columns.column_names == ["source_id", "digest", "caption"]
    told = {name for name in (video, caption) if name not in ("video", "caption")}
    assert len(catalog.notes) == len(told)
    for name in told:
        assert any(repr(name) in note for note in catalog.notes)


def test_the_first_alias_wins_and_the_others_pass_through(listed):
    catalog = listed([{"path": "a.mp4", "url": "https://x", "text": "t", "prompt": "p"}])
    assert catalog.columns["caption"].to_pylist() == ["t"]
    assert catalog.columns["prompt"].to_pylist() == ["p"]
    assert catalog.columns["url"].to_pylist() == ["https://x"]


def test_configured_names_win(listed):
    catalog = listed(
        [{"video": "none.mp4", "clip": "a.mp4", "from": 1, "start": 5, "prompt": "p", "text": "t"}],
        dataset__columns={"video": "clip", "start": "from", "caption": "prompt"},
    )
    assert catalog.sources["uri"].to_pylist() == [str(listed.folder / "a.mp4")]
    assert catalog.sources["start"].to_pylist() == [1.0]
    assert catalog.columns["caption"].to_pylist() == ["p"]
    assert catalog.columns["text"].to_pylist() == ["t"]


def test_a_configured_caption_is_not_replaced_by_the_column_called_caption(listed):
    catalog = listed(
        [{"video": "a.mp4", "caption": "short", "detailed": "long"}],
        dataset__columns={"caption": "detailed"},
    )
    assert catalog.columns["caption"].to_pylist() == ["long"]
    assert any("'caption'" in note and "'detailed'" in note for note in catalog.notes)


def test_a_configured_name_that_is_not_there(listed):
    text = complaint(listed, [{"video": "a.mp4", "n": 1}], dataset__columns={"caption": "text"})
    assert "dataset.columns.caption is 'text'" in text
    assert "columns video, n" in text


def test_no_column_of_videos(listed):
    text = complaint(listed, [{"caption": "x", "film": "a.mp4"}])
    assert "has no column of videos: it has caption, film" in text
    assert "dataset.columns.video" in text


def test_columns_that_the_cache_uses_itself(listed):
    text = complaint(listed, [{"video": "a.mp4", "digest": 1, "run_id": 2}])
    assert "digest, run_id" in text


@pytest.mark.parametrize("names", [("Caption",), ("Digest",), ("Score", "score")])
def test_columns_that_differ_by_case_alone(listed, names):
    text = complaint(listed, [{"video": "a.mp4", **dict.fromkeys(names, "x")}])
    assert f"columns {', '.join(sorted(names))} have names" in text
    assert "dataset.columns" in text


def test_a_caption_in_upper_case_may_be_named(listed):
    catalog = listed([{"video": "a.mp4", "Caption": "x"}], dataset__columns={"caption": "Caption"})
    assert catalog.columns["caption"].to_pylist() == ["x"]


def test_a_column_twice_is_a_mistake(tmp_path):
    (tmp_path / "l.csv").write_text("video,caption,caption\na.mp4,x,y\n")
    with pytest.raises(UserError, match="'caption' twice"):
        read_catalog(make_config(dataset__uri=str(tmp_path / "l.csv")))


@pytest.mark.parametrize(
    ("column", "value"), [("start", "soon"), ("width", 12.5), ("fps", "30000/1001"), ("video", [1])]
)
def test_a_column_of_a_wrong_type(listed, column, value):
    text = complaint(listed, [{"video": "a.mp4", column: value}])
    assert f"column {column!r} cannot be read as" in text


# ---- URIs and identity


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_every_kind_of_list_gives_the_same_catalog(tmp_path, suffix):
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "a.mp4").write_bytes(b"x")
    path = tmp_path / f"l.{suffix}"
    row = {"video": "v/a.mp4", "id": "007", "caption": "12"}
    if suffix == "csv":
        path.write_text("video,id,caption\nv/a.mp4,007,12\n")
    elif suffix == "jsonl":
        path.write_text(json.dumps(row))
    else:
        pq.write_table(pa.Table.from_pylist([row]), path)
    catalog = read_catalog(make_config(dataset__uri=str(path)))
    [source] = catalog.sources.to_pylist()
    assert source["uri"] == str(tmp_path / "v" / "a.mp4")
    assert source["id"] == "007"
    assert source["source_id"] == source_id("007", None, None)
    assert source["version"] == stat_source(source["uri"], LOCAL)[0]
    assert source["pinned"] is True
    assert catalog.columns["caption"].to_pylist() == ["12"]
    assert catalog.columns.schema.field("caption").type == pa.string()


def test_without_an_id_the_uri_is_the_key(listed):
    rows = [{"video": "a.mp4"}, {"video": "./x/../b.mp4"}]
    catalog = listed(rows)
    paths = [str(listed.folder / name) for name in ("a.mp4", "b.mp4")]
    assert catalog.sources["source_id"].to_pylist() == [source_id(p, None, None) for p in paths]


def test_absolute_paths_and_other_stores_stand_as_they_are(listed):
    uris = ["/x/a.mp4", "memory://x/b.mp4", f"file://{listed.folder}/a.mp4"]
    catalog = listed([{"video": uri, "version": "v"} for uri in uris])
    assert catalog.sources["uri"].to_pylist() == [*uris[:2], str(listed.folder / "a.mp4")]


def test_clips_of_one_video_are_sources(listed):
    clips = [{"video": "a.mp4"}, {"video": "a.mp4", "end": 2}, {"video": "a.mp4", "start": 2}]
    catalog = listed(clips)
    assert len(set(catalog.sources["source_id"].to_pylist())) == 3


@pytest.mark.parametrize(
    "rows",
    [
        [{"video": "a.mp4"}, {"video": "b.mp4"}, {"video": "./a.mp4"}],
        [{"video": "a.mp4", "id": "x"}, {"video": "b.mp4"}, {"video": "b.mp4", "id": "x"}],
        [{"video": "a.mp4", "start": 1}, {"video": "b.mp4"}, {"video": "a.mp4", "start": 1.0}],
    ],
)
def test_duplicates_are_named_by_row(listed, rows):
    assert "rows 1 and 3 are the same source" in complaint(listed, rows)


@pytest.mark.parametrize(
    "span",
    [
        {"start": -1},
        {"start": math.nan},
        {"start": math.inf},
        {"end": 0},
        {"end": -1},
        {"end": math.inf},
        {"start": 3, "end": 3},
        {"start": 3, "end": 2},
    ],
)
def test_a_range_that_is_none(listed, span):
    text = complaint(listed, [{"video": "a.mp4"}, {"video": "b.mp4", **span}])
    assert "row 2 has start" in text
    assert "0 <= start < end" in text


@pytest.mark.parametrize("video", ["", "  ", None])
def test_a_row_without_a_video(listed, video):
    text = complaint(listed, [{"video": "a.mp4"}, {"video": video}])
    assert "row 2 names no video" in text


def test_a_row_with_a_password_is_refused_and_not_repeated(listed):
    text = complaint(listed, [{"video": "a.mp4"}, {"video": "http://me:hunter2@host/a.mp4"}])
    assert "row 2" in text
    assert "credentials into the environment" in text
    assert "hunter2" not in text


def test_a_list_in_another_store_resolves_there(tmp_path):
    filesystem, folder = fsspec.filesystem("memory"), f"memory://{tmp_path.name}-catalog"
    try:
        filesystem.pipe_file(f"{folder}/v/a.mp4", b"12345")
        filesystem.pipe_file(f"{folder}/l.csv", b"video,caption\nv/a.mp4,x\nv/none.mp4,y\n")
        catalog = read_catalog(make_config(dataset__uri=f"{folder}/l.csv"))
        first, second = catalog.sources.to_pylist()
        assert first["uri"] == f"{folder}/v/a.mp4"
        assert first["version"] == stat_source(first["uri"], LOCAL)[0]
        assert first["reason"] is None
        assert second["reason"] == "missing"
    finally:
        filesystem.rm(folder, recursive=True)


# ---- versions


def test_a_source_that_is_not_there_is_kept_with_its_reason(listed):
    catalog = listed([{"video": "a.mp4"}, {"video": "none.mp4"}, {"video": "quux://x/y.mp4"}])
    good, missing, odd = catalog.sources.to_pylist()
    assert good["reason"] is None
    assert missing["reason"] == "missing"
    assert str(listed.folder / "none.mp4") in missing["message"]
    assert odd["reason"] == "unreadable"
    assert missing["version"] == odd["version"] == ""


def test_a_version_of_the_dataset_is_believed_and_not_asked_for(listed):
    catalog = listed(
        [{"video": "none.mp4", "version": "v7"}, {"video": "a.mp4"}, {"video": "b.mp4"}]
    )
    given_version, stat, _ = catalog.sources.to_pylist()
    assert given_version["version"] == "v7"
    assert given_version["pinned"] is False
    assert given_version["reason"] is None
    assert stat["pinned"] is True


def test_a_directory_gives_the_versions_of_its_listing(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"x")
    (tmp_path / "a.txt").write_text("a caption")
    catalog = read_catalog(make_config(dataset__uri=str(tmp_path)))
    [row] = catalog.sources.to_pylist()
    assert row["version"] == stat_source(str(tmp_path / "a.mp4"), LOCAL)[0]
    assert row["pinned"] is True
    assert row["source_id"] == source_id(str(tmp_path / "a.mp4"), None, None)
    assert catalog.columns["caption"].to_pylist() == ["a caption"]
    assert catalog.notes == ()


def test_limit_takes_the_first_rows(listed):
    catalog = listed([{"video": f"{n}.mp4", "version": "v"} for n in range(5)], dataset__limit=2)
    assert [uri[-5:] for uri in catalog.sources["uri"].to_pylist()] == ["0.mp4", "1.mp4"]
    assert catalog.columns.num_rows == 2


@pytest.mark.parametrize("secret", ["wrong", None])
def test_a_store_that_lets_nobody_in_is_no_failure_of_the_sources(listed, s3, monkeypatch, secret):
    s3fs.S3FileSystem.clear_instance_cache()  # they keep the credentials they were made with
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        if secret is None:
            monkeypatch.delenv(name)
        else:
            monkeypatch.setenv(name, secret)
    rows = [{"video": f"s3://t2v/{name}.mp4"} for name in "abc"]
    try:
        told = complaint(listed, rows, storage__endpoint_url=s3.endpoint)
        some = listed([*rows, {"video": "a.mp4"}], storage__endpoint_url=s3.endpoint)
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
    assert "each of the 3 sources is refused, the first as s3://t2v/a.mp4: " in told
    assert "check the credentials" in told
    assert some.sources["reason"].to_pylist() == ["unreadable"] * 3 + [None]
