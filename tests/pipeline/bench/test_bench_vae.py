"""The VAE's benchmark: what it says is of this run, and its checks can fail."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from jobs.benchmark import main
from pipeline.bench import goldens
from pipeline.bench.vae import GOLDENS
from vae import VAEConfig, encoding_cost

WINDOW = "uint8_b1_t17_32x32.safetensors"
SMALL = ["--height", "32", "--width", "48", "--widths", "narrow", "--turns", "2"]


def benchmark(capsys, *options):
    code = main(["vae", *SMALL, *options])
    printed = capsys.readouterr()
    lines = [line for line in printed.out.splitlines() if line.startswith("{")]
    return code, json.loads(lines[-1]) if lines else None, printed


@pytest.mark.parametrize(("options", "frames"), [((), 17), (("--images", "--batch", "3"), 1)])
def test_rates_are_of_what_was_counted_and_timed(capsys, tmp_path, options, frames):
    out = tmp_path / "vae.json"
    code, found, printed = benchmark(capsys, *options, "--out", str(out))
    assert code == 0
    narrow = VAEConfig(
        z_channels=2, encoder_ch_mult=(1, 2, 1, 1), decoder_ch=32, decoder_ch_mult=(1, 2, 1, 1)
    )
    cost = encoding_cost(narrow, 32, 48, frames, torch.float32, 8)
    assert found["counted"]["flops"] == cost.flops
    turns = found["turns"]["encode"]
    assert len(turns) == len(found["turns"]["torch.mm"]) == 2
    batch = 3 if options else 1
    assert {turn["units"] for turn in turns} == {batch}
    slowest, fastest = (pick(turn["wall_seconds"] for turn in turns) for pick in (max, min))
    assert batch / slowest <= found["windows_per_second"] <= batch / fastest
    assert found["seconds"] * found["windows_per_second"] == pytest.approx(batch)
    rate = found["windows_per_second"] * cost.flops
    assert found["flops_per_second"] == pytest.approx(rate)
    assert found["of_mm"] == pytest.approx(rate / found["mm_flops_per_second"])
    assert found["planned_bytes"] > 0
    assert json.loads(out.read_text()) == found
    assert "slices of" in printed.out


@pytest.fixture
def few(tmp_path):
    """Of the reference's tensors one image and one window of each model."""
    for name in goldens.SETS:
        folder, source = tmp_path / name, GOLDENS / name
        folder.mkdir()
        cases = json.loads((source / "config.json").read_text())["cases"]
        kept = [c for c in cases if c["file"] in ("uint8_b1_t1_32x32.safetensors", WINDOW)]
        assert len(kept) == 2
        (folder / "config.json").write_text(json.dumps({"cases": kept}))
        for file in ("weights.safetensors", *(case["file"] for case in kept)):
            (folder / file).write_bytes((source / file).read_bytes())
    return tmp_path


def test_the_references_clips_are_checked_through_every_path(capsys, few):
    code, found, printed = benchmark(capsys, "--check", "--goldens", str(few))
    assert code == 0
    assert found["passed"]
    names = [check["name"] for check in found["checks"]]
    assert len(set(names)) == len(names) == 16
    assert all(0 < check["error"] <= check["bound"] for check in found["checks"])
    assert "ok    v2_small, bfloat16, finest slices" in printed.out


@pytest.mark.slow
def test_all_of_the_references_clips_pass(capsys):
    code, found, _ = benchmark(capsys, "--check")
    assert (code, found["passed"]) == (0, True)


def test_a_wrong_number_fails_the_check(few):
    for name in goldens.SETS:
        tensors = load_file(few / name / WINDOW)
        tensors["mean"] += 0.001
        save_file(tensors, few / name / WINDOW)
    checks = goldens.check_goldens(few, "cpu", torch.float32, compiled=False)
    assert checks
    assert not any(check.passed for check in checks)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--height", "40"], "multiple of 16"),
        (["--check", "--goldens", "/nowhere"], "--goldens"),
        (["--checkpoint", "/nowhere.safetensors"], "/nowhere.safetensors"),
    ],
)
def test_mistakes_are_told(capsys, options, words):
    code, _, printed = benchmark(capsys, *options)
    assert code == 1
    assert words in printed.err.splitlines()[-1]
