"""The command line of maintenance, and all of it on a real S3 server."""

import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
import s3fs

from jobs import maintain_cache
from pipeline.identity import stable_hash
from pipeline.leases import Leases
from pipeline.manifest import Manifest
from tests.e2e.support import ROOT
from tests.pipeline.maintain.builder import Builder, check_readable
from tests.s3 import REGION

A, B, C, D = (stable_hash(name) for name in "abcd")


@pytest.fixture
def cache(tmp_path: Path) -> Builder:
    """Two snapshots: sources a and b, then a changed."""
    cache = Builder(tmp_path / "cache")
    fill(cache)
    return cache


def fill(cache: Builder) -> None:
    cache.encode([(A, 1)])
    cache.encode([(B, 1)])
    cache.publish()
    cache.encode([(A, 2)])
    cache.publish()


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    code = maintain_cache.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def last(out: str) -> dict:
    return json.loads(out.rstrip("\n").rsplit("\n", 1)[-1])


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["polish", "uri"],
        ["history"],
        ["restore", "uri", "newest"],
        ["vacuum", "uri", "--keep-snapshots", "0"],
        ["vacuum", "uri", "--keep-days", "-1"],
        ["vacuum", "uri", "--grace-hours", "nan"],
        ["compact", "uri", "--target-bytes", "huge"],
        ["compact", "uri", "--min-fill", "1.5"],
        ["stats", "uri", "--windows", "0"],
        ["tag", "uri", "x", "--force", "--delete"],
    ],
)
def test_usage_errors_exit_with_1(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        maintain_cache.main(arguments)
    assert stopped.value.code == 1
    assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["history", "vacuum", "compact"])
def test_no_cache(command, tmp_path, capsys):
    code, _, err = run(capsys, command, tmp_path / "nothing")
    assert code == 1
    assert "there is no cache here; check the URI" in err
    assert not (tmp_path / "nothing").exists()


@pytest.fixture
def fresh():
    """S3 filesystems keep the credentials that they were made with."""
    s3fs.S3FileSystem.clear_instance_cache()
    yield
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "AWS_SECRET_ACCESS_KEY"),
        (
            {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None},
            "Unable to locate credentials",
        ),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "AWS_ENDPOINT_URL"),
        ({"AWS_ENDPOINT_URL": "127.0.0.1:9"}, "write it as https://host"),
    ],
)
@pytest.mark.parametrize("command", ["history", "vacuum", "compact"])
def test_a_store_that_refuses(s3, capsys, monkeypatch, changes, told, command):
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr("random.uniform", lambda *_: 1e9)  # patience ends at once
    for name, value in changes.items():
        if value is None:
            monkeypatch.delenv(name)
        else:
            monkeypatch.setenv(name, value)
    code, _, err = run(capsys, command, "s3://t2v/cache")
    assert code == 1
    assert err.startswith("error: ")
    assert told in err
    assert told.startswith("write") or "s3://t2v/cache cannot be read: " in err


def test_history(cache, capsys):
    assert run(capsys, "tag", cache.uri, "good", "--snapshot", 1)[0] == 0
    code, out, _ = run(capsys, "history", cache.uri)
    assert code == 0
    head, first, second = out.splitlines()
    assert head.split()[:3] == ["snapshot", "created", "run"]
    assert first.split()[3:] == ["2", "0", "0", "6", "2", "0", "0", "good"]
    assert second.split()[3:] == ["2", "0", "0", "6", "0", "1", "0"]
    _, out, _ = run(capsys, "history", cache.uri, "--json")
    found = [json.loads(line) for line in out.splitlines()]
    assert [(row["snapshot"], row["tags"], row["changed"]) for row in found] == [
        (1, ["good"], 0),
        (2, [], 1),
    ]
    assert found[0]["sources"] == {"ok": 2, "skipped": 0, "failed": 0}


def test_tags(cache, capsys):
    assert run(capsys, "tag", cache.uri, "x")[1] == "tag x names snapshot 2\n"
    code, _, err = run(capsys, "tag", cache.uri, "x", "--snapshot", 1)
    assert code == 1
    assert "tag 'x' exists and names snapshot 2" in err
    assert run(capsys, "tag", cache.uri, "x", "--snapshot", 1, "--force")[0] == 0
    code, out, _ = run(capsys, "tag", cache.uri, "x", "--delete")
    assert (code, out[:16]) == (0, "tag x is removed")
    assert run(capsys, "tag", cache.uri, "a/b")[0] == 1


def test_restore(cache, capsys):
    code, out, _ = run(capsys, "restore", cache.uri, 1)
    assert code == 0
    assert "published snapshot 3, equal to snapshot 1" in out
    assert "The next refresh brings the dataset's state again" in out
    assert cache.open().samples() == cache.open(1).samples()
    code, _, err = run(capsys, "restore", cache.uri, 9)
    assert (code, "there is no snapshot 9" in err) == (1, True)


def test_vacuum_tells_and_then_does(cache, capsys):
    cache.age()
    before = cache.files()
    arguments = ("vacuum", cache.uri, "--keep-snapshots", 1)
    code, out, _ = run(capsys, *arguments)
    assert code == 0
    assert "would delete snapshots: 1" in out
    assert "nothing was changed; --apply does it" in out
    told = last(out)
    assert told["reasons"].keys() == {"of dropped snapshots"}
    assert cache.files() == before
    code, out, _ = run(capsys, *arguments, "--apply", "--list")
    assert code == 0
    assert "deleted snapshots: 1" in out
    done = last(out)
    assert (told["applied"], done["applied"]) == (False, True)
    assert {**done, "applied": False} == told
    gone = before.keys() - cache.files().keys()
    assert done["bytes"] == sum(len(before[p][0]) for p in gone if p.startswith("data/"))
    assert all(f"  {path}  " in out for path in gone if path.startswith("data/"))
    check_readable(cache.open())
    assert last(run(capsys, *arguments, "--apply")[1])["files"] == 0


