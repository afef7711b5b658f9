"""The VAE's benchmark: what it says is of this run, and its checks can fail."""

import argparse
import json
import math
from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file

from jobs.benchmark import main
from pipeline.bench import goldens, vae
from pipeline.bench.vae import GOLDENS
from pipeline.transfer import Fetched
from tests.e2e.support import config_tree, write_config
from vae import AutoencoderKL, VAEConfig, encoding_cost
from vae.norms import GroupNorm, norm_into

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


def test_what_a_configuration_says_counts_where_the_arguments_are_silent(capsys, tmp_path):
    tree = config_tree("/unused", "/unused", vae__compute_dtype="bfloat16", run__compile=True)
    config = str(write_config(tmp_path / "config.yaml", tree))
    options = ["--config", config, "--set", "run.encoder_threads=1", "--turns", "1"]
    assert main(["vae", *options]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    model = VAEConfig(z_channels=2, **tree["vae"]["widths"])
    cost = encoding_cost(model, 32, 64, 17, torch.float32, 8)
    assert found["counted"]["flops"] == cost.flops
    assert (found["dtype"], found["threads"], found["compiled"]) == ("bfloat16", 1, True)
    assert main(["vae", *options, "--width", "48", "--dtype", "float32"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["counted"]["flops"] == encoding_cost(model, 32, 48, 17, torch.float32, 8).flops
    assert found["dtype"] == "float32"


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


@pytest.mark.slow
def test_the_references_clips_are_checked_through_every_path(capsys, few):
    code, found, printed = benchmark(capsys, "--check", "--goldens", str(few))
    assert code == 0
    assert found["passed"]
    names = [check["name"] for check in found["checks"]]
    assert len(set(names)) == len(names) == 20
    assert all(0 <= check["error"] <= check["bound"] for check in found["checks"])
    in_a_run = [check for check in found["checks"] if "as in a run" in check["name"]]
    assert len(in_a_run) == 4
    assert all(check["error"] > 0 for check in found["checks"] if check not in in_a_run)
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
    assert len(checks) == 10
    assert {check.name for check in checks if check.passed} == {  # which looks at no clip
        f"{name}, float32, as in a run" for name in goldens.SETS
    }


@pytest.fixture
def fewest(few, monkeypatch):
    """Of one model an image alone."""
    monkeypatch.setattr(goldens, "SETS", ("v2_small",))
    config = few / "v2_small" / "config.json"
    image = [c for c in json.loads(config.read_text())["cases"] if c["file"] != WINDOW]
    config.write_text(json.dumps({"cases": image}))
    return few


def test_windows_that_come_back_wrong_from_a_run_fail_the_check(fewest, monkeypatch):
    def mixed_up(self):
        return {name: tensor.roll(1, -1).numpy() for name, tensor in self.tensors.items()}

    monkeypatch.setattr(Fetched, "wait", mixed_up)
    checks = goldens.check_goldens(fewest, "cpu", torch.float32, compiled=False)
    assert [check.name for check in checks if not check.passed] == [
        "v2_small, float32, as in a run"
    ]


@pytest.mark.parametrize(
    ("broken", "error", "failed"),
    [
        ("decode", RuntimeError("CUDA error: an illegal address"), 4),
        ("mean", torch.OutOfMemoryError("CUDA out of memory"), 1),
    ],
)
def test_a_check_that_breaks_off_has_failed_and_the_others_go_on(
    capsys, fewest, tmp_path, monkeypatch, broken, error, failed
):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(AutoencoderKL, broken, fail)
    out = tmp_path / "vae.json"
    options = ("--check", "--goldens", str(fewest), "--out", str(out))
    code, found, printed = benchmark(capsys, *options)
    assert code == 1
    assert found["passed"] is False
    assert json.loads(out.read_text()) == found
    wrong = [check for check in found["checks"] if not check["passed"]]
    assert len(wrong) == 2 * failed
    assert {check["message"] for check in wrong} == {f"{type(error).__name__}: {error}"}
    assert {check["error"] for check in wrong} == {None}
    assert str(error) in printed.err.splitlines()[-1]
    assert found["windows_per_second"] > 0


def test_where_memory_runs_out_over_the_measurement_the_checks_go_on(
    capsys, fewest, tmp_path, monkeypatch
):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(vae, "_encode", fail)
    out = tmp_path / "vae.json"
    options = ("--check", "--goldens", str(fewest), "--out", str(out))
    code, found, printed = benchmark(capsys, *options)
    assert code == 1
    assert json.loads(out.read_text()) == found
    assert [check["name"] for check in found["checks"] if not check["passed"]] == ["measuring"]
    assert "memory ran out; try a smaller --batch" in printed.err.splitlines()[-1]


def test_the_file_is_written_whatever_happens(capsys, tmp_path, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError("no reason")

    out = tmp_path / "vae.json"
    monkeypatch.setattr(vae, "load_encoder", fail)
    with pytest.raises(ZeroDivisionError):
        benchmark(capsys, "--out", str(out))
    assert json.loads(out.read_text()) == {"passed": False, "error": "no reason"}


@pytest.mark.parametrize(("shares", "passed"), [([0.9, -3.0, 0.8], True), ([0.1, 0.9, 0.2], False)])
def test_copies_are_judged_by_the_median_of_three_tries(shares, passed, monkeypatch):
    asked = []

    def seen(*arguments):
        asked.append(arguments)
        return shares

    monkeypatch.setattr(vae, "_copies_hidden", seen)
    found = {}
    assert vae.check_copies("model", "x", 5, found).passed is passed
    assert asked == [("model", "x", 5, 3)]
    assert found["copy_hidden"] == sorted(shares)[1]


def test_compiled_norms_are_checked_within_the_budget(few, monkeypatch):
    """By a stand-in for the compiler, which the CPU here need not have."""
    model = AutoencoderKL.from_file(few / "v2_small" / "weights.safetensors")
    budgets = []
    posterior = AutoencoderKL.posterior

    def watched(self, x, *, memory_budget):
        budgets.append(memory_budget)
        return posterior(self, x, memory_budget=memory_budget)

    def compiled(wrong):
        def norm(x, out, *rest):
            norm_into(x, out, *rest)
            out.add_(wrong)

        for module in model.modules():
            if isinstance(module, GroupNorm):
                module.fused = norm

    monkeypatch.setattr(AutoencoderKL, "posterior", watched)
    args = argparse.Namespace(
        batch=1, images=False, frames=17, height=32, width=32, budget=7, turns=1
    )
    for wrong, passed in ((0.0, True), (0.01, False)):
        found = {}
        monkeypatch.setattr(model, "compile_norms", partial(compiled, wrong))
        assert vae.check_compiled_norms(model, args, found).passed is passed
        assert found["compiled_norms"]["per_second"] > 0
    assert set(budgets) == {7}
    for error in (torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("no Triton")):

        def fail(error=error):
            raise error

        monkeypatch.setattr(model, "compile_norms", fail)
        check = vae.check_compiled_norms(model, args, {})
        assert (check.passed, check.error) == (False, None)
        assert str(error) in check.message


def test_an_error_that_is_no_number_fails_the_check():
    check = goldens.checked("a check", 1.0, lambda: math.nan)
    assert (check.passed, check.error, check.message) == (False, None, "the error is nan")


@pytest.mark.parametrize("option", ["--batch", "--turns", "--threads", "--budget"])
@pytest.mark.parametrize("value", ["0", "-1", "1.5", "many"])
def test_numbers_that_count_are_1_or_more(capsys, option, value):
    with pytest.raises(SystemExit) as stopped:
        main(["vae", f"{option}={value}"])
    assert stopped.value.code == 1
    assert f"argument {option}: '{value}' is not a number of 1 or more" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("options", [[], ["--config", "configs/demo.yaml"]])
def test_a_gpu_is_looked_for_though_none_is_asked_of_ray(capsys, options):
    assert main(["vae", *options, "--device", "cuda"]) == 1
    assert "torch finds no CUDA device" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--height", "40"], "multiple of 16"),
        (["--config", "configs/demo.yaml"], "set vae.checkpoint or vae.widths there"),
        (["--check", "--goldens", "/nowhere"], "--goldens"),
        (["--checkpoint", "/nowhere.safetensors"], "/nowhere.safetensors"),
        (["--out", "/nowhere/vae.json"], "--out /nowhere/vae.json: No such file or directory"),
    ],
)
def test_mistakes_are_told(capsys, options, words):
    code, _, printed = benchmark(capsys, *options)
    assert code == 1
    assert words in printed.err.splitlines()[-1]
