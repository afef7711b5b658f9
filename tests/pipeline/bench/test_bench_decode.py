"""The decode benchmark decodes what it says, each way, and measures this run."""

import argparse
import contextlib
import json
import shutil
import subprocess
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from jobs.benchmark import main
from pipeline.bench import rivals
from pipeline.bench.decode import _ways, _work, add_arguments
from pipeline.bench.measure import Cost, Rates, in_turns, measured, share
from pipeline.bench.pick import Settings, _shortened, _spread, named, picked
from pipeline.bench.rivals import EXACT, decode_with_ffmpeg, decode_with_pyav
from pipeline.bench.work import decode_as_the_pipeline
from pipeline.buckets import Bucket
from tests.pipeline.helpers import make_config
from tests.pipeline.video.decoding import decode, recipe, request

WAYS = {"pipeline", "isolated", "PyAV", "PyAV, no scaling"}
FFMPEG = {"ffmpeg", "ffmpeg, exact"} if shutil.which("ffmpeg") else set()
SIZE = ("--height", "32", "--width", "48")


IN_PROCESS = {"pipeline": decode_as_the_pipeline, "PyAV": decode_with_pyav}


def run(capsys, *arguments):
    """The JSON object printed last, and what was printed before."""
    assert main(["decode", *(str(argument) for argument in arguments), "--turns", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    return json.loads(lines[-1]), lines[:-1]


def works(folder, *paths, spans=(), seconds=20.0, **changes):
    settings = Settings((Bucket(32, 48),), "cover", "bicubic", None, 2, 2**20, seconds)
    return named([str(path) for path in paths], spans, replace(settings, **changes), folder)


def counts(work):
    """Output frames that each way decodes."""
    found = {name: function(work) for name, function in IN_PROCESS.items()}
    if FFMPEG:
        for flags in ("", EXACT):
            cost = decode_with_ffmpeg("ffmpeg", work, flags, 0.0)
            assert cost.cpu_seconds > 0
            found[f"ffmpeg{flags}"] = cost.units
    return found


@pytest.mark.slow
def test_two_clips(clip, capsys):
    found, table = run(capsys, clip("h264_open"), clip("vp9"), *SIZE)
    assert [one["codec"] for one in found["clips"]] == ["h264", "vp9"]
    for one in found["clips"]:
        ways = one["ways"]
        assert set(ways) - {"torchcodec"} == WAYS | FFMPEG
        assert {way["units"] for way in ways.values()} == {100}
        assert set(one["pipeline_share_of"]) == set(ways) - {"pipeline"}
        assert one["bucket"] == "h32w48"
        for way in ways.values():
            assert len(way["turns"]) == 2
            rates = [turn["units"] / turn["cpu_seconds"] for turn in way["turns"]]
            assert min(rates) <= way["per_cpu_second"] <= max(rates)
    for name in WAYS | FFMPEG:
        assert sum(line.startswith(f"{name} ") for line in table) >= 2
    assert found["turns"] == 2
    assert len(found["load"]) == 3


@pytest.mark.parametrize("policy", ["cover", "contain", "stretch"])
@pytest.mark.parametrize("name", ["rotated90", "nonsquare", "late"])
def test_every_geometry_goes_through_every_way(name, policy, clip, tmp_path):
    [work] = works(tmp_path, clip(name), policy=policy, seconds=1.0)
    assert set(counts(work).values()) == {25}


@pytest.mark.skipif(not FFMPEG, reason="needs ffmpeg")
@pytest.mark.parametrize("policy", ["cover", "contain", "stretch"])
def test_ffmpeg_makes_the_same_pixels(policy, clip, tmp_path):
    """With the same flags: what is compared is the same work, but for FFmpeg's version."""
    [work] = works(tmp_path, clip("h264_open"), policy=policy, fps=Fraction(8))
    arguments = rivals._ffmpeg_arguments("ffmpeg", work, (None, None), EXACT)
    raw = subprocess.run([*arguments[:-1], "pipe:2"], capture_output=True, check=True).stderr
    theirs = np.frombuffer(raw, np.uint8).reshape(-1, 32, 48, 3)
    ours = decode(clip("h264_open"), request(), recipe(8, resize=policy, tail="pad")).pixels()
    difference = ours[:32].astype(int) - theirs[:32]
    assert np.abs(difference).mean() < 1


def test_fps_and_spans(clip, tmp_path):
    spans = [(1.0, 2.0), (8.0, 9.0)]
    [work] = works(tmp_path, clip("h264_long"), spans=spans, fps=Fraction(10), filter="area")
    found = counts(work)
    assert found["pipeline"] == found["PyAV"] == 20
    assert all(abs(count - 20) <= 2 for count in found.values())


def test_some_of_a_dataset(clip, tmp_path, capsys):
    for name in ("h264_open", "hevc_open", "png", "audio_only"):
        shutil.copy(clip(name), tmp_path)
    config = make_config(dataset__uri=str(tmp_path))
    settings = Settings((Bucket(64, 32), Bucket(32, 64)), "cover", "area", None, 2, 2**20, 20.0)
    found = picked(config, 9, settings, tmp_path)
    assert sorted(work.name for work in found) == ["h264_open.mp4", "hevc_open.mp4"]
    assert all(work.geometry.bucket == Bucket(32, 64) for work in found)
    told = capsys.readouterr().err
    assert "png.png is passed over: it is an image" in told
    assert "audio_only.mp4 is passed over" in told
    assert len(picked(config, 1, settings, tmp_path)) == 1


def test_a_configuration_on_s3(s3, s3_prefix, clip, tmp_path):
    """What is not local is copied; the configuration says what is made of it."""
    s3.filesystem().put(str(clip("h264_open")), f"{s3_prefix}/clip.mp4")
    config = tmp_path / "config.yaml"
    config.write_text(
        "dataset: {uri: nowhere}\noutput: {uri: cache}\nvae: {random_seed: 0}\n"
        f"buckets: [{{height: 32, width: 48}}]\nstorage: {{endpoint_url: '{s3.endpoint}'}}\n"
        "windows: {fps: 12.5}\nresize: {filter: lanczos}\n"
    )
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    given = ["--config", str(config), "--dataset", f"s3://{s3_prefix}"]
    [work] = _work(parser.parse_args(given), tmp_path)
    assert (work.name, work.filter, work.fps) == ("clip.mp4", "lanczos", Fraction("12.5"))
    assert set(counts(work).values()) <= {50, 51}
    assert decode_as_the_pipeline(work) == 50


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--height and --width, or --config"),
        (("a.mp4", *SIZE), "a.mp4"),
        (("a.mp4", "--height", "33", "--width", "48"), "bucket height 33"),
        (("a.mp4", "--config", "x.yaml"), "not both"),
        (("a.mp4", *SIZE, "--fps", "fast"), "fast"),
        (("a.mp4", *SIZE, "--fps", "0"), "fps"),
        (("a.mp4", *SIZE, "--span", "3", "2"), "--span 3 2"),
    ],
)
def test_mistakes_are_told(arguments, words, capsys):
    assert main(["decode", *arguments]) == 1
    assert words in capsys.readouterr().err


