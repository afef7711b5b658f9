"""The command line of verification, after real runs, locally and on a real S3 server."""

import json
import shutil
from pathlib import Path

import pytest

from jobs import verify_cache
from pipeline import LatentCache
from pipeline.cli import run_from_command_line
from pipeline.config import StorageConfig
from pipeline.identity import stable_hash
from pipeline.manifest import Manifest
from pipeline.storage import Store
from tests.e2e.support import config_tree, write_config, write_list
from tests.pipeline.maintain.builder import Builder, check_readable
from tests.s3 import REGION

FORMATS = pytest.mark.parametrize(
    "form", ["safetensors", pytest.param("parquet", marks=pytest.mark.slow)]
)
A, B = stable_hash("a"), stable_hash("b")


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = verify_cache.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def last(out: str) -> dict:
    return json.loads(out.rstrip("\n").rsplit("\n", 1)[-1])


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["uri", "--sample", "0"],
        ["uri", "--snapshot", "x"],
        ["uri", "--repair", "--snapshot", "1"],
    ],
)
def test_usage_errors_exit_with_1(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        verify_cache.main(arguments)
    assert stopped.value.code == 1
    assert "error:" in capsys.readouterr().err


def test_mistakes_are_told(tmp_path, capsys):
    code, _, err = run(capsys, tmp_path / "nothing")
    assert (code, "there is no cache here; check the URI" in err) == (1, True)
    cache = Builder(tmp_path / "cache")
    code, _, err = run(capsys, cache.uri)
    assert (code, "nothing is committed here yet" in err) == (1, True)
    cache.encode([(A, 1)])
    cache.publish()
    code, _, err = run(capsys, cache.uri, "--snapshot", 7)
    assert (code, "there is no snapshot 7" in err) == (1, True)
    code, out, err = run(capsys, cache.uri, "--out", tmp_path / "no" / "list.json")
    assert out == ""  # nothing was read yet
    assert (code, "name a file that can be written" in err) == (1, True)


def test_an_earlier_list_stays_where_nothing_can_be_verified(tmp_path, capsys):
    cache = Builder(tmp_path / "cache")
    cache.encode([(A, 1)])
    cache.publish()
    earlier = tmp_path / "list.json"
    earlier.write_text("{}")
    assert run(capsys, cache.uri, "--snapshot", 7, "--out", earlier)[0] == 1
    assert earlier.read_text() == "{}"


# ---- a real run


def encode(config: Path) -> int:
    return run_from_command_line("encode_dataset.py", None, ["--config", str(config)])


def rows_of(cache: Path) -> list[dict]:
    return Manifest(Store(str(cache), StorageConfig())).read("samples").to_pylist()


def places(cache: Path) -> set[tuple[str, str, int, int]]:
    names = ("source_id", "bucket", "first_window", "windows")
    return {tuple(row[name] for name in names) for row in rows_of(cache)}


@FORMATS
def test_damage_is_found_repaired_and_encoded_again(tmp_path, clip, capsys, form):
    dataset = write_list(
        tmp_path / "clips.jsonl", [{"video": str(clip(n)), "id": n} for n in ("bikes", "carphone")]
    )
    cache, whole = tmp_path / "cache", tmp_path / "whole"
    tree = config_tree(dataset, cache, output__format=form, windows__fps="12", windows__tail="pad")
    config = write_config(tmp_path / "config.yaml", tree)
    assert encode(config) == 0
    shutil.copytree(cache, whole)
    code, out, err = run(capsys, cache)
    assert code == 0, out + err
    assert last(out)["sound"] is True
    assert last(out)["read"]["windows"] == last(out)["windows"] > 8

    # One bit in one segment; and all of another bucket's shard.
    bad = next(row for row in rows_of(cache) if row["first_window"] == 3)
    needle = LatentCache.open(str(cache)).read(bad["sample_ids"][-1])["logvar"].numpy().tobytes()
    path = cache / bad["shard"]
    data = bytearray(path.read_bytes())
    data[data.index(needle) + 5] ^= 16
    path.write_bytes(data)
    gone = next(row["shard"] for row in rows_of(cache) if row["shard"] != bad["shard"])
    (cache / gone).unlink()
    damaged = {bad["segment_id"]} | {r["segment_id"] for r in rows_of(cache) if r["shard"] == gone}
    lost = {
        p
        for p in places(cache)
        for r in rows_of(cache)
        if r["segment_id"] in damaged
        and p == tuple(r[n] for n in ("source_id", "bucket", "first_window", "windows"))
    }
    code, out, _ = run(capsys, cache, "--out", tmp_path / "list.json")
    assert code == 3
    told = json.loads((tmp_path / "list.json").read_text())
    assert told["sound"] is False
    assert {item["kind"] for item in told["damaged"]} == {"checksum", "missing"}
    assert {s for item in told["damaged"] for s in item["segments"]} == damaged
    assert last(out)["damaged"] == {"checksum": 1, "missing": 1}

    code, out, _ = run(capsys, cache, "--repair")
    assert code == 0, out
    assert last(out)["repaired"]["segments"] == len(damaged)
    kept = places(cache)
    assert not kept & lost
    code, out, _ = run(capsys, cache)
    assert code == 0
    assert last(out)["lost"] >= 1

    capsys.readouterr()
    assert encode(config) == 0
    report = last(capsys.readouterr().out)
    assert report["windows"] == sum(place[3] for place in lost)
    assert places(cache) == kept | lost == places(whole)
    code, out, _ = run(capsys, cache)
    assert code == 0
    assert last(out)["lost"] == 0
    ours, theirs = LatentCache.open(str(cache)), LatentCache.open(str(whole))
    ids = ours.samples()["sample_id"].to_pylist()
    assert ids == theirs.samples()["sample_id"].to_pylist()
    for name in ids:
        for key, tensor in ours.read(name).items():
            assert tensor.sub(theirs.read(name)[key]).abs().max() <= 1e-3
    assert encode(config) == 0
    assert last(capsys.readouterr().out)["windows"] == 0


# ---- S3


@FORMATS
def test_on_s3(s3, s3_prefix, capsys, form):
    storage = StorageConfig(endpoint_url=s3.endpoint, region=REGION)
    cache = Builder(f"s3://{s3_prefix}", form, storage)
    cache.encode([(A, 1), (B, 1)])
    cache.publish()
    where = (cache.uri, "--endpoint-url", s3.endpoint, "--region", REGION)
    code, out, err = run(capsys, *where)
    assert code == 0, out + err
    assert last(out)["read"] == {"shards": 1, "windows": 6}
    [row] = [
        r
        for r in cache.manifest.read("samples").to_pylist()
        if (r["source_id"], r["first_window"]) == (A, 0)
    ]
    data = bytearray(cache.manifest.store.read(row["shard"]))
    needle = cache.open().read(row["sample_ids"][0])["mean"].numpy().tobytes()
    data[data.index(needle)] ^= 1
    cache.manifest.store.write(row["shard"], bytes(data))
    assert run(capsys, *where, "--sample", 100)[0] == 3
    code, out, _ = run(capsys, *where, "--repair")
    assert code == 0
    assert last(out)["repaired"] == {
        "segments": 1,
        "windows": 2,
        "sources": 1,
        "left": 0,
        "snapshot": 2,
    }
    assert len(check_readable(cache.open())) == 4
    assert cache.manifest.store.exists("index/2.segments")
    cache.encode([(A, 1)])
    cache.publish()
    assert len(check_readable(cache.open())) == 6
    cache.manifest.store.delete(row["shard"])
    code, out, _ = run(capsys, *where)
    assert (code, last(out)["damaged"]) == (3, {"missing": 1})
