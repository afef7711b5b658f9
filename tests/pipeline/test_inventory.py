"""S3 Inventory reports as listings."""

import csv
import gzip
import hashlib
import io
import json
from urllib.parse import quote_plus

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import LOCAL, make_config

from pipeline.catalog import read_catalog
from pipeline.errors import Reason, SourceError, UserError
from pipeline.inventory import inventory_versions, list_inventory
from pipeline.tars import TarIndex

SCHEMA = ("Bucket", "Key", "VersionId", "IsLatest", "IsDeleteMarker", "Size", "ETag")
PARQUET = ("bucket", "key", "version_id", "is_latest", "is_delete_marker", "size", "e_tag")
KEYS = {
    "v/a.mp4": "aaa",
    "v/b c+ü.mp4": "bbb-3",
    "v/notes.md": "ccc",
    "w/d.mp4": "ddd",
    "v2/e.mp4": "eee",
}


def rows():
    found = [("b", key, "1", True, False, 5, tag) for key, tag in KEYS.items()]
    found.append(("b", "v/a.mp4", "0", False, False, 5, "old"))
    found.append(("b", "v/gone.mp4", "2", True, True, None, None))
    found.append(("other", "v/a.mp4", "1", True, False, 5, "other"))
    found.append(("b", "v/", "1", True, False, 0, "folder"))
    return found


def as_csv(found, zipped=True, header=False, columns=range(7)):
    sink = io.StringIO()
    writer = csv.writer(sink, quoting=csv.QUOTE_ALL)
    if header:
        writer.writerow([SCHEMA[c] for c in columns])
    for row in found:
        plain = [str(v).lower() if isinstance(v, bool) else "" if v is None else v for v in row]
        plain[1] = quote_plus(plain[1], safe="/")
        writer.writerow([plain[c] for c in columns])
    data = sink.getvalue().encode()
    return gzip.compress(data) if zipped else data


def as_parquet(found, columns=range(7)):
    sink = io.BytesIO()
    values = list(zip(*found, strict=True))
    pq.write_table(pa.table({PARQUET[c]: list(values[c]) for c in columns}), sink)
    return sink.getvalue()


def report(folder, kind, files, **changes):
    """Writes the data files and the manifest as S3 does; returns the manifest's path."""
    (folder / "data").mkdir()
    (folder / "2026-01-01T00-00Z").mkdir()
    listed = []
    for number, data in enumerate(files):
        name = f"{number}.{'csv.gz' if kind == 'CSV' else 'parquet'}"
        (folder / "data" / name).write_bytes(data)
        checksum = hashlib.md5(data).hexdigest()
        listed.append({"key": f"inv/b/all/data/{name}", "size": 1, "MD5checksum": checksum})
    manifest = {
        "sourceBucket": "b",
        "destinationBucket": "arn:aws:s3:::inv",
        "fileFormat": kind,
        "fileSchema": ", ".join(SCHEMA),
        "files": listed,
        **changes,
    }
    path = folder / "2026-01-01T00-00Z" / "manifest.json"
    path.write_text(json.dumps(manifest))
    return path


@pytest.fixture(params=["CSV", "Parquet", "one csv", "one csv.gz", "one parquet"])
def inventory(request, tmp_path):
    """The path of a report of ``rows``."""
    first, second = rows()[:3], rows()[3:]
    if request.param == "CSV":
        return report(tmp_path, "CSV", [as_csv(first), as_csv(second)])
    if request.param == "Parquet":
        return report(tmp_path, "Parquet", [as_parquet(first), as_parquet(second)])
    data = {
        "one csv": as_csv(rows(), zipped=False, header=True),
        "one csv.gz": as_csv(rows(), header=True),
        "one parquet": as_parquet(rows()),
    }[request.param]
    path = tmp_path / request.param.replace("one ", "x.")
    path.write_bytes(data)
    return path


