"""Delta logs that name files outside of their table: one clear error, and nothing is opened."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import make_contract, make_manifest, make_segment, sample_row, source_row

from jobs import maintain_cache, verify_cache
from pipeline import LatentCache
from pipeline.errors import UserError
from pipeline.manifest import Manifest
from pipeline.scan import check_inside
from pipeline.schema import SAMPLES


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """A cache in an inner folder, and rows outside that an attacker would have read."""
    manifest = make_manifest(tmp_path / "cache")
    manifest.write_contract(make_contract())
    manifest.append("samples", [sample_row(make_segment())])
    manifest.append("sources", [source_row("s")])
    manifest.publish("run", make_contract())
    stolen = sample_row(make_segment("stolen"))
    pq.write_table(pa.Table.from_pylist([stolen], SAMPLES), tmp_path / "outside.parquet")
    return manifest


def add_to_log(tmp_path: Path, path: str, **more: object) -> None:
    size = (tmp_path / "outside.parquet").stat().st_size
    fields = {"path": path, "partitionValues": {}, "size": size, "modificationTime": 0}
    entry = {"add": {**fields, "dataChange": True, "stats": '{"numRecords":1}', **more}}
    log = tmp_path / "cache" / "samples" / "_delta_log" / f"{1:020}.json"
    log.write_text(json.dumps(entry) + "\n")


def hostile(tmp_path: Path) -> list[str]:
    outside = str(tmp_path / "outside.parquet")
    return [
        "../../outside.parquet",
        "x/../../../outside.parquet",
        "%2e%2e/%2e%2e/outside.parquet",
        "..%2f..%2foutside.parquet",
        outside,
        f"file://{outside}",
        f"file:{outside}",
        "s3://bucket/outside.parquet",
        "http://127.0.0.1:9/outside.parquet",
    ]


@pytest.mark.parametrize("number", range(9))
def test_a_log_that_leads_outside_is_refused(manifest, tmp_path, number, capsys):
    add_to_log(tmp_path, hostile(tmp_path)[number])
    for read in (
        lambda: manifest.read("samples"),
        lambda: manifest.by_range("samples", ["source_id"]),
        lambda: list(manifest.descending("samples", ["committed_at"], "committed_at")),
    ):
        with pytest.raises(UserError, match="outside of the table: something else changed"):
            read()
    cache = str(tmp_path / "cache")
    for job, arguments in (
        (verify_cache, [cache]),
        (maintain_cache, ["compact", cache]),
        (maintain_cache, ["vacuum", cache]),
    ):
        assert job.main(arguments) == 1
        told = capsys.readouterr().err
        assert told.startswith("error: ")
        assert "outside of the table" in told
    assert LatentCache.open(cache).samples().num_rows == 2  # its versions came before


def test_a_deletion_vector_outside_is_not_opened(manifest, tmp_path):
    [path] = (tmp_path / "cache" / "samples").glob("*.parquet")
    vector = {"storageType": "p", "pathOrInlineDv": f"file://{tmp_path}/vector.bin"}
    vector |= {"offset": 1, "sizeInBytes": 36, "cardinality": 1}
    add_to_log(tmp_path, path.name, size=path.stat().st_size, deletionVector=vector)
    with pytest.raises(UserError, match="deletion vector"):
        manifest.read("samples")


@pytest.mark.parametrize("path", ["part-0.parquet", "a/b.parquet", "a..b/c", "..a", "x..", "a/..b"])
def test_names_of_files_of_the_table(path):
    check_inside("/cache/samples", [path])
