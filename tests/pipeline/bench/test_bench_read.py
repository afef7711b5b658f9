"""The read benchmark reads every sample with every way, measures this run, and leaves nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from jobs import benchmark
from pipeline import LatentDataset
from pipeline.bench import read_index
from pipeline.bench.read_peers import PEERS, read_peer, why_missing
from pipeline.bench.read_samples import build_cache, export, read_config, sample_bytes
from pipeline.bench.read_ways import forget, raw_local, raw_s3, read_cache
from pipeline.bench.write import removed
from tests.e2e.support import config_tree, write_config
from tests.pipeline.helpers import LOCAL
from tests.s3 import REGION

JOB = Path(benchmark.__file__)
SAMPLES = 24
"""Two sources of twelve windows."""


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """What readers of a machine share goes with the test."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    found = read_config(str(tmp_path_factory.mktemp("read") / "cache"), LOCAL, "safetensors")
    assert build_cache(found, 12 * sample_bytes(found) + 1) == SAMPLES
    return found


def test_a_sample_has_the_shape_that_is_told(config):
    (batch,) = list(LatentDataset(config.output.uri, statistic="moments", batch_size=SAMPLES))
    assert batch["mean"].shape == batch["logvar"].shape == (SAMPLES, 3, 64, 34, 62)
    assert batch["mean"].dtype == torch.float16
    assert batch["mean"][0].nbytes + batch["logvar"][0].nbytes == sample_bytes(config)
    assert len({mean.numpy().tobytes() for mean in batch["mean"]}) == SAMPLES


@pytest.mark.parametrize("statistic", ["moments", "sample"])
def test_our_reader_and_raw_reading_see_all(config, statistic):
    assert read_cache(config, 5, 4, statistic) == SAMPLES
    assert raw_local(config, 5, 4) == SAMPLES


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_a_peer_sees_the_same_numbers(config, tmp_path):
    folder = export(config, "webdataset", tmp_path / "webdataset")
    assert read_peer("webdataset", folder, 5) == SAMPLES
    found = [row for batch in PEERS["webdataset"](folder, 5) for row in np.asarray(batch)]
    (batch,) = list(LatentDataset(config.output.uri, statistic="moments", batch_size=SAMPLES))
    wanted = {mean.numpy().tobytes() for mean in batch["mean"]}
    assert {np.ascontiguousarray(row).tobytes() for row in found} == wanted


def test_a_peer_that_is_missing_is_told(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "streaming is not installed (pip install '.[bench]'" in str(why_missing("mds"))


def test_forgotten_files_are_no_longer_in_memory(config):
    """As far as the system tells: reading them again is reading from the disk."""
    os.sync()
    raw_local(config, 8, 1)
    forget(Path(config.output.uri))
    before = read_from_disk()
    raw_local(config, 8, 1)
    assert read_from_disk() - before > SAMPLES * sample_bytes(config) / 2


def read_from_disk() -> int:
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["read_bytes"])


@pytest.mark.slow
def test_the_command(tmp_path, capsys):
    arguments = ["read", str(tmp_path / "x"), "--bytes", "1", "--turns", "1", "--batch-size", "5"]
    assert benchmark.main(arguments) == 0
    out = capsys.readouterr().out
    found = json.loads(out.splitlines()[-1])
    assert found["samples"] == 12
    for kind in ("warm", "cold"):
        ways = found[kind]["ways"]
        assert {"raw", "reader", "reader, parquet", "drawn", "webdataset"} <= set(ways)
        for name, way in ways.items():
            (turn,) = way["turns"]
            assert turn["units"] == 12
            assert turn["wall_seconds"] > 0
            wanted = (turn["units"] / turn["wall_seconds"]) / (
                ways["raw"]["turns"][0]["units"] / ways["raw"]["turns"][0]["wall_seconds"]
            )
            assert found[kind]["shares"][name]["of_raw"] == pytest.approx(wanted)
    for name in PEERS:
        missing = why_missing(name)
        assert (name in found["warm"]["ways"]) == (missing is None)
        assert missing is None or f"{name} is left out: {missing}" in out
    assert not list((tmp_path / "x").rglob("*"))


@pytest.mark.slow
def test_s3(s3, s3_prefix, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("AWS_REGION", REGION)
    config = read_config(f"s3://{s3_prefix}/cache", s3.storage, "parquet")
    with removed(config):
        assert build_cache(config, 1) == 12
        assert raw_s3(config, 5, 4) == read_cache(config, 5, 4, "moments") == 12
    tree = config_tree("/unused", f"s3://{s3_prefix}", storage=s3.storage.model_dump())
    given = ["--config", str(write_config(tmp_path / "config.yaml", tree))]
    assert benchmark.main(["read", *given, "--bytes", "1", "--turns", "1"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    wanted = {"raw", "raw, shuffled", "reader", "reader, in order", "reader, parquet", "drawn"}
    assert set(found["s3"]["ways"]) == wanted
    assert found["s3"]["shares"]["raw, shuffled"]["of_shuffled"] == 1
    assert not [path for path in s3.filesystem().find(s3_prefix) if "benchmark" in path]


@pytest.mark.slow
def test_a_large_index(tmp_path, capsys):
    assert benchmark.main(["read", str(tmp_path / "x"), "--index-segments", "40", "80"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [one["windows"] for one in found["measured"]] == [480, 960]
    for one in found["measured"]:
        assert one["index_bytes"] < 32 * one["segments"] + 16 * one["segments"] + 1000
        assert one["opened"]["again_seconds"] > 0
        assert one["opened"]["epoch_bytes"]
    assert not list((tmp_path / "x").rglob("*"))


def test_the_fit_is_a_line():
    opened = read_index.Opened(1.0, 0.5, 0, 0, [100, 90], 0.0)
    one = read_index.Measured(10, 120, 0.0, 0, opened)
    more = replace(opened, first_seconds=2.0, again_seconds=0.5, epoch_bytes=[150, 200])
    found = read_index._at([one, replace(one, segments=20, opened=more)], 100)
    assert found == pytest.approx({"first_seconds": 10, "again_seconds": 0.5, "epoch_bytes": 1000})


@pytest.mark.slow
def test_ctrl_c_leaves_nothing(tmp_path):
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, JOB, "read", tmp_path / "x", "--bytes", "3GB"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        deadline = time.monotonic() + 60
        while not list((tmp_path / "x").rglob("*.safetensors")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) != 0
    finally:
        process.kill()
        process.wait()
    assert not list((tmp_path / "x").rglob("*"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give either a URI to write to, or --config"),
        (["x", "--bytes", "0"], "is not a size"),
        (["x", "--bytes", "many"], "is not a size"),
        (["x", "--turns", "0"], "is not a number of 1 or more"),
        (["x", "--index-segments", "0"], "is not a number of 1 or more"),
        (["s3://b/x", "--index-segments", "5"], "--index-segments wants a folder"),
        (["http://host/x"], "a cache lies on a local path or on s3://"),
    ],
)
def test_mistakes_are_told(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        code = benchmark.main(["read", *arguments])
    except SystemExit as stop:
        code = stop.code
    assert code == 1
    assert words in capsys.readouterr().err
