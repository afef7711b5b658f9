"""Videos that break their decoder cost themselves alone, in whole runs."""

import os
import signal

import pytest
import torch

from pipeline import LatentCache
from tests import stand_in
from tests.e2e.support import (
    ROOT,
    config_tree,
    environment,
    run_here,
    run_job,
    write_config,
    write_list,
)

pytestmark = pytest.mark.chaos

FAULTS = {
    "sleep": "timeout",
    "spin": "timeout",
    "allocate": "too_large",
    "segv": "crashed",
    "abort": "crashed",
}
GOOD = ("bikes", "h264_long", "png")


def poisoned(folder, clip):
    """Rows of good sources and of bad ones, among them one that breaks the look at its header."""
    size = {"width": 160, "height": 96, "fps": 25.0, "frames": 250}
    rows = [{"video": str(clip(name)), "id": name} for name in GOOD]
    for how in FAULTS:
        path = stand_in.marked(clip("h264_long"), folder / f"{how}.mp4", "decode", how, 2)
        rows.insert(1, {"video": str(path), "id": how, **size})
    path = stand_in.marked(clip("h264_open"), folder / "look.mp4", "look", "segv")
    return [{"video": str(path), "id": "look"}, *rows]


def config(tmp_path, rows, name, **changes):
    dataset = write_list(tmp_path / "clips.jsonl", rows)
    tree = config_tree(
        dataset,
        tmp_path / name,
        run__task_windows=100,  # good and bad sources share units
        decode__grace_seconds=4,
        decode__seconds_per_second=20,
        decode__memory_bytes="400MiB",
        **changes,
    )
    return write_config(tmp_path / f"{name}.yaml", tree)


def obedient(**extra):
    path = os.pathsep.join([stand_in.FOLDER, str(ROOT)])
    return environment(PYTHONPATH=path, **extra)


@pytest.mark.parametrize(
    "how",
    [
        {"run__runner": "local"},
        pytest.param(
            {"run__runner": "ray", "run__decode": "stage"},
            marks=[pytest.mark.ray, pytest.mark.slow],
        ),
        pytest.param(
            {"run__runner": "ray", "run__decode": "in_actor"},
            marks=[pytest.mark.ray, pytest.mark.slow],
        ),
    ],
    ids=["local", "stage", "in_actor"],
)
def test_poison_costs_itself_alone(how, tmp_path, clip, ray_folder):
    rows = poisoned(tmp_path, clip)
    changes = {**how, "run__num_cpus": 4, "run__object_store_bytes": 200 * 2**20}
    done = run_job(config(tmp_path, rows, "cache", **changes), env=obedient(RAY_TMPDIR=ray_folder))
    assert done.code == 0, done.stderr
    assert done.report["sources"] == {"total": 9, "ok": 3, "skipped": 0, "failed": 6}
    cache = LatentCache.open(str(tmp_path / "cache"))
    sources = {row["id"]: row for row in cache.sources().to_pylist()}
    reasons = {name: sources[name]["reason"] for name in FAULTS}
    assert reasons == FAULTS
    assert sources["look"]["reason"] == "crashed"
    assert "SIGSEGV" in sources["segv"]["message"]
    clean = [row for row in rows if row["id"] in GOOD]
    reference = run_here(config(tmp_path, clean, "reference", decode__isolate=False))
    assert reference.code == 0, reference.stderr
    undisturbed = LatentCache.open(str(tmp_path / "reference"))
    ids = [sorted(c.samples()["sample_id"].to_pylist()) for c in (cache, undisturbed)]
    assert ids[0] == ids[1]
    assert len(ids[0]) > 10
    for sample_id in ids[0]:  # other packs, so that last digits (of float16) may differ
        ours, theirs = cache.read(sample_id), undisturbed.read(sample_id)
        torch.testing.assert_close(ours, theirs, rtol=2**-10, atol=1e-5)


def test_without_isolation_a_crash_ends_the_run(tmp_path, clip):
    """What the watchdog is for; the stand-in kills the process that decodes."""
    bad = stand_in.marked(clip("h264_open"), tmp_path / "bad.mp4", "decode", "segv")
    rows = [{"video": str(bad), "id": "bad"}]
    env = obedient(STAND_IN="pipeline.isolated.choice")
    done = run_job(config(tmp_path, rows, "cache", decode__isolate=False), env=env)
    assert done.code == -signal.SIGSEGV
