"""Files that are no videos cost themselves alone: a reason each, and the counts close."""

import csv
import json

from deltalake import DeltaTable

from pipeline import LatentCache
from pipeline.errors import Reason
from tests.e2e.support import config_tree, run_here, run_job, write_config, write_list

BAD = {
    "text": {Reason.UNSUPPORTED_CONTAINER},
    "hls": {Reason.UNSUPPORTED_CONTAINER},
    "cut_moovless": {Reason.INVALID_DATA},
    "cut_faststart": {Reason.DECODE_ERROR, Reason.INVALID_DATA},
    "empty": {Reason.EMPTY_FILE},
    "audio_only": {Reason.NO_VIDEO_STREAM},
}


def test_each_bad_file_is_a_failed_row_and_all_others_are_encoded(tmp_path, clip):
    rows = [{"video": str(clip(name)), "id": name} for name in [*BAD, "h264_open", "short"]]
    rows.append({"video": str(tmp_path / "nowhere.mp4"), "id": "missing"})
    dataset = write_list(tmp_path / "clips.jsonl", rows)
    config = write_config(tmp_path / "c.yaml", config_tree(dataset, tmp_path / "cache"))
    done = run_job(config)
    assert done.code == 0, done.stderr
    assert done.report["sources"] == {"total": 9, "ok": 1, "skipped": 1, "failed": 7}
    assert done.report["snapshot"] == 1
    assert "Traceback" not in done.stderr
    cache = LatentCache.open(str(tmp_path / "cache"))
    sources = {row["id"]: row for row in cache.sources().to_pylist()}
    for name, reasons in {**BAD, "missing": {Reason.MISSING}}.items():
        assert sources[name]["status"] == "failed", name
        assert sources[name]["reason"] in set(map(str, reasons)), (name, sources[name]["reason"])
        assert sources[name]["message"]
        assert sources[name]["reason"] in done.stdout
    assert (sources["short"]["status"], sources["short"]["reason"]) == ("skipped", "too_short")
    assert sources["h264_open"]["status"] == "ok"
    assert set(cache.samples()["source_id"].to_pylist()) == {sources["h264_open"]["source_id"]}


def test_more_failures_than_allowed_end_with_2_and_are_published(tmp_path, clip):
    rows = [{"video": str(clip("h264_open"))}, {"video": str(clip("text"))}]
    dataset = write_list(tmp_path / "clips.jsonl", rows)
    tree = config_tree(dataset, tmp_path / "cache", max_failure_rate=0.25)
    done = run_here(write_config(tmp_path / "c.yaml", tree))
    assert done.code == 2
    assert "max_failure_rate" in done.stderr
    assert done.report["sources"] == {"total": 2, "ok": 1, "skipped": 0, "failed": 1}
    assert json.loads((tmp_path / "cache/snapshots/1.json").read_text())["snapshot"] == 1


def test_failed_sources_are_retried_by_rule(tmp_path, clip):
    rows = [{"video": str(clip("text"))}, {"video": str(tmp_path / "late.mp4")}]
    dataset = write_list(tmp_path / "clips.jsonl", rows)
    tree = config_tree(dataset, tmp_path / "cache", max_attempts=2)
    config = write_config(tmp_path / "c.yaml", tree)
    for _ in range(3):
        done = run_here(config)
        assert done.report["sources"]["failed"] == 2
    assert "1  of the failed are quarantined" in done.stdout
    [listed] = (tmp_path / "cache/reports").glob(f"{done.report['run_id']}/quarantine.csv")
    [row] = csv.DictReader(listed.open(newline=""))
    assert (row["uri"], row["reason"], row["attempts"]) == (rows[1]["video"], "missing", "2")
    attempts = {
        row["reason"]: row["attempts"]
        for row in LatentCache.open(str(tmp_path / "cache")).sources().to_pylist()
    }
    assert attempts == {"unsupported_container": 1, "missing": 2}
    run_here(config, "--retry-failed")
    attempts = {
        row["reason"]: row["attempts"]
        for row in LatentCache.open(str(tmp_path / "cache")).sources().to_pylist()
    }
    assert attempts == {"unsupported_container": 2, "missing": 3}
    (tmp_path / "late.mp4").write_bytes(clip("h264_open").read_bytes())
    assert run_here(config).report["sources"] == {"total": 2, "ok": 1, "skipped": 0, "failed": 1}


