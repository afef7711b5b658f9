"""Ids, URIs and captions that attack whoever prints or stores them stay in their columns."""

import json
import os
import re
from pathlib import Path

import pytest

from pipeline import LatentCache
from tests.e2e.support import (
    config_tree,
    end_processes_naming,
    environment,
    run_here,
    run_job,
    write_config,
    write_list,
)
from tests.s3 import BUCKET

TEXTS = {
    "dots": "../../../etc/passwd",
    "absolute": "/etc/passwd",
    "control": "a\x1b[31mred\x07\r\n\tb",
    "nul": "a\0b",
    "quotes": "a'b\"c`d;DROP TABLE sources;--",
    "markup": "<script>alert(1)</script>",
    "long": "é漢🎬" * 1200,  # more than 10 kB
    "formula": '=HYPERLINK("http://x","y")',
    "percent": "%s %n {0} ${HOME}",
}
SHARD = re.compile(r"data/h\d+w\d+/[0-9a-f]{16,}\.safetensors")


def test_hostile_texts_stay_in_their_columns(tmp_path, clip):
    rows = [
        {"video": str(clip("h264_open")), "id": text, "caption": text, "note": text}
        for text in TEXTS.values()
    ]
    for name, text in {"control": TEXTS["control"], "long": "é" * 120 + TEXTS["control"]}.items():
        rows.append({"video": str(tmp_path / "nowhere" / text), "id": f"bad {name}"})
    folder = tmp_path / "work"
    folder.mkdir()
    dataset = write_list(folder / "clips.jsonl", rows)
    config = write_config(folder / "c.yaml", config_tree(dataset, folder / "cache", max_attempts=1))
    before = sorted(path for path in tmp_path.rglob("*") if folder / "cache" not in path.parents)
    done = run_here(config)
    assert done.code == 0, done.stderr
    assert done.report["sources"] == {"total": 11, "ok": 9, "skipped": 0, "failed": 2}
    after = sorted(path for path in tmp_path.rglob("*") if folder / "cache" not in path.parents)
    assert set(after) - set(before) <= {folder / "cache"}
    cache = LatentCache.open(str(folder / "cache"))
    sources = {row["id"]: row for row in cache.sources().to_pylist()}
    for text in TEXTS.values():
        assert sources[text]["status"] == "ok"
        assert sources[text]["caption"] == text
        assert sources[text]["note"] == text
    shards = set(cache.samples()["shard"].to_pylist())
    assert shards
    for shard in shards:
        assert SHARD.fullmatch(shard)
    names = [str(path.relative_to(folder / "cache")) for path in (folder / "cache").rglob("*")]
    assert all(re.fullmatch(r"[A-Za-z0-9_./=%+-]+", name) for name in names)
    assert "\\x1b[31mred\\x07" in done.stdout  # the example of what failed
    for printed in (done.stdout, done.stderr):
        assert "\x1b" not in printed
        assert "\x07" not in printed
    assert len(done.stdout.splitlines()[-1]) < 1000
    assert json.loads(done.stdout.splitlines()[-1])["sources"]["ok"] == 9


def test_a_planted_secret_is_nowhere(tmp_path, clip, s3, s3_prefix):
    """Credentials of the environment, in everything that a run wrote or printed."""
    secret = planted()
    config = small_config(tmp_path, clip, s3, s3_prefix)
    good = environment(**s3.environment, AWS_SESSION_TOKEN="", T2V_TOKEN=secret, HF_TOKEN=secret)
    bad = {**good, "AWS_SECRET_ACCESS_KEY": secret}
    done = [run_job(config, env=good), run_job(config, env=bad)]
    assert done[0].code == 0, done[0].stderr
    assert done[1].code != 0
    refused = run_job(
        config, "--set", f"storage.endpoint_url=http://me:{secret}@127.0.0.1", env=good
    )
    assert refused.code == 1
    wrong = run_job(config, "--set", f"dataset.uri=s3://key:{secret}@{BUCKET}/x", env=good)
    assert wrong.code == 1
    check_nothing_told([*done, refused, wrong], s3, s3_prefix, secret)


@pytest.mark.slow
@pytest.mark.ray
def test_a_planted_secret_is_nowhere_on_ray(tmp_path, clip, s3, s3_prefix, ray_folder):
    """Nor in the logs of the cluster that the run started."""
    secret = planted()
    config = small_config(tmp_path, clip, s3, s3_prefix, run__runner="ray")
    env = environment(**s3.environment, HF_TOKEN=secret, RAY_TMPDIR=ray_folder)
    done = run_job(config, env=env)
    end_processes_naming(ray_folder, patience=30)
    assert done.code == 0, done.stderr
    check_nothing_told([done], s3, s3_prefix, secret)
    logs = [path for path in Path(ray_folder).rglob("*") if path.is_file()]
    assert len(logs) > 5
    for path in logs:
        assert not any(word in path.read_bytes() for word in hidden(s3, secret)), path


def planted() -> str:
    return "Pl4nt3d-" + os.urandom(12).hex()


def small_config(folder: Path, clip, s3, s3_prefix: str, **changes) -> Path:
    """A run over one clip in the store, into a cache there."""
    s3.filesystem().put(str(clip("h264_open")), f"{s3_prefix}/in/a.mp4")
    tree = config_tree(
        f"s3://{s3_prefix}/in",
        f"s3://{s3_prefix}/cache",
        storage__endpoint_url=s3.endpoint,
        storage__retry_seconds=0,
        max_failure_rate=0.0,
        **changes,
    )
    return write_config(folder / "c.yaml", tree)


def hidden(s3, secret: str) -> list[bytes]:
    return [secret.encode(), s3.environment["AWS_SECRET_ACCESS_KEY"].encode()]


def check_nothing_told(done, s3, s3_prefix: str, secret: str) -> None:
    """No secret stands in what runs printed, nor in the cache."""
    filesystem = s3.filesystem()
    found = filesystem.find(f"{s3_prefix}/cache")
    assert len(found) > 5
    for word in hidden(s3, secret):
        for run in done:
            assert word.decode() not in run.stdout + run.stderr
        for path in found:
            assert word not in filesystem.cat_file(path), path


@pytest.mark.parametrize("path", ["../../canary.safetensors", "/etc/passwd", "data/../../canary"])
def test_a_manifest_that_leads_outside_is_refused(path, tmp_path):
    from pipeline.errors import UserError
    from pipeline.shards import ShardError, read_sample
    from pipeline.storage import Store
    from tests.pipeline.helpers import LOCAL, make_contract

    (tmp_path / "canary.safetensors").write_bytes(b"x" * 100)
    store = Store(str(tmp_path / "cache" / "inner"), LOCAL)
    with pytest.raises(ShardError, match="outside"):
        read_sample(store, path, 0, make_contract())
    for act in (store.read, store.delete, store.exists, lambda name: store.write(name, b"")):
        with pytest.raises(UserError, match="outside"):
            act(path)
    assert (tmp_path / "canary.safetensors").read_bytes() == b"x" * 100