def test_without_ffmpeg(clip, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert rivals.ffmpeg_path() is None
    with contextlib.ExitStack() as stack:
        assert set(_ways(stack, None, torchcodec=False)) == WAYS


def test_costs_are_of_the_work():
    def burn(count: int) -> int:
        total = 0
        for number in range(count):
            total += number
        return count

    little, much = measured(burn, 10**4), measured(burn, 3 * 10**6)
    assert (little.units, much.units) == (10**4, 3 * 10**6)
    assert 0 < little.cpu_seconds < much.cpu_seconds
    held = np.ones(50_000_000, np.uint8)
    peak = measured(burn, 1).peak_bytes
    assert peak is None or peak >= held.nbytes // 2


def test_medians_and_shares():
    costs = [Cost(10, 1.0, 2.0, 5), Cost(10, 2.0, 10.0, 7), Cost(10, 5.0, 5.0, None)]
    rates = Rates.of(costs)
    assert (rates.per_cpu_second, rates.per_second, rates.peak_bytes) == (5.0, 2.0, 7)
    other = [Cost(10, 0.5, 1, None), Cost(10, 2.0, 1, None), Cost(10, 10.0, 1, None)]
    assert share(costs, other) == 1.0
    order = []

    def way(name):
        return lambda: order.append(name) or costs[0]

    assert set(in_turns(2, {"a": way("a"), "b": way("b")})) == {"a", "b"}
    assert order == ["a", "b", "b", "a"]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 100])
def test_a_dataset_is_taken_from_all_over(count):
    items = list(_spread(list(range(count))))
    assert sorted(items) == list(range(count))
    if count == 100:
        assert items[:3] == [0, 99, 33]


@pytest.mark.parametrize(
    ("spans", "duration", "expected"),
    [
        ([(None, None)], 100.0, [(None, 20.0)]),
        ([(None, None)], 15.0, [(None, None)]),
        ([(None, None)], None, [(None, 20.0)]),
        ([(1.0, 9.0), (30.0, 60.0), (70.0, 71.0)], 100.0, [(1.0, 9.0), (30.0, 42.0)]),
    ],
)
def test_spans_are_cut_to_the_seconds_asked_for(spans, duration, expected):
    assert list(_shortened(spans, 20.0, duration)) == expected