def test_a_wrong_size_in_the_list_costs_one_run(tmp_path, clip):
    """What the file itself says is kept with the failure, and the next run goes by that."""
    wrong = {"width": 96, "height": 160, "fps": 25.0, "frames": 100}
    dataset = write_list(tmp_path / "clips.jsonl", [{"video": str(clip("h264_open")), **wrong}])
    config = write_config(tmp_path / "c.yaml", config_tree(dataset, tmp_path / "cache"))
    run_here(config)
    [row] = LatentCache.open(str(tmp_path / "cache")).sources().to_pylist()
    assert (row["reason"], row["width"], row["height"]) == ("hint_mismatch", 160, 96)
    assert json.loads(row["facts"])["codec"] == "h264"
    assert run_here(config).report["sources"] == {"total": 1, "ok": 1, "skipped": 0, "failed": 0}


def test_what_cannot_be_opened_counts_its_attempts_whatever_the_list_says(tmp_path, clip):
    size = {"width": 160, "height": 96}
    rows = [
        {"video": str(tmp_path / "late.mp4"), **size, "fps": 25.0, "frames": 100},
        {"video": str(clip("text")), **size},
    ]
    dataset = write_list(tmp_path / "clips.jsonl", rows)
    tree = config_tree(dataset, tmp_path / "cache", max_attempts=2)
    for _ in range(3):
        run_here(write_config(tmp_path / "c.yaml", tree))
    sources = LatentCache.open(str(tmp_path / "cache")).sources().to_pylist()
    assert {row["reason"]: row["attempts"] for row in sources} == {
        "missing": 2,
        "unsupported_container": 1,
    }
    assert {row["width"] for row in sources} == {None}


def test_what_fails_amid_its_frames_keeps_what_its_header_says(tmp_path, clip):
    dataset = write_list(tmp_path / "clips.jsonl", [{"video": str(clip("damaged"))}])
    config = write_config(tmp_path / "c.yaml", config_tree(dataset, tmp_path / "cache"))
    run_here(config)
    [row] = LatentCache.open(str(tmp_path / "cache")).sources().to_pylist()
    assert (row["status"], row["reason"]) == ("failed", "decode_error")
    assert json.loads(row["facts"])["pixel_format"] == "yuv420p"


def test_a_run_in_which_most_fail_stops_early_and_goes_on_when_asked(tmp_path, clip):
    size = {"width": 160, "height": 96, "fps": 25.0, "frames": 100}
    good = [{"video": str(clip("h264_open")), "id": "good", **size}]
    bad = []
    for number in range(40):
        path = tmp_path / f"{number}.mp4"
        path.write_bytes(clip("cut_moovless").read_bytes())
        bad.append({"video": str(path), "id": str(number), **size})
    dataset = write_list(tmp_path / "clips.jsonl", [*good, *bad])
    tree = config_tree(
        dataset,
        tmp_path / "cache",
        max_failure_rate=0.5,
        stop_early_sources=5,
        run__task_windows=1,
        output__shard_bytes=1,  # what failed is told with every pack
    )
    config = write_config(tmp_path / "c.yaml", tree)
    done = run_here(config)
    assert done.code == 2
    assert "stopped early" in done.stderr
    assert "most often invalid_data" in done.stderr
    assert done.report["snapshot"] is None
    rows = DeltaTable(str(tmp_path / "cache/sources")).to_pyarrow_table().to_pylist()
    assert 5 <= len(rows) < 41
    done = run_here(config, "--set", "stop_early_sources=null")
    assert done.code == 2
    assert done.report["sources"] == {"total": 41, "ok": 1, "skipped": 0, "failed": 40}
    assert done.report["snapshot"] == 1
