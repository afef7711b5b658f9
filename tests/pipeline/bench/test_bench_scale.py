"""The benchmark of more and more encoders: drivers that are held to a share, and its rows."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import WIDE, make_config, make_recipe

from jobs.benchmark import main
from pipeline.bench.drivers import PERIOD_SECONDS, Allowance, Driver, Drivers, Taken
from pipeline.bench.pipeline import Told
from pipeline.bench.scale import config_of, row_of
from pipeline.bench.together import MakeNoting, Together, noted, together
from pipeline.config import load_config
from pipeline.errors import UserError
from tests.e2e.support import config_tree, write_config, write_list

BUSY = "while True: pass"
WAITING = "import sys; sys.stdin.read()"


@pytest.fixture
def start():
    """Starts processes of Python under other names, which are ended."""
    started = []

    def start(code, name="busy"):
        process = subprocess.Popen(
            [name, "-c", code], executable=sys.executable, stdin=subprocess.PIPE
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def stopped(process):
    status = Path(f"/proc/{process.pid}/stat").read_text()
    return status.rpartition(")")[2].split()[0] == "T"


def wait_until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def taken_in(seconds, share, threads):
    """CPU time of a process with so many busy threads, by a clock of its own."""
    now = used = 0.0
    allowance = Allowance(share, now, used)
    while now < seconds:
        runs, length = allowance.settle(now, used)
        now += length
        used += threads * length if runs else 0.0
    return used


@pytest.mark.parametrize("share", [0.05, 0.5])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_share_holds_however_many_threads_are_busy(share, threads):
    assert taken_in(20, share, threads) == pytest.approx(20 * share, rel=0.05)


def test_who_takes_less_than_its_share_is_never_stopped_and_saves_up_little():
    allowance = Allowance(0.5, 0.0, 0.0)
    assert all(allowance.settle(n, 0.4 * n)[0] for n in range(1, 50))
    runs, _ = allowance.settle(50.0, 0.4 * 49 + 0.5 + PERIOD_SECONDS)
    assert not runs


def test_a_driver_is_stopped_and_continued(start):
    driver = Driver(start(BUSY).pid)
    begun, used = time.monotonic(), driver.cpu_seconds
    while time.monotonic() < begun + 0.5:
        driver.hold(0.2)
        time.sleep(max(0.0, driver.due - time.monotonic()))
    driver.look()
    assert 0 < driver.cpu_seconds - used < 0.25


@pytest.mark.parametrize("gone", [False, True])
def test_drivers_are_held_while_there_are_encoders_and_go_on_afterwards(start, gone):
    """Also when the process is gone that wanted them to be held."""
    busy = start(BUSY, "ray::CellDriver.run")
    drivers = Drivers(run=0, cells=2, share=0.1).__enter__()
    time.sleep(0.2)
    assert not stopped(busy)
    start(WAITING, "ray::MapWorker(MapBatches(Encoder))")
    begun = time.time()
    wait_until(lambda: stopped(busy))
    if gone:
        drivers._end.close()
        drivers._process.join(20)
    else:
        drivers.__exit__(None, None, None)
        assert drivers.taken.between(begun - 1, time.time()) > 0
    assert not drivers._process.is_alive()
    assert not stopped(busy)


def test_a_driver_that_ends_is_forgotten(start):
    busy = start(BUSY, "ray::CellDriver.run")
    driver = Driver(busy.pid)
    busy.kill()
    busy.wait()
    with pytest.raises(OSError):
        driver.hold(0.5)
    driver.release()


def test_encoders_note_when_they_worked(tmp_path):
    config = make_config()
    for encoder in (MakeNoting(str(tmp_path), 0.0)(config, make_recipe(config)) for _ in range(2)):
        encoder(np.zeros((2, 17, WIDE.height, WIDE.width, 3), np.uint8), ["0000", "ffff"])
        encoder(np.zeros((1, 17, WIDE.height, WIDE.width, 3), np.uint8), ["0000"])
    calls = list(noted(str(tmp_path)).values())
    assert [[windows for _, windows in done] for done in calls] == [[2, 1], [2, 1]]
    assert 0 < time.time() - calls[0][-1][0] < 60


def test_the_rate_is_that_of_the_time_when_all_were_at_work():
    calls = {"early": [(1, 9), (2, 3), (3, 3), (4, 5)], "late": [(2, 9), (3, 4), (5, 7)]}
    found = together(calls, 2)
    assert (found.begin, found.end, found.windows) == (2, 4, 3 + 5 + 4)
    assert found.windows_per_second == 6


@pytest.mark.parametrize("calls", [{}, {"a": [(1, 1), (9, 1)]}, {"a": [(1, 1)], "b": [(1, 1)]}])
def test_encoders_that_were_never_all_at_work_give_no_rate(calls):
    with pytest.raises(UserError, match="never all at work"):
        together(calls, 2)


class Seen:
    """All processes together take a processor and a half."""

    def cpu_seconds(self, begin, end):
        return 1.5 * (end - begin)


def test_a_row_tells_of_the_time_when_all_were_at_work(tmp_path):
    config = load_config(None, (), config_tree(tmp_path, tmp_path, run__encoders=4, run__cells=2))
    told = Told(0.0, 90.0, {"windows": 400, "packs": 100})
    row = row_of(config, told, Together(20, 60, 320), 0.25, Taken([0, 100], [0, 100]), Seen())
    assert (row.encoders, row.cells, row.seconds) == (4, 2, 40)
    assert (row.windows_per_second, row.packs_per_second, row.encoder_busy) == (8, 2, 0.5)
    assert row.driver_busy == pytest.approx(0.5)
    assert row.driver_seconds_per_pack == pytest.approx(0.5)
    assert row.processors == pytest.approx(1.5)


def test_every_encoder_has_as_many_sources(tmp_path):
    config = load_config(None, (), config_tree(tmp_path, tmp_path / "cache", dataset__limit=7))
    row = config_of(config, encoders=8, cells=2, sources_each=3)
    assert (row.run.encoders, row.run.cells, row.dataset.limit) == (8, 2, 24)
    assert row.canary == "off"
    assert row.output.uri != config_of(config, 8, 4, 3).output.uri
    assert config_of(config, 8, 2, None).dataset.limit == 7


def test_what_cannot_be_measured_is_refused(tmp_path, capsys, monkeypatch):
    config = write_config(tmp_path / "config.yaml", config_tree(tmp_path, tmp_path / "cache"))
    arguments = ["scale", "--config", str(config), "--simulated-encoder", "0.1"]
    for share in ("0", "1.5", "nan"):
        with pytest.raises(SystemExit):
            main([*arguments, "--driver-share", share])
        assert "no part of a processor" in capsys.readouterr().err
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert main(arguments) == 1
    assert "give --nodes" in capsys.readouterr().err
    monkeypatch.delenv("RAY_ADDRESS")

    def refused(process: int) -> int:
        raise OSError("not here")

    monkeypatch.setattr("os.pidfd_open", refused)
    assert main([*arguments, "--driver-share", "0.1"]) == 1
    assert "no pidfd_open" in capsys.readouterr().err


@pytest.mark.slow
def test_a_row_with_drivers_held_to_a_share(tmp_path, clip, capsys):
    rows = []
    for n in range(4):
        copy = tmp_path / f"{n}.mp4"
        shutil.copy(clip("bikes"), copy)
        rows.append({"video": str(copy), "id": f"{n}"})
    tree = config_tree(
        write_list(tmp_path / "clips.jsonl", rows),
        tmp_path / "cache",
        run__runner="ray",
        run__decode_tasks=2,
        run__pack_bytes="100kB",
    )
    config = write_config(tmp_path / "config.yaml", tree)
    arguments = ["scale", "--config", str(config), "--output", str(tmp_path / "scratch")]
    options = ["--simulated-encoder", "0.1", "--nodes", "1", "--encoders", "2", "--cells", "2"]
    assert main([*arguments, *options, "--sources-each", "2", "--driver-share", "0.1"]) == 0
    [row] = json.loads(capsys.readouterr().out.splitlines()[-1])["runs"]
    assert (row["encoders"], row["cells"], row["windows"]) == (2, 2, 4 * (250 // 17))
    assert 0 < row["windows_per_second"] <= 20.5
    assert 0 < row["driver_busy"] < 0.15
    assert row["driver_busy"] * 2 < row["processors"]
    assert list((tmp_path / "scratch").iterdir()) == []
