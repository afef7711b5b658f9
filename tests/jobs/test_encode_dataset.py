"""The command line: messages, exit codes, the plan, and the last line of stdout."""

import errno
import json
import re
from pathlib import Path

import pytest

from jobs import encode_dataset
from pipeline.storage import Store
from tests.e2e.support import config_tree, write_config, write_list


def _run(capsys, *arguments: object) -> tuple[int, str, str]:
    code = encode_dataset.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def config(tmp_path: Path, clip) -> Path:
    dataset = write_list(tmp_path / "clips.jsonl", [{"video": str(clip("h264_open"))}])
    return write_config(tmp_path / "config.yaml", config_tree(dataset, tmp_path / "cache"))


@pytest.mark.parametrize(
    "arguments", [[], ["--config"], ["--config", "x.yaml", "--limit", "many"], ["--nonsense"]]
)
def test_usage_errors_exit_with_1(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        encode_dataset.main(arguments)
    assert stopped.value.code == 1
    assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("windows.strid=3", ["windows.strid", "'stride'"]),
        ("windows.tail=fold", ["windows.tail", "fold", "overlap"]),
        ("buckets=[{height: 100, width: 64}]", ["100", "96", "112"]),
        ("vae.random_seed=null", ["vae.checkpoint", "vae.random_seed"]),
        ("dataset.uri=/no/such/folder", ["/no/such/folder"]),
        ("output.uri=http://host/cache", ["http://host/cache", "s3://"]),
        ("vae.z_channels=3", ["z_channels"]),
    ],
)
def test_mistakes_name_the_key_and_the_remedy(config, capsys, override, parts):
    code, out, err = _run(capsys, "--config", config, "--set", override)
    assert code == 1
    assert out == ""
    assert "Traceback" not in err
    assert all(part in err for part in parts), err


def test_logs_in_json(config, capsys):
    code, out, err = _run(capsys, "--config", config, "--log-format", "json", "--plan")
    assert code == 0
    rows = [json.loads(line) for line in err.splitlines()]
    [warning] = [row for row in rows if row["level"] == "warning"]
    assert "the VAE's weights are random" in warning["message"]
    assert json.loads(out.splitlines()[-1])["sources"]["added"] == 1

    wrong = ("--config", config, "--log-format", "json", "--set", "windows.tail=fold")
    code, out, err = _run(capsys, *wrong)
    assert (code, out) == (1, "")
    assert json.loads(err)["level"] == "error"
    assert "windows.tail" in json.loads(err)["message"]


def test_a_missing_checkpoint_is_named(config, capsys, tmp_path):
    sets = [
        "--set",
        "vae.random_seed=null",
        "--set",
        f"vae.checkpoint={tmp_path}/vae_v2.safetensors",
    ]
    code, _, err = _run(capsys, "--config", config, *sets)
    assert code == 1
    assert f"{tmp_path}/vae_v2.safetensors" in err


def test_the_plan_changes_nothing_and_tells_what_a_run_would_do(config, capsys, tmp_path):
    code, out, _ = _run(capsys, "--config", config, "--plan")
    assert code == 0
    assert not (tmp_path / "cache").exists()
    for word in ("added", "changed", "reusable", "failed before", "removed", "moments", "TFLOP/s"):
        assert word in out
    planned = json.loads(out.splitlines()[-1])
    assert planned["sources"]["added"] == 1
    assert planned["windows"] > 0
    assert planned["bytes"]["moments"] == 2 * planned["bytes"]["mean"]


def test_the_last_line_is_the_run(config, capsys, tmp_path):
    code, out, err = _run(capsys, "--config", config)
    assert code == 0, err
    report = json.loads(out.splitlines()[-1])
    assert list(report) == [
        "run_id",
        "sources",
        "windows",
        "shards",
        "bytes",
        "seconds",
        "snapshot",
        "encoder_busy",
    ]
    shards = list((tmp_path / "cache/data").rglob("*.safetensors"))
    assert report["shards"] == len(shards)
    assert report["bytes"] == sum(path.stat().st_size for path in shards)
    assert "random" in err
    assert re.search(r"written +\d+ windows", out)


def test_another_contract_is_refused_with_the_fields_and_both_ways_on(config, capsys, tmp_path):
    assert _run(capsys, "--config", config)[0] == 0
    code, _, err = _run(capsys, "--config", config, "--set", "latents.statistic=mean")
    assert code == 1
    assert all(
        part in err for part in ("statistic", "moments", "mean", "--overwrite", "output.uri")
    )
    code, out, _ = _run(
        capsys, "--config", config, "--set", "latents.statistic=mean", "--overwrite"
    )
    assert code == 0
    assert json.loads(out.splitlines()[-1])["snapshot"] == 2
    contract = json.loads((tmp_path / "cache/contract.json").read_text())
    assert contract["statistic"] == "mean"


def test_limit_takes_the_first_sources_and_removes_none(tmp_path, clip, capsys):
    rows = [{"video": str(clip(name)), "id": name} for name in ("h264_open", "short")]
    dataset = write_list(tmp_path / "clips.jsonl", rows)
    tree = config_tree(dataset, tmp_path / "cache", windows__tail="pad")
    config = write_config(tmp_path / "config.yaml", tree)
    assert _run(capsys, "--config", config)[0] == 0
    code, out, _ = _run(capsys, "--config", config, "--limit", 1)
    assert code == 0
    report = json.loads(out.splitlines()[-1])
    assert report["sources"]["total"] == 1
    assert report["snapshot"] == 1


