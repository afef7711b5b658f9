"""The fidelity canary of what is stored, on a small VAE that really reconstructs."""

import functools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import SMALL, WIDE, make_config
from safetensors.torch import load_file, save_file

from jobs import verify_cache
from pipeline.config import Config, StorageConfig
from pipeline.errors import SourceError
from pipeline.identity import stable_hash
from pipeline.job import JobOptions, run_job
from pipeline.manifest import Manifest
from pipeline.page.pick import Pick
from pipeline.storage import Store
from pipeline.verify import fidelity
from pipeline.verify.check import Named
from pipeline.verify.draw import Drawn, draw_windows
from pipeline.verify.fidelity import Compared
from tests.faithful_vae import WIDTHS, smooth_frames, write_checkpoint, write_clip
from tests.faithful_vae import config as architecture
from tests.mistaken import Changed, as_bgr, as_if_in_0_to_1, same
from tests.pipeline.maintain.builder import Builder
from vae import seeded_state_dict


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("vae") / "vae.safetensors")


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """A folder with two lossless clips of two windows each."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in range(2):
        write_clip(folder / f"{name}.mkv", smooth_frames(name, frames=34))
    return folder


def encode(videos: Path, cache: Path, checkpoint: Path | None, mistake=None, **fields: Any) -> None:
    """A run without a canary, as one without an accelerator is."""
    vae = {"random_seed": 0, "z_channels": 4} if checkpoint is None else {}
    if checkpoint is not None:
        vae = {"checkpoint": str(checkpoint)}
    config: Config = make_config(
        dataset__uri=str(videos),
        output__uri=str(cache),
        buckets=fields.pop("buckets", [{"height": 32, "width": 64}]),
        vae={**vae, "device": "cpu", "widths": WIDTHS},
        decode__isolate=False,
        canary="off",
        **fields,
    )
    assert run_job(config, JobOptions(), *([] if mistake is None else [mistake])) == 0


def mistaken(frames=same, latents=same):
    return functools.partial(Changed, frames, latents)


def look(capsys, cache: Path, *arguments: object) -> tuple[int, dict, str]:
    """Exit code, the machine-readable list, and all that is told."""
    out = cache.with_suffix(".json")
    capsys.readouterr()
    given = ["--canary", "4", "--out", out, *arguments]
    code = verify_cache.main([str(cache), *(str(argument) for argument in given)])
    told = capsys.readouterr()
    return code, json.loads(out.read_text() or "{}"), told.out + told.err


def kinds(found: dict) -> set[str]:
    return {item["kind"] for item in found["damaged"]}


# ---- what it sees


def test_a_sound_cache_passes_and_tells(videos, tmp_path, checkpoint, capsys):
    encode(videos, tmp_path / "cache", checkpoint)
    code, found, told = look(capsys, tmp_path / "cache", "--sample", 1)
    assert (code, found["sound"], found["canary"]["left_out"]) == (0, True, [])
    assert len({w["sample_id"] for w in found["canary"]["windows"]}) == 4
    assert all(w["alike"] and w["difference"] < 0.001 for w in found["canary"]["windows"])
    assert found["canary"]["psnr"] > found["canary"]["psnr_limit"] == 20
    assert "fidelity canary: 4 of 4 drawn windows were compared; they decode with 2" in told
    assert json.loads(told.rstrip().rsplit("\n", 1)[-1])["canary"]["windows"] == 4
    # Without the option nothing is looked at.
    assert verify_cache.main([str(tmp_path / "cache")]) == 0
    assert json.loads(capsys.readouterr().out.rstrip().rsplit("\n", 1)[-1])["canary"] is None


@pytest.mark.parametrize(
    "mistake",
    [
        mistaken(as_if_in_0_to_1),
        mistaken(as_bgr),
        mistaken(latents=lambda t: t.swapaxes(-1, -2)),
        pytest.param(mistaken(lambda f: f.swapaxes(2, 3)), marks=pytest.mark.slow),
        pytest.param(mistaken(latents=lambda t: t[:, ::-1]), marks=pytest.mark.slow),
        pytest.param(mistaken(latents=lambda t: t[:, :, ::-1]), marks=pytest.mark.slow),
    ],
    ids=["range", "bgr", "axes of latents", "axes of frames", "time", "channels"],
)
def test_a_cache_that_was_written_wrong_is_caught(videos, tmp_path, checkpoint, mistake, capsys):
    cache = tmp_path / "cache"
    encode(videos, cache, checkpoint, mistake, buckets=[{"height": 32, "width": 32}])
    assert verify_cache.main([str(cache)]) == 0  # bytes alone do not tell
    code, found, told = look(capsys, cache, "--repair")
    assert (code, kinds(found)) == (3, {"unfaithful"})
    assert sum(len(range(*rows)) for item in found["damaged"] for rows in item["rows"]) == 4
    assert "none of them is like its fresh encoding" in told
    # It is not a matter of single segments: none is marked lost.
    assert not any(item["repairable"] for item in found["damaged"])
    assert "marked lost: 0 segments" in told


@pytest.mark.parametrize("half", ["encoder", pytest.param("decoder", marks=pytest.mark.slow)])
def test_a_cache_of_a_wrong_checkpoint_is_caught(videos, tmp_path, checkpoint, half, capsys):
    wrong = load_file(checkpoint)
    other = seeded_state_dict(architecture(), 1)
    wrong |= {key: value for key, value in other.items() if key.startswith(half)}
    save_file(wrong, tmp_path / "wrong.safetensors")
    cache = tmp_path / "cache"
    encode(videos, cache, tmp_path / "wrong.safetensors")
    code, found, told = look(capsys, cache, "--repair")
    assert (code, kinds(found)) == (3, {"low_psnr"})
    assert not any(item["repairable"] for item in found["damaged"])
    assert "encoder and decoder do not belong together" in told
    assert "marked lost: 0 segments" in told
    code, found, _ = look(capsys, cache, "--canary-psnr", 0.1)
    assert (code, found["canary"]["psnr_limit"]) == (0, 0.1)
    if half == "encoder":  # the right file is not the one that encoded this cache
        code, _, told = look(capsys, cache, "--checkpoint", checkpoint, "--repair")
        assert code == 1
        assert "name the file that encoded it" in told
        assert Manifest(Store(str(cache), StorageConfig())).snapshot_numbers() == [1]


def test_single_wrong_windows_are_marked_and_encoded_again(videos, tmp_path, checkpoint, capsys):
    def one_as_bgr(frames: np.ndarray) -> np.ndarray:
        return np.concatenate([as_bgr(frames[:1]), frames[1:]])

    cache = tmp_path / "cache"
    encode(videos, cache, checkpoint, mistaken(one_as_bgr))
    code, found, _ = look(capsys, cache)
    [item] = found["damaged"]
    assert (code, item["kind"], item["repairable"]) == (3, "unfaithful", True)
    assert "of its size differs from a fresh encoding of the source" in item["message"]
    code, _, told = look(capsys, cache, "--repair")
    assert code == 0
    assert "marked lost: 1 segments of 2 windows" in told
    code, found, _ = look(capsys, cache)
    assert (code, len(found["canary"]["windows"])) == (0, 2)
    encode(videos, cache, checkpoint)
    code, found, _ = look(capsys, cache)
    assert (code, len(found["canary"]["windows"])) == (0, 4)


@pytest.mark.slow
def test_random_weights_are_compared_and_decibels_not_judged(videos, tmp_path, capsys):
    encode(videos, tmp_path / "cache", None)
    code, found, told = look(capsys, tmp_path / "cache")
    assert (code, len(found["canary"]["windows"])) == (0, 4)
    assert found["canary"]["psnr"] < 20
    assert found["canary"]["psnr_limit"] is None
    assert "random weights: it tells nothing" in told


@pytest.mark.slow
@pytest.mark.parametrize("statistic", ["moments", "mean", "sample"])
@pytest.mark.parametrize("form", ["safetensors", "parquet"])
def test_every_contract_has_fresh_latents(videos, tmp_path, checkpoint, statistic, form, capsys):
    fields = {"latents__statistic": statistic, "latents__seed": 5, "output__format": form}
    encode(videos, tmp_path / "cache", checkpoint, windows__tail="pad", **fields)
    code, found, _ = look(capsys, tmp_path / "cache", "--canary-psnr", 0.1)
    assert (code, len(found["canary"]["windows"])) == (0, 4)


# ---- what is no damage


def test_sources_that_are_gone_or_changed_are_told(videos, tmp_path, checkpoint, capsys):
    cache = tmp_path / "cache"
    encode(videos, cache, checkpoint)
    os.utime(videos / "0.mkv", (1, 1))  # touched: the same frames
    code, found, _ = look(capsys, cache)
    assert (code, len(found["canary"]["windows"])) == (0, 4)
    write_clip(videos / "0.mkv", smooth_frames(7, frames=34))
    code, found, told = look(capsys, cache)
    assert (code, found["sound"], len(found["canary"]["windows"])) == (0, True, 2)
    assert "when encoded, and is" in told
    write_clip(videos / "0.mkv", smooth_frames(7, frames=34, width=96))
    code, _, told = look(capsys, cache)
    assert code == 0
    assert "decodes to other frames, times or sizes than were encoded" in told
    (videos / "0.mkv").unlink()
    code, _, told = look(capsys, cache)
    assert code == 0
    assert "not compared: window 0 at h32w64: " in told
    assert "0.mkv does not exist" in told
    (videos / "1.mkv").unlink()
    code, found, told = look(capsys, cache)
    assert (code, found["sound"], found["canary"]["psnr"]) == (1, True, None)
    assert "error: no window that the canary drew can be compared" in told


@pytest.mark.parametrize(
    ("version", "now", "changed"),
    [
        ("34-1.5", "34-1.5", False),
        ("34-1.5", "35-2.5", True),
        ("ab" * 16, "cd" * 16, True),
        ("ab" * 16 + "-3", "cd" * 16, True),
        ("v1", "cd" * 16, False),  # the dataset's own
        ("2024-01", "35-2.5", False),
        ("v1", "odd", True),  # nobody knows
    ],
)
def test_a_version_tells_of_a_change_where_it_is_the_stores(monkeypatch, version, now, changed):
    monkeypatch.setattr(fidelity, "stat_source", lambda *_: (now, 1))
    if changed:
        with pytest.raises(SourceError, match=r"was .* when encoded, and is"):
            fidelity._check_version(a_window(version=version), StorageConfig())
    else:
        fidelity._check_version(a_window(version=version), StorageConfig())


def test_damaged_bytes_are_told_as_such(videos, tmp_path, checkpoint, capsys):
    cache = tmp_path / "cache"
    encode(videos, cache, checkpoint)
    [shard] = (cache / "data").rglob("*.safetensors")
    data = bytearray(shard.read_bytes())
    data[-3] ^= 64  # the last window's logvar
    shard.write_bytes(data)
    for arguments in ([], ["--sample", 1]):
        code, found, told = look(capsys, cache, *arguments)
        assert code == 3
        assert len(found["damaged"]) == 1
        assert kinds(found) == {"checksum"}
        assert len(found["canary"]["windows"]) == 3
        assert "not compared: window 1 at h32w64: its bytes are damaged" in told
    shard.unlink()
    code, found, _ = look(capsys, cache)
    assert (code, kinds(found), found["canary"]["windows"]) == (3, {"missing"}, [])


@pytest.mark.parametrize(
    "arguments", [["--checkpoint", "x"], ["--canary-psnr", "9"], ["--canary", "0"]]
)
def test_usage(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        verify_cache.main(["cache", *arguments])
    assert stopped.value.code == 1


# ---- what is drawn, and how it is judged


def drawn_of(cache: Builder, count: int, seed: int = 0) -> list[Drawn]:
    return draw_windows(cache.manifest, cache.manifest.snapshot(), count, seed)


def test_windows_are_drawn_by_the_seed_and_from_all_segments(tmp_path):
    cache = Builder(tmp_path / "cache")
    sources = [(stable_hash(name), 1) for name in range(5)]
    cache.encode(sources, buckets=(SMALL, WIDE))
    cache.publish()
    cache.encode([(stable_hash("later"), 1)])  # of no snapshot
    every = {s["sample_id"] for s in cache.open().samples().to_pylist()}
    few = drawn_of(cache, 8)
    assert few == drawn_of(cache, 8)
    assert len({drawn.segment.segment_id for drawn in few}) == 8
    assert {d.sample_id for d in few} != {d.sample_id for d in drawn_of(cache, 8, seed=1)}
    for drawn in few:
        place = drawn.segment.sample_ids.index(drawn.sample_id)
        assert drawn.pick.row == drawn.segment.first_row + place
        assert drawn.pick.source["source_id"] == drawn.segment.source_id
    found = [drawn.sample_id for drawn in drawn_of(cache, 1000)]
    assert sorted(found) == sorted(every)


def a_window(row: int = 0, version: str = "v1") -> Drawn:
    segment = Named("segment", "source", "h32w32", 17, 0, 4, tuple("abcd"), tuple("abcd"), None)
    source = {"uri": "/a.mkv", "version": version}
    return Drawn(Pick(source, "h32w32", row, 17, 17, 17 * row, 25, "data/x", row), "a", segment)


def judged(*seen: tuple[float, float], limit: float | None = 20) -> list[tuple[str, int, bool]]:
    compared = [Compared(a_window(row), *pair, 0.01) for row, pair in enumerate(seen)]
    return [(str(f.kind), f.rows[0], f.repairable) for f in fidelity._judged(compared, limit)]


BAD, NAN = float("-inf"), float("nan")


def test_what_is_wrong_and_what_can_be_repaired():
    assert judged() == []
    assert judged((30, 0.001), (25, 0.01)) == []
    # Decibels are judged on average, as of a run's first pack: a window of noise is no damage.
    assert judged((30, 0.001), (12, 0.001)) == []
    assert judged((22, 0.001), (12, 0.001)) == [("low_psnr", 1, False)]
    assert judged((NAN, 0.001)) == judged((BAD, 0.001)) == [("low_psnr", 0, False)]
    assert judged((5, 0.001), limit=None) == []
    # What is not the encoder's is damage, of single segments where others are right.
    assert judged((30, 0.001), (30, 0.02)) == [("unfaithful", 1, True)]
    assert judged((30, 0.001), (5, NAN)) == [("unfaithful", 1, True)]
    assert judged((5, 0.5)) == [("unfaithful", 0, False)]
    assert judged((5, 0.5), (6, 0.6)) == [("unfaithful", 0, False), ("unfaithful", 1, False)]
