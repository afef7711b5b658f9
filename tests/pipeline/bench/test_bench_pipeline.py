"""The benchmark of the whole pipeline: what it watches, how it judges, and one small run."""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from jobs.benchmark import main
from pipeline.bench.alone import Alone
from pipeline.bench.pipeline import CORES, Whole, judge
from pipeline.bench.watch import DECODER, SECONDS, Watch
from tests.e2e.support import config_tree, write_config, write_list


def whole(rate):
    return Whole(100, 10, rate, 2.0, 0.01, 0.02, 0.9, {"encode": 10.0}, {"driver": 1})


def stages(decode=100.0, encode=50.0, write=1000.0):
    return {
        "decode": Alone(decode, 0.010, 2),
        "encode": Alone(encode, 0.002, 1),
        "write": Alone(write, 0.001, 1),
    }


@pytest.mark.parametrize(
    ("rates", "processors", "bottleneck", "limit"),
    [
        ({}, 64, "encode", 50),
        ({"decode": 20.0}, 64, "decode", 20),
        ({"write": 5.0}, 64, "write", 5),
        ({}, 0.26, CORES, 20),
    ],
)
def test_the_slowest_part_is_the_limit(rates, processors, bottleneck, limit):
    found = judge(stages(**rates), [whole(0.97 * limit)], processors)
    assert found.bottleneck == bottleneck
    assert found.limit_windows_per_second == pytest.approx(limit)
    assert found.share_of_limit == pytest.approx(0.97)
    assert "stays behind" not in found.advice
    assert "stays behind" in judge(stages(**rates), [whole(0.5 * limit)], processors).advice


def test_the_median_of_the_whole_runs_is_judged():
    runs = [whole(rate) for rate in (1.0, 45.0, 46.0)]
    assert judge(stages(), runs, 64).share_of_limit == pytest.approx(0.9)


def test_a_watch_sees_what_children_take():
    busy = "import time\nheld = bytearray(200 * 2**20)\nend = time.monotonic() + 2\n"
    begun = time.time()
    with Watch() as watch:
        code = busy + "while time.monotonic() < end: pass  # sentinel_of_the_test"
        name = ["sentinel", "-c", code]
        subprocess.run(name, executable=sys.executable, check=True)
    assert watch.cpu_seconds(begun, time.time()) > 0.3
    assert watch.cpu_seconds(begun, begun) == 0
    peaks = watch.peak_bytes(("sentinel", "nobody"))
    assert set(peaks) == {"driver", "sentinel", "object store", "spilled"}
    assert peaks["sentinel"] > 200 * 2**20


def test_a_watch_sees_what_decoders_share_with_their_parents():
    code = (
        f"# {DECODER}\nimport mmap, time\n"
        f"held = mmap.mmap(-1, {50 * 2**20})\nheld.write(bytes(len(held)))\n"
        f"time.sleep({2 * SECONDS})"
    )
    with Watch() as watch:
        subprocess.run([sys.executable, "-c", code], check=True)
    assert watch.peak_bytes((DECODER,))[DECODER] > 50 * 2**20


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs shared memory as a folder")
def test_a_watch_sees_shared_memory():
    """Of the whole machine, so that what others let go of meanwhile is missing: some tries."""

    def seen() -> int:
        with Watch() as watch, tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
            file.write(bytes(50 * 2**20))
            file.flush()
            time.sleep(2 * SECONDS)
        return watch.peak_bytes(())["object store"]

    assert any(seen() >= 50 * 2**20 for _ in range(8))


@pytest.mark.slow
def test_a_whole_run_against_its_stages(tmp_path, clip, capsys):
    rows = [{"video": str(clip("bikes")), "id": f"{n}"} for n in range(3)]
    tree = config_tree(
        write_list(tmp_path / "clips.jsonl", rows),
        tmp_path / "cache",
        run__decode_tasks=1,
        run__pack_bytes="100kB",
    )
    config = write_config(tmp_path / "config.yaml", tree)
    arguments = ["pipeline", "--config", str(config), "--output", str(tmp_path / "scratch")]
    assert main([*arguments, "--simulated-encoder", "0.02", "--seconds", "0.5"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["simulated_seconds_per_window"] == 0.02
    assert found["alone"]["encode"]["windows_per_second"] == pytest.approx(50, rel=0.2)
    [run] = found["whole"]
    assert run["windows"] == 3 * (250 // 17)
    assert 0 < run["windows_per_second"] < 50.5
    assert 0 < run["encoder_busy"] <= 1
    assert run["peak_bytes"]["driver"] > 10**7
    assert found["share_of_limit"] > 0
    assert not (tmp_path / "cache").exists()
    assert list((tmp_path / "scratch").iterdir()) == []


def test_what_cannot_be_measured_is_refused(tmp_path, capsys):
    config = write_config(tmp_path / "config.yaml", config_tree(tmp_path, tmp_path / "cache"))
    arguments = ["pipeline", "--config", str(config)]
    assert main([*arguments, "--simulated-encoder", "-1"]) == 1
    assert "give seconds of 0 or more" in capsys.readouterr().err
    assert main(arguments) == 1
    assert str(tmp_path) in capsys.readouterr().err