def test_compact_tells_and_then_does(cache, capsys):
    before = cache.files()
    code, out, _ = run(capsys, "compact", cache.uri)
    assert code == 0
    assert last(out) == {
        "applied": False,
        "snapshot": None,
        "shards": [2, 1],
        "bytes": 576,
        "filled": [0.0, 0.0],
        "moved_bytes": 576,
    }
    assert cache.files() == before
    code, out, _ = run(capsys, "compact", cache.uri, "--target-bytes", "1kB", "--apply")
    assert code == 0
    assert "published snapshot 3" in out
    assert last(out)["filled"] == [0.0, 1.0]
    assert "nothing had to change" in run(capsys, "compact", cache.uri, "--apply")[1]
    check_readable(cache.open())


def test_damage_is_told(cache, capsys):
    shard = cache.open().samples()["shard"][0].as_py()
    (Path(cache.uri) / shard).unlink()
    code, _, err = run(capsys, "compact", cache.uri, "--apply")
    assert code == 1
    assert err.startswith("error: ")
    assert shard in err


def test_stats(cache, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code, out, _ = run(capsys, "stats", cache.uri, "--snapshot", 1)
    assert code == 0
    assert out.startswith("snapshot 1: 6 of 6 windows, 72 numbers a channel\n")
    whole = last(out)
    assert (whole["format_version"], whole["snapshot"], whole["windows"]) == (1, 1, 6)
    path = tmp_path / "stats.json"
    code, out, _ = run(capsys, "stats", cache.uri, "--snapshot", 1, "--out", path)
    assert code == 0
    assert json.loads(path.read_text()) == whole
    assert last(out) == {
        "out": str(path),
        "snapshot": 1,
        "windows": [6, 6],
        "count": 72,
        "channels": 2,
    }
    code, _, err = run(capsys, "stats", cache.uri, "--out", path / "below")
    assert code == 1
    assert err.startswith(f"error: {path}/below cannot be written: ")


def test_a_run_at_work_is_waited_for(cache, capsys):
    codes = []
    arguments = ["vacuum", cache.uri, "--keep-snapshots", "1", "--apply"]
    work = threading.Thread(target=lambda: codes.append(maintain_cache.main(arguments)))
    with Leases(cache.manifest.store, "encoding") as leases:
        leases.take(["7"], lambda *_: None)
        work.start()
        err = ""
        deadline = time.monotonic() + 60
        while "waiting for run encoding" not in err and time.monotonic() < deadline:
            time.sleep(0.05)
            err += capsys.readouterr().err
        assert "which holds range 7" in err
        assert cache.manifest.snapshot_numbers() == [1, 2]
    work.join(60)
    assert codes == [0]
    assert cache.manifest.snapshot_numbers() == [2]
    with Leases(cache.manifest.store, "next") as leases:  # all are free again
        leases.take("0123456789abcdef", lambda *held: pytest.fail(str(held)))


def test_as_a_process(cache):
    job = ROOT / "jobs" / "maintain_cache.py"
    done = subprocess.run(
        [sys.executable, job, "history", cache.uri, "--json"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        timeout=120,
    )
    assert len(done.stdout.splitlines()) == 2


def test_everything_on_s3(s3, s3_prefix, capsys, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    monkeypatch.setenv("AWS_REGION", REGION)
    cache = Builder(f"s3://{s3_prefix}/cache", storage=s3.storage)
    fill(cache)
    cache.encode([(C, 1), (D, 1)])
    orphans = cache.encode([("e", 1)], commit=False)
    cache.publish()
    before = check_readable(cache.open(2))
    assert run(capsys, "tag", cache.uri, "release", "--snapshot", 2)[0] == 0
    assert run(capsys, "tag", cache.uri, "release")[0] == 1
    code, out, _ = run(capsys, "compact", cache.uri, "--target-bytes", "64kB", "--apply")
    assert (code, last(out)["shards"], last(out)["snapshot"]) == (0, [3, 1], 4)
    vacuum = ("vacuum", cache.uri, "--keep-snapshots", 1)
    assert last(run(capsys, *vacuum)[1])["files"] == 0  # all are young
    time.sleep(1.1)  # times of S3 are whole seconds
    code, out, _ = run(capsys, *vacuum, "--grace-hours", "0", "--apply")
    assert code == 0
    done = last(out)
    assert done["snapshots"] == [1, 3]
    assert {n: r["files"] for n, r in done["reasons"].items()} == {
        "never committed": 1,
        "of dropped snapshots": 2,
    }
    store = cache.manifest.store
    assert not {path.rsplit("/", 1)[-1] for path in orphans} & set(store.names("data/h32w32"))
    assert check_readable(cache.open(2)) == before
    newest = check_readable(cache.open())
    assert {row["source_id"] for row in newest.values()} == {A, B, C, D}
    code, out, _ = run(capsys, "restore", cache.uri, 2)
    assert (code, "published snapshot 5" in out) == (0, True)
    _, out, _ = run(capsys, "history", cache.uri, "--json")
    assert [json.loads(line)["snapshot"] for line in out.splitlines()] == [2, 4, 5]
    assert Manifest(store).snapshot().tables == Manifest(store).snapshot(2).tables
