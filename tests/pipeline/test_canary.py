"""The fidelity canary, on a small VAE that really reconstructs (``tests/faithful_vae.py``)."""

import functools
from pathlib import Path

import pytest
from helpers import make_config
from safetensors.torch import load_file, save_file

from pipeline.canary import CanaryError, CanaryReport, RunsCanary, check_fidelity
from pipeline.config import Config, load_config
from pipeline.errors import UserError
from pipeline.job import JobOptions, run_job
from pipeline.manifest import Manifest
from pipeline.storage import Store
from tests.faithful_vae import WIDTHS, smooth_frames, write_checkpoint, write_clip
from tests.faithful_vae import config as architecture
from tests.mistaken import Changed, as_bgr, as_if_in_0_to_1, same
from vae import seeded_state_dict


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("vae") / "vae.safetensors")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a lossless clip of two windows."""
    folder = tmp_path_factory.mktemp("videos")
    write_clip(folder / "smooth.mkv", smooth_frames(0, frames=34))
    return folder


def run_config(videos: Path, output: Path, checkpoint: Path | None, **fields) -> Config:
    vae = {"random_seed": 0} if checkpoint is None else {"checkpoint": str(checkpoint)}
    if checkpoint is None:
        vae["z_channels"] = 4
    return make_config(
        dataset__uri=str(videos),
        output__uri=str(output),
        buckets=fields.pop("buckets", [{"height": 32, "width": 64}]),
        vae={**vae, "device": "cpu", "widths": WIDTHS},
        decode__isolate=False,
        **{"canary": "on", **fields},
    )


def changed(frames=same, latents=same):
    return functools.partial(Changed, frames, latents)


def untouched(output: Path) -> bool:
    """Whether nothing of a cache is there but leases."""
    return [path.name for path in output.iterdir()] == ["leases"]


def test_a_sound_run_passes_and_tells(videos, tmp_path, checkpoint, capsys):
    output = tmp_path / "cache"
    assert run_job(run_config(videos, output, checkpoint), JobOptions()) == 0
    told = capsys.readouterr().err
    assert "fidelity canary: 2 windows decode with 2" in told
    assert "(at least 20)" in told
    assert Manifest(Store(str(output), make_config().storage)).snapshot().number == 1


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        (changed(as_if_in_0_to_1), ["less than canary_psnr 20", "not what the encoder makes"]),
        (changed(as_bgr), ["less than canary_psnr 20", "not what the encoder"]),
        (changed(latents=lambda t: t.swapaxes(-1, -2)), ["[3, 4, 4, 2]", "axes are swapped"]),
        pytest.param(
            changed(latents=lambda t: t.swapaxes(1, 2)),
            ["[4, 3, 2, 4]", "axes are swapped"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            changed(latents=lambda t: t[:, :, ::-1]),
            ["less than canary_psnr 20"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            changed(latents=lambda t: t[:, ::-1]),
            ["not what the encoder makes"],
            marks=pytest.mark.slow,
        ),
    ],
    ids=["range", "bgr", "height and width", "time and channels", "channels", "time"],
)
def test_mistakes_of_what_encodes_are_caught(videos, tmp_path, checkpoint, mistake, told):
    output = tmp_path / "cache"
    with pytest.raises(CanaryError) as caught:
        run_job(run_config(videos, output, checkpoint), JobOptions(), mistake)
    for words in told:
        assert words in str(caught.value)
    assert "Nothing was encoded" in str(caught.value)
    assert untouched(output)


@pytest.mark.parametrize("swap", ["frames", pytest.param("latents", marks=pytest.mark.slow)])
def test_swapped_axes_of_a_square_are_caught(videos, tmp_path, checkpoint, swap):
    fields = {"buckets": [{"height": 32, "width": 32}]}
    config = run_config(videos, tmp_path / "cache", checkpoint, **fields)
    turned = {"frames": lambda f: f.swapaxes(2, 3), "latents": lambda t: t.swapaxes(-1, -2)}
    with pytest.raises(CanaryError, match="not what the encoder makes"):
        run_job(config, JobOptions(), changed(**{swap: turned[swap]}))


@pytest.mark.parametrize("half", ["encoder", pytest.param("decoder", marks=pytest.mark.slow)])
def test_a_wrong_checkpoint_is_caught(videos, tmp_path, checkpoint, half):
    wrong = load_file(checkpoint)
    other = seeded_state_dict(architecture(), 1)
    wrong |= {key: value for key, value in other.items() if key.startswith(half)}
    path = tmp_path / "wrong.safetensors"
    save_file(wrong, path)
    with pytest.raises(CanaryError, match=r"less than canary_psnr 20\. Nothing was encoded"):
        run_job(run_config(videos, tmp_path / "cache", path), JobOptions())
    assert untouched(tmp_path / "cache")


@pytest.mark.slow
def test_random_weights_are_refused_where_the_canary_is_on(videos, tmp_path):
    with pytest.raises(CanaryError, match="less than canary_psnr"):
        run_job(run_config(videos, tmp_path / "cache", None), JobOptions())


@pytest.mark.slow
def test_the_limit_is_configured(videos, tmp_path, checkpoint):
    config = run_config(videos, tmp_path / "cache", checkpoint, canary_psnr=60)
    with pytest.raises(CanaryError, match=r"2\d\.\d dB, less than canary_psnr 60"):
        run_job(config, JobOptions())


@pytest.mark.slow
@pytest.mark.parametrize("statistic", ["mean", "sample"])
@pytest.mark.parametrize("form", ["safetensors", "parquet"])
def test_every_contract_has_fresh_latents_to_compare_with(
    videos, tmp_path, checkpoint, statistic, form
):
    config = run_config(
        videos,
        tmp_path / "cache",
        checkpoint,
        latents__statistic=statistic,
        output__format=form,
        canary_psnr=0.1,  # noise of this VAE's posterior is larger than its means
    )
    assert run_job(config, JobOptions()) == 0


# ---- when it runs


class Fake(RunsCanary):
    def __init__(self, report: CanaryReport | None, accelerated: bool = True) -> None:
        self._report, self._accelerated, self.looks = report, accelerated, 0

    @property
    def accelerated(self) -> bool:
        return self._accelerated

    def canary(self, units, recipe) -> CanaryReport | None:
        self.looks += 1
        return self._report


GOOD = CanaryReport("/a.mp4", 4, 31.5, 0.001)
WEIGHTS = {"checkpoint": "/vae_v2.safetensors"}
UNITS = [object()]


@pytest.mark.parametrize(
    ("canary", "weights", "accelerated", "told"),
    [
        ("auto", {"random_seed": 0}, True, "the VAE's weights are random"),
        ("auto", WEIGHTS, False, "there is no accelerator"),
        ("auto", WEIGHTS, True, None),
        ("off", WEIGHTS, True, "canary is off"),
        ("on", WEIGHTS, False, None),
        ("on", {"random_seed": 0}, False, None),
    ],
)
def test_when_it_is_skipped_and_says_so(canary, weights, accelerated, told):
    config = make_config(vae=weights, canary=canary)
    runner = Fake(GOOD, accelerated)
    text = check_fidelity(config, UNITS, None, runner)
    assert runner.looks == (told is None)
    expected = f"skipped, {told}" if told else "4 windows decode with 31.5 dB (at least 20)"
    assert expected in text


def test_nothing_to_encode_needs_no_look():
    runner = Fake(GOOD)
    assert "nothing is to be encoded" in check_fidelity(make_config(canary="on"), [], None, runner)
    assert not runner.looks


def test_no_window_to_look_at():
    auto = make_config(vae=WEIGHTS)
    assert "decode to no window" in check_fidelity(auto, UNITS, None, Fake(None))
    with pytest.raises(CanaryError, match="no window to look at; mend the dataset"):
        check_fidelity(make_config(vae=WEIGHTS, canary="on"), UNITS, None, Fake(None))


@pytest.mark.parametrize("psnr", [19.99, float("nan"), float("-inf")])
def test_the_limits_of_a_report(psnr):
    config = make_config()
    GOOD.check(config)
    with pytest.raises(CanaryError, match="less than canary_psnr 20"):
        CanaryReport("/a.mp4", 4, psnr, 0.001).check(config)
    with pytest.raises(CanaryError, match=r"0\.5 of their size differs, more than 0\.01"):
        CanaryReport("/a.mp4", 4, 30, 0.5).check(config)
    CanaryReport("/a.mp4", 4, 30, 0.04).check(make_config(vae__compute_dtype="bfloat16"))


@pytest.mark.parametrize(("written", "read"), [("on", "on"), ("off", "off"), ("auto", "auto")])
def test_yaml_has_words_for_truth(written, read):
    base = {"dataset.uri": "/d", "output.uri": "/o", "vae": {"random_seed": 0}}
    base["buckets"] = [{"height": 32, "width": 32}]
    assert load_config(None, [f"canary={written}"], base).canary == read
    with pytest.raises(UserError, match="canary"):
        load_config(None, ["canary=maybe"], base)
