"""The job that makes a page, and the page and pictures that runs leave."""

import json
import re
from pathlib import Path

import pytest

from jobs import encode_dataset, report_cache
from pipeline import LatentCache
from tests.e2e.support import config_tree, write_config, write_list


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    code = report_cache.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(scope="module")
def cache(tmp_path_factory, clip_folder) -> Path:
    """A cache of real clips, one too short for a second window, and one that is gone."""
    from tests import clips

    folder = tmp_path_factory.mktemp("report")
    rows = [
        {"video": str(clips.make(name, clip_folder)), "caption": name}
        for name in ("h264_open", "seventeen")
    ]
    rows.append({"video": str(folder / "gone.mp4")})
    dataset = write_list(folder / "clips.jsonl", rows)
    tree = config_tree(
        dataset,
        folder / "cache",
        windows__tail="pad",
        report__contact_sheet_windows=3,
        run__pack_bytes=150_000,  # several packs: the first tells nothing of the speed of light
    )
    config = write_config(folder / "c.yaml", tree)
    assert encode_dataset.main(["--config", str(config)]) == 0
    return folder / "cache"


def test_a_run_leaves_a_page_with_its_figures(cache):
    [page] = cache.glob("reports/*/report.html")
    text = page.read_text()
    opened = LatentCache.open(str(cache))
    windows = opened.samples().num_rows
    assert f'data-figure="windows" value="{windows}"' in text
    assert 'data-figure="failed" value="1"' in text
    assert re.search(r"Speed of light: 0\.\d\d</h3>", text)
    assert text.count("data:image/jpeg;base64,") == 3 * 3
    assert "padded:" in text
    assert "Random weights" in text
    assert "--retry-failed" in text
    assert (page.parent / "contact_sheet.png").is_file()


def test_a_run_that_changes_nothing_leaves_none(cache, capsys):
    before = sorted(cache.glob("reports/*"))
    assert (
        encode_dataset.main(["--config", str(cache.parent / "c.yaml"), "--set", "max_attempts=1"])
        == 0
    )
    assert sorted(cache.glob("reports/*/report.html")) == [before[0] / "report.html"]


def test_the_job_writes_one_file_and_says_what_it_counted(cache, tmp_path, capsys):
    code, out, err = run(capsys, cache, "--out", tmp_path / "out", "--windows", "2")
    assert code == 0, err
    told = json.loads(out.splitlines()[-1])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["report.html"]
    assert told["bytes"] == (tmp_path / "out/report.html").stat().st_size
    assert told["sources"] == {"total": 3, "ok": 2, "skipped": 0, "failed": 1}
    assert told["windows"] == LatentCache.open(str(cache)).samples().num_rows
    assert told["shown"] == 2
    assert told["snapshot"] == 1


def test_sources_that_are_gone_are_told_of(tmp_path, clip, capsys):
    video = tmp_path / "a.mp4"
    video.write_bytes(clip("seventeen").read_bytes())
    dataset = write_list(tmp_path / "clips.jsonl", [{"video": str(video), "version": "1"}])
    config = write_config(tmp_path / "c.yaml", config_tree(dataset, tmp_path / "cache"))
    assert encode_dataset.main(["--config", str(config)]) == 0
    video.unlink()
    capsys.readouterr()
    out = tmp_path / "out"
    code, _, err = run(capsys, tmp_path / "cache", "--out", out, "--windows", "2")
    assert code == 0
    assert "left out a.mp4" in err
    assert "Left out" in (out / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["/no/such/cache", "--out", "x"], ["/no/such/cache", "check the URI"]),
        (["CACHE", "--out", "s3://b/x"], ["s3://b/x", "local folder"]),
        (["CACHE", "--out", "x", "--snapshot", "9"], ["no snapshot 9"]),
        (["/no/such/cache", "--out", "/dev/null/x"], ["/dev/null/x", "written"]),
        (
            ["CACHE", "--out", "x", "--windows", "1", "--checkpoint", "/no/vae.safetensors"],
            ["/no/vae.safetensors"],
        ),
        (["CACHE", "--out", "x", "--endpoint-url", "host"], ["--endpoint-url", "https://"]),
    ],
)
def test_mistakes_are_one_message(cache, tmp_path, monkeypatch, capsys, arguments, parts):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, *(str(cache) if a == "CACHE" else a for a in arguments))
    assert code == 1
    assert err.startswith("error: ")
    assert "Traceback" not in err
    assert all(part in err for part in parts), err
    assert list(tmp_path.iterdir()) == []


def test_another_checkpoint_is_refused(cache, tmp_path, capsys):
    weights = Path(__file__).parents[1] / "data/goldens/v2_small/weights.safetensors"
    code, _, err = run(capsys, cache, "--out", tmp_path, "--windows", "1", "--checkpoint", weights)
    assert code == 1
    assert "weights.safetensors" in err


def test_usage_errors_exit_with_1(capsys):
    for arguments in ([], ["uri"], ["uri", "--out", "x", "--windows", "-1"]):
        with pytest.raises(SystemExit) as stopped:
            report_cache.main(arguments)
        assert stopped.value.code == 1