def test_a_prefix_of_the_report(inventory):
    found = list_inventory(str(inventory), "s3://b/v/", LOCAL).to_pylist()
    assert found == [
        {"uri": "s3://b/v/a.mp4", "version": "aaa"},
        {"uri": "s3://b/v/b c+ü.mp4", "version": "bbb-3"},
        {"uri": "s3://b/v/notes.md", "version": "ccc"},
    ]


def test_versions_of_a_list(inventory):
    wanted = ["s3://b/v/a.mp4", "s3a://b/v/a.mp4", "s3://b/v/gone.mp4", "s3://c/x", "/v/a.mp4"]
    found = inventory_versions(str(inventory), wanted, LOCAL)
    assert found == {"s3://b/v/a.mp4": "aaa", "s3a://b/v/a.mp4": "aaa"}


@pytest.fixture
def no_store(monkeypatch):
    """Fails where S3 is asked for anything but one file."""
    asked = []

    def stat(uri, _storage):
        asked.append(uri)
        if uri.endswith("x.mp4"):
            return "asked", 1
        raise SourceError(Reason.MISSING, f"{uri} does not exist")

    def refuse(*_given, **_settings):
        raise AssertionError("the store was listed")

    monkeypatch.setattr("pipeline.versions.stat_source", stat)
    monkeypatch.setattr("pipeline.versions.list_page", refuse)
    monkeypatch.setattr("pipeline.objects.list_page", refuse)
    return asked


def test_it_replaces_the_listing_of_a_prefix(inventory, no_store):
    config = make_config(dataset__uri="s3://b/v", dataset__inventory=str(inventory))
    catalog = read_catalog(config)
    assert catalog.sources["uri"].to_pylist() == ["s3://b/v/a.mp4", "s3://b/v/b c+ü.mp4"]
    assert catalog.sources["version"].to_pylist() == ["aaa", "bbb-3"]
    assert catalog.sources["pinned"].to_pylist() == [True, True]
    assert no_store == []


def test_it_replaces_the_listing_of_a_pattern(inventory, no_store, monkeypatch):
    monkeypatch.setattr("pipeline.listing.is_pattern", lambda uri, _: "*" in uri)
    config = make_config(dataset__uri="s3://b/*/?.mp4", dataset__inventory=str(inventory))
    found = read_catalog(config).sources["uri"].to_pylist()
    assert found == ["s3://b/v/a.mp4", "s3://b/v2/e.mp4", "s3://b/w/d.mp4"]
    assert no_store == []


def test_a_list_asks_for_what_the_report_has_not(inventory, no_store, tmp_path):
    names = ["v/a.mp4", "new/x.mp4", "v/gone.mp4"]
    (tmp_path / "l.csv").write_text("video\n" + "".join(f"s3://b/{name}\n" for name in names))
    config = make_config(dataset__uri=str(tmp_path / "l.csv"), dataset__inventory=str(inventory))
    catalog = read_catalog(config)
    assert catalog.sources["version"].to_pylist() == ["aaa", "asked", ""]
    assert catalog.sources["reason"].to_pylist() == [None, None, "missing"]
    assert sorted(no_store) == ["s3://b/new/x.mp4", "s3://b/v/gone.mp4"]
    assert any("asked for 2 videos that dataset.inventory has not" in n for n in catalog.notes)


def test_an_object_without_an_etag_is_asked_for(tmp_path, no_store):
    path = tmp_path / "x.parquet"
    path.write_bytes(as_parquet([("b", "v/x.mp4", "1", True, False, 5, None), rows()[0]]))
    config = make_config(dataset__uri="s3://b/v", dataset__inventory=str(path))
    sources = read_catalog(config).sources.to_pylist()
    assert [(row["version"], row["pinned"]) for row in sources] == [("aaa", True), ("asked", True)]