def test_a_source_that_left_the_dataset_leaves_new_snapshots_only(tmp_path, clip, capsys):
    from pipeline import LatentCache

    rows = [{"video": str(clip(name)), "id": name} for name in ("h264_open", "short")]
    dataset = write_list(tmp_path / "clips.jsonl", rows)
    tree = config_tree(dataset, tmp_path / "cache", windows__tail="pad")
    config = write_config(tmp_path / "config.yaml", tree)
    assert _run(capsys, "--config", config)[0] == 0
    write_list(dataset, rows[:1])
    assert _run(capsys, "--config", config)[0] == 0
    uri = str(tmp_path / "cache")
    before, after = LatentCache.open(uri, snapshot=1), LatentCache.open(uri)
    assert before.sources().num_rows == 2
    assert after.sources()["id"].to_pylist() == ["h264_open"]
    assert after.samples().num_rows < before.samples().num_rows
    assert before.read(before.samples()["sample_id"][-1].as_py())


def test_an_output_that_cannot_be_is_named(config, capsys, tmp_path):
    (tmp_path / "file").write_text("in the way")
    code, _, err = _run(capsys, "--config", config, "--output", tmp_path / "file")
    assert code == 1
    assert f"error: {tmp_path}/file cannot be read: " in err


@pytest.mark.parametrize(
    "folder", ["data", "leases", "samples", "sources", "runs", "captions", "snapshots"]
)
def test_an_output_that_cannot_be_written_is_named(config, capsys, tmp_path, folder):
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / folder).write_text("in the way")
    code, _, err = _run(capsys, "--config", config)
    assert code == 1
    error = err.splitlines()[-1]
    assert error.startswith(f"error: {cache} cannot be ")
    assert "check the path" in error


def test_an_output_that_can_never_be_is_named(config, capsys):
    code, _, err = _run(capsys, "--config", config, "--output", "/proc/x")
    assert code == 1
    assert "error: /proc/x cannot be written: " in err


def test_what_was_committed_before_the_disk_failed_stays(config, capsys, tmp_path, monkeypatch):
    plain = Store.create

    def create(store, path, data):
        if path.startswith("snapshots/"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return plain(store, path, data)

    monkeypatch.setattr(Store, "create", create)
    code, _, err = _run(capsys, "--config", config)
    assert code == 1
    assert f"error: {tmp_path}/cache cannot be written: [Errno 28] No space left" in err
    monkeypatch.undo()
    code, out, _ = _run(capsys, "--config", config)
    assert code == 0
    report = json.loads(out.splitlines()[-1])
    assert (report["windows"], report["snapshot"]) == (0, 1)


def test_an_empty_cache_takes_another_contract(config, capsys, tmp_path):
    """A first run that failed before its first sample must not fix the contract."""
    (tmp_path / "cache").mkdir()
    assert _run(capsys, "--config", config)[0] == 0
    contract = (tmp_path / "cache/contract.json").read_text()
    other = tmp_path / "other"
    other.mkdir()
    (other / "contract.json").write_text(contract.replace("moments", "mean"))
    assert _run(capsys, "--config", config, "--output", other)[0] == 0
    assert (other / "contract.json").read_text() == contract


def test_a_checkpoint_that_does_not_fit_is_refused_before_any_work(config, capsys, tmp_path):
    weights = Path(__file__).parents[1] / "data/goldens/v2_small/weights.safetensors"
    sets = ["--set", "vae.random_seed=null", "--set", f"vae.checkpoint={weights}"]
    code, _, err = _run(capsys, "--config", config, *sets)
    assert code == 1
    assert "vae.checkpoint" in err
    assert not (tmp_path / "cache").exists()


def test_links_are_followed_and_a_broken_one_is_missing(tmp_path, clip, capsys):
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "good.mp4").symlink_to(clip("h264_open"))
    (folder / "broken.mp4").symlink_to(tmp_path / "nowhere.mp4")
    config = write_config(tmp_path / "c.yaml", config_tree(folder, tmp_path / "cache"))
    for windows in (5, 0):
        code, out, err = _run(capsys, "--config", config)
        assert code == 0, err
        report = json.loads(out.splitlines()[-1])
        assert report["sources"] == {"total": 2, "ok": 1, "skipped": 0, "failed": 1}
        assert report["windows"] == windows
    assert "failed: missing" in out or "1 failed" in out


def test_the_contact_sheet_leaves_out_what_is_gone(tmp_path, clip, capsys):
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.mp4").write_bytes(clip("seventeen").read_bytes())
    rows = [{"video": str(folder / f"{name}.mp4"), "version": "1"} for name in ("a", "b")]
    dataset = write_list(tmp_path / "clips.jsonl", rows)
    tree = config_tree(dataset, tmp_path / "cache", report__contact_sheet_windows=64)
    config = write_config(tmp_path / "c.yaml", tree)
    assert _run(capsys, "--config", config)[0] == 0
    (folder / "a.mp4").unlink()
    write_list(dataset, [*rows, {"video": str(clip("h264_open"))}])
    code, out, err = _run(capsys, "--config", config)
    assert code == 0, err
    assert "left out" in err
    assert json.loads(out.splitlines()[-1])["snapshot"] == 2
    assert len(list((tmp_path / "cache/reports").glob("*/contact_sheet.png"))) == 2


def test_runs_that_encode_nothing_hand_on_the_rate_of_one_that_did(config, capsys):
    first = json.loads(_run(capsys, "--config", config)[1].splitlines()[-1])["run_id"]
    for _ in range(2):
        code, out, _ = _run(capsys, "--config", config)
        assert code == 0
        assert f"TFLOP/s an encoder (achieved by run {first})" in out
