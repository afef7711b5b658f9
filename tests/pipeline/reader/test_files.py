"""Local shards: filled however the system hands bytes over, announced where a disk is slow."""

import os

import numpy as np
import pytest

from pipeline.errors import StoreError
from pipeline.reader import files as module
from pipeline.reader.files import Files, HeldRead, LocalShard
from pipeline.reader.here import Later
from pipeline.reader.pieces import Piece, adjoining, memory
from pipeline.storage import Store
from tests.pipeline.helpers import LOCAL

DATA = np.arange(5000, dtype=np.uint8).tobytes()


@pytest.fixture
def shard(tmp_path) -> LocalShard:
    (tmp_path / "contract.json").write_text("{}")
    (tmp_path / "a").write_bytes(DATA)
    return LocalShard(Files(Store(str(tmp_path), LOCAL)), "a")


def pieces(*ranges):
    arrays = [np.zeros(end - begin, np.uint8) for begin, end in ranges]
    found = [Piece(b, (memory(a),)) for (b, _), a in zip(ranges, arrays, strict=True)]
    return found, arrays


RANGES = ((0, 10), (10, 1000), (1000, 1001), (3000, 5000))


@pytest.mark.parametrize("at_once", [1, 2, 1024])
@pytest.mark.parametrize("handed", [1, 7, 10**9])
def test_all_bytes_arrive(shard, monkeypatch, at_once, handed):
    """Also where a call fills less than was asked for, and takes few buffers."""
    real = os.preadv

    def preadv(file, buffers, at, flags=0):
        if flags:
            raise BlockingIOError
        return real(file, [buffers[0][:handed]], at)

    monkeypatch.setattr(os, "preadv", preadv)
    monkeypatch.setattr(module, "_AT_ONCE", at_once)
    wanted, arrays = pieces(*RANGES)
    shard.fill(wanted)
    for (begin, end), array in zip(RANGES, arrays, strict=True):
        assert array.tobytes() == DATA[begin:end]


def test_pieces_that_adjoin_are_one():
    assert [(p.begin, p.end) for p in adjoining(pieces(*RANGES)[0])] == [(0, 1001), (3000, 5000)]


def test_a_file_that_is_too_short(shard):
    with pytest.raises(ValueError, match="it ends 20 bytes too early"):
        shard.fill(pieces((4990, 5020))[0])
    with pytest.raises(ValueError, match="it ends 10 bytes too early"):
        shard.fill(pieces((6000, 6010))[0])


@pytest.mark.parametrize("begin", [-1, 2**63 - 5])
def test_what_is_in_no_file(begin):
    with pytest.raises(ValueError, match="in no file"):
        pieces((begin, begin + 10))


def test_a_disk_that_fails_is_no_damage(shard, monkeypatch):
    def preadv(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", preadv)
    with pytest.raises(StoreError, match="Input/output error"):
        shard.fill(pieces((0, 10))[0])


def test_reads_are_announced_after_one_that_waited(shard, monkeypatch):
    files = shard._files
    shard.fill(pieces((0, 10))[0])
    files.waits = 0
    shard.fill(pieces((0, 10))[0])
    assert files.waits == 0
    real = os.preadv

    def preadv(file, buffers, at, flags=0):
        if flags:
            raise BlockingIOError
        return real(file, buffers, at)

    monkeypatch.setattr(os, "preadv", preadv)
    shard.fill(pieces((0, 10))[0])
    assert files.waits > 0


def test_files_are_closed(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_KEPT_FILES", 2)
    files = Files(Store(str(tmp_path), LOCAL))
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for number in range(9):
        (tmp_path / str(number)).write_bytes(DATA)
        LocalShard(files, str(number)).fill(pieces((0, 10))[0])
    assert len(os.listdir("/proc/self/fd")) <= before + 2  # noqa: PTH208
    del files
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


@pytest.mark.parametrize("held", [True, False])
def test_what_memory_holds_is_read_at_once(shard, monkeypatch, held):
    """And all of it in the patient way where something lacks."""
    real = os.preadv
    (first, second), (a, b) = pieces((0, 10), (3000, 5000))
    patient = Later(shard.fill, (first, second))

    def preadv(file, buffers, at, flags=0):
        if not flags and held:
            raise AssertionError("it was read in another way")
        return real(file, buffers, at) if held or not flags or not at else 7

    monkeypatch.setattr(os, "preadv", preadv)
    HeldRead(shard._files.get("a"), (first, second), patient).result()
    assert (a.tobytes(), b.tobytes()) == (DATA[:10], DATA[3000:])


def test_pieces_with_gaps():
    given, arrays = pieces((0, 10), (15, 20), (30, 31))
    joined, alone = adjoining(given, gap=5)
    assert (joined.begin, joined.end, alone) == (0, 20, given[2])
    joined.fill(memoryview(DATA)[:20])
    assert (arrays[0].tobytes(), arrays[1].tobytes()) == (DATA[:10], DATA[15:20])
    assert [(piece.begin, piece.end) for piece in adjoining(given[::-1], gap=50)] == [
        (30, 31),
        (15, 20),
        (0, 10),
    ]