def test_a_csv_of_the_plain_five_columns_without_a_header(tmp_path):
    path = tmp_path / "x.csv.gz"
    lines = [f'"b","{quote_plus(k, safe="/")}","5","2026-01-01","{t}"' for k, t in KEYS.items()]
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    found = list_inventory(str(path), "s3://b/w/", LOCAL).to_pylist()
    assert found == [{"uri": "s3://b/w/d.mp4", "version": "ddd"}]


def complaint(path, uri="s3://b/v"):
    with pytest.raises(UserError) as caught:
        read_catalog(make_config(dataset__uri=uri, dataset__inventory=str(path)))
    assert "dataset.inventory" in str(caught.value)
    return str(caught.value)


def test_reports_that_are_not_read(tmp_path):
    path = report(tmp_path, "ORC", [b"ORC"])
    assert "a report in ORC; configure the inventory to write Parquet or CSV" in complaint(path)
    (tmp_path / "x.orc").write_bytes(b"ORC")
    assert "ORC is not" in complaint(tmp_path / "x.orc")
    assert "there is nothing" in complaint(tmp_path / "none.csv")
    for text in ("", "[]", "{}", '{"fileFormat": "CSV", "files": [1]}'):
        path.write_text(text)
        assert "is not the manifest.json" in complaint(path)
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    assert "is not a Parquet file" in complaint(tmp_path / "x.parquet")
    (tmp_path / "x.csv.gz").write_bytes(b"\x1f\x8bxx")
    assert "is not a CSV file" in complaint(tmp_path / "x.csv.gz")
    (tmp_path / "x.csv").write_bytes(as_csv(rows(), zipped=False, columns=(0, 1)))
    assert "no header line and 2 columns" in complaint(tmp_path / "x.csv")
    (tmp_path / "y.csv").write_bytes(as_csv(rows(), zipped=False, header=True, columns=(0, 1, 5)))
    assert "has no column etag" in complaint(tmp_path / "y.csv")


def test_a_data_file_that_is_missing_or_another(tmp_path):
    path = report(tmp_path, "CSV", [as_csv(rows())])
    (tmp_path / "data" / "0.csv.gz").write_bytes(as_csv(rows()[:1]))
    assert "MD5" in complaint(path)
    (tmp_path / "data" / "0.csv.gz").unlink()
    assert "there is nothing" in complaint(path)


def test_a_report_of_something_else(inventory, tmp_path):
    assert "lists nothing below dataset.uri s3://c/v" in complaint(inventory, "s3://c/v")
    assert "is not on s3://" in complaint(inventory, str(tmp_path))


def test_tar_files_of_a_report(tmp_path, no_store, monkeypatch):
    path = tmp_path / "x.parquet"
    keys = ["t/a.tar", "t/b.tar", "t/c.txt"]
    path.write_bytes(as_parquet([("b", key, "1", True, False, 5, key[2]) for key in keys]))
    seen = []

    def index_tars(files, *_):
        seen.extend(files)
        return [TarIndex(())] * len(files)

    monkeypatch.setattr("pipeline.listing.index_tars", index_tars)
    monkeypatch.setattr("pipeline.listing._is_file", lambda *_: False)
    for uri in ("s3://b/t", "s3://b/t/a.tar"):
        config = make_config(dataset__uri=uri, dataset__inventory=str(path), dataset__format="tar")
        with pytest.raises(UserError, match="holds no videos"):
            read_catalog(config)
    assert seen == [("s3://b/t/a.tar", "a"), ("s3://b/t/b.tar", "b"), ("s3://b/t/a.tar", "a")]
    assert no_store == []


def test_a_report_in_another_store(tmp_path):
    memory, folder = fsspec.filesystem("memory"), f"memory://{tmp_path.name}-inv"
    try:
        memory.pipe_file(f"{folder}/x.parquet", as_parquet(rows()))
        found = list_inventory(f"{folder}/x.parquet", "s3://b/w/", LOCAL)
        assert found["version"].to_pylist() == ["ddd"]
    finally:
        memory.rm(folder, recursive=True)
