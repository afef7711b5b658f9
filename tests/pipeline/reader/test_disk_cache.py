"""The disk cache: many processes, a limit, age of use, damage, and a disk that takes no more."""

import contextlib
import errno
import multiprocessing
import os
import random
import resource
import signal
import time
import warnings
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.reader.disk_cache import DiskCache, open_disk_cache

BLOCK = 4096
KIB = 1024


def data_of(key: str, size: int = 10 * KIB) -> bytes:
    return random.Random(key).randbytes(size)


def on_disk(folder: Path) -> int:
    """Bytes of all entries, finished or not."""
    total = 0
    for path in folder.glob("??/*"):
        with contextlib.suppress(FileNotFoundError):
            total += -(-path.stat().st_size // BLOCK) * BLOCK
    return total


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("??/*"))


def work(folder: Path, limit: int, number: int, rounds: int, wrong) -> None:
    """Get and put keys at random; count in ``wrong`` what is not what was put."""
    cache, rng = DiskCache(folder, limit), random.Random(number)
    for _ in range(rounds):
        key = str(rng.randrange(60))
        found = cache.get(key)
        if found is None:
            cache.put(key, data_of(key))
        elif bytes(found) != data_of(key):
            with wrong.get_lock():
                wrong.value += 1


def test_many_processes_share_a_folder_and_its_limit(tmp_path):
    """Five processes want twice what fits, one is killed at work: right bytes, never too many."""
    limit, context = 360 * KIB, multiprocessing.get_context("fork")
    wrong = context.Value("i", 0)
    workers = [
        context.Process(target=work, args=(tmp_path, limit, n, 10**9 if n == 0 else 400, wrong))
        for n in range(5)
    ]
    for worker in workers:
        worker.start()
    largest = 0
    try:
        while any(worker.is_alive() for worker in workers[1:]):
            largest = max(largest, on_disk(tmp_path))
            if workers[0].is_alive() and largest > limit / 2:
                os.kill(workers[0].pid, signal.SIGKILL)
            time.sleep(0.002)
    finally:
        for worker in workers:
            worker.kill()
            worker.join()
    assert [worker.exitcode for worker in workers] == [-signal.SIGKILL, 0, 0, 0, 0]
    assert wrong.value == 0
    # One look is no moment: of each process an entry may be seen under both of its names.
    assert limit / 2 < largest <= limit + 5 * 12 * KIB
    assert on_disk(tmp_path) <= limit
    left = DiskCache(tmp_path, limit)
    held = [key for key in map(str, range(60)) if left.get(key) is not None]
    assert len(held) >= 20
    assert all(bytes(left.get(key)) == data_of(key) for key in held)


def test_what_was_not_used_for_longest_goes_first(tmp_path):
    cache = DiskCache(tmp_path, 20 * 12 * KIB)
    then = time.time() - 1000
    for n in range(20):
        cache.put(str(n), data_of(str(n)))
        os.utime(cache._path(str(n)), (then + n, then + n))
    assert cache.get("0") is not None  # now it is the youngest
    cache.put("new", data_of("new"))
    # Two went, so that it was 90 % full.
    held = [key for key in [*map(str, range(20)), "new"] if cache._path(key).exists()]
    assert held == ["0", *map(str, range(3, 20)), "new"]


@pytest.mark.parametrize("how", ["flipped", "cut", "longer", "other", "empty"])
def test_damage_is_found_and_mended(tmp_path, how):
    cache = DiskCache(tmp_path, 100 * KIB)
    cache.put("a", data_of("a"))
    cache.put("b", data_of("b"))
    path = cache._path("a")
    found = bytearray(path.read_bytes())
    if how == "flipped":
        found[5000] ^= 1
    elif how == "longer":
        found += b"\0"
    path.write_bytes({"cut": found[:-1], "other": b"?" * len(found), "empty": b""}.get(how, found))
    with pytest.warns(UserWarning, match="is damaged"):
        assert cache.get("a") is None
    assert not path.exists()
    cache.put("a", data_of("a"))
    assert bytes(cache.get("a")) == data_of("a")
    assert bytes(cache.get("b")) == data_of("b")


def test_a_full_disk_is_warned_of_once(tmp_path):
    """A file larger than the limit of the process: what is there is found, the rest is not kept."""
    cache = DiskCache(tmp_path, 2**30)
    cache.put("small", b"x" * 100)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (128 * KIB, hard))
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            cache.put("large", bytes(200 * KIB))
            cache.put("another", bytes(200 * KIB))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert ["takes nothing more" in str(w.message) for w in told] == [True]
    assert os.strerror(errno.EFBIG) in str(told[0].message)
    assert cache.get("large") is None
    assert bytes(cache.get("small")) == b"x" * 100
    assert len(entries(tmp_path)) == 1


def test_too_small_a_limit_is_warned_of(tmp_path):
    cache = DiskCache(tmp_path, 10 * KIB)
    with pytest.warns(UserWarning, match=r"10,240 bytes: too few for a read of 20,0"):
        cache.put("a", bytes(20_000))
    assert entries(tmp_path) == []


@pytest.mark.parametrize("how", ["count lost", "entries deleted"])
def test_the_count_is_made_anew_where_it_is_lost_or_too_high(tmp_path, how):
    limit = 10 * 12 * KIB
    first = DiskCache(tmp_path, limit)
    for n in range(8):
        first.put(str(n), data_of(str(n)))
    if how == "count lost":
        (tmp_path / ".used").unlink()
    else:
        for path in entries(tmp_path):
            path.unlink()
    second = DiskCache(tmp_path, limit)
    for n in range(8):
        second.put(f"again {n}", data_of("x"))
        assert second.get(f"again {n}") is not None
    assert on_disk(tmp_path) <= limit
    assert len(entries(tmp_path)) >= 8


def test_leftovers_of_the_killed_go_with_the_next_count(tmp_path):
    cache = DiskCache(tmp_path, 60 * KIB)
    cache.put("a", data_of("a"))
    left = cache._path("a").with_name(f"{cache._path('a').name}.{'0' * 12}.tmp")
    left.write_bytes(bytes(10))
    other = tmp_path / "ab" / "notes.txt"
    other.parent.mkdir(exist_ok=True)
    other.write_text("someone else's")
    for path in (left, other):
        os.utime(path, (0, 0))
    for n in range(10):
        cache.put(str(n), data_of(str(n)))
    assert not left.exists()
    assert other.exists()


@pytest.mark.parametrize(("folder", "limit"), [("x", None), (None, 10), ("x", 0)])
def test_refused(tmp_path, folder, limit):
    with pytest.raises(UserError, match="give both"):
        open_disk_cache(folder and tmp_path / folder, limit)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="name a folder that can be written"):
        open_disk_cache(tmp_path / "file", 10)
    assert open_disk_cache(None, None) is None
