"""The cache holds what the VAE gives for the frames that sources show, in both formats."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import Contract, LatentCache
from pipeline.buckets import nearest
from pipeline.config import Config, load_config
from pipeline.encode import pixels_to_input
from pipeline.job import EXIT_DONE, JobOptions, run_job
from pipeline.recipe import Recipe
from pipeline.video.decode import ClipRequest, FrameRecipe, Segment, Target, decode_clips
from pipeline.video.limits import DecodeLimits
from pipeline.weights import load_vae
from tests import clips
from tests.e2e.support import config_tree, write_config, write_list

CLIPS = [
    "bikes",
    "carphone",
    "city",
    "portrait_vp9",
    "vfr",
    "rotated90",
    "hevc10",
    "short",
    "png",
]


def _encode(tmp_path: Path, clip, **changes) -> tuple[Config, LatentCache]:
    rows = [
        {"video": str(clip(name)), "id": name, "caption": f"a clip of {name}", "rank": index}
        for index, name in enumerate(CLIPS)
    ]
    for row in rows[:4]:
        row["end"] = 1.5  # the real ones are long
    dataset = write_list(tmp_path / "clips.jsonl", rows)
    tree = config_tree(dataset, tmp_path / "cache", windows__tail="pad", **changes)
    config = load_config(str(write_config(tmp_path / "config.yaml", tree)))
    assert run_job(config, JobOptions()) == EXIT_DONE
    return config, LatentCache.open(str(tmp_path / "cache"))


def _whole(config: Config, recipe: Recipe, source: dict) -> dict[int, np.ndarray]:
    """All windows of a source by index, decoded in one go."""
    with Path(source["uri"]).open("rb") as file:
        bucket = nearest(config.bucket_list, *_size(source))
        request = ClipRequest(
            "", source["start"], source["end"], ((0, None),), (Target(bucket, 999),)
        )
        frames = FrameRecipe(recipe.fps, recipe.grid, recipe.resize, recipe.filter)
        found = list(decode_clips(file, [request], frames, DecodeLimits()))
    segments = [part for part in found if isinstance(part, Segment)]
    return {s.first_window + n: s.frames[n] for s in segments for n in range(len(s.frames))}


def _size(source: dict) -> tuple[int, int]:
    import json

    facts = json.loads(source["facts"])
    return facts["width"], facts["height"]


@pytest.mark.parametrize("shards", ["safetensors", "parquet"])
@pytest.mark.parametrize(
    ("fps", "version"),
    [(None, 2), pytest.param("12", 2, marks=pytest.mark.slow), ("12", 1)],
)
def test_latents_equal_the_posterior_of_the_frames(tmp_path, clip, shards, fps, version):
    config, cache = _encode(
        tmp_path, clip, output__format=shards, windows__fps=fps, vae__version=version
    )
    assert cache.contract.vae_version == version
    recipe = Recipe.from_config(config, cache.contract)
    vae = load_vae(config.vae, config.storage)
    samples = cache.samples()
    checked = 0
    for source in cache.sources().to_pylist():
        assert source["status"] == "ok", source["message"]
        windows = _whole(config, recipe, source)
        own = samples.filter(np.array(samples["source_id"]) == source["source_id"]).to_pylist()
        assert sorted(row["window"] for row in own) == sorted(windows)
        for row in own:
            stored = cache.read(row["sample_id"])
            frames = torch.from_numpy(windows[row["window"]][None])
            posterior = vae.posterior(pixels_to_input(frames, vae.dtype))
            for name, exact in (("mean", posterior.mean[0]), ("logvar", posterior.logvar[0])):
                assert stored[name].dtype == torch.float16
                torch.testing.assert_close(stored[name].float(), exact, rtol=1e-3, atol=1e-3)
            assert len(row["frame_times"]) == len(windows[row["window"]])
            checked += 1
    assert checked >= 20


def test_both_formats_hold_the_same_bits(tmp_path, clip):
    caches = []
    for shards in ("safetensors", "parquet"):
        folder = tmp_path / shards
        folder.mkdir()
        caches.append(_encode(folder, clip, output__format=shards, windows__fps="12")[1])
    ids = [cache.samples()["sample_id"].to_pylist() for cache in caches]
    assert ids[0] == ids[1]
    assert caches[0].contract == caches[1].contract
    for name in ids[0]:
        left, right = (cache.read(name) for cache in caches)
        assert left.keys() == right.keys() == {"mean", "logvar"}
        assert all(torch.equal(left[key], right[key]) for key in left)


def test_the_tables_tell_the_dataset_and_the_contract(tmp_path, clip):
    _, cache = _encode(tmp_path, clip, windows__fps="12", latents__statistic="mean")
    sources = {row["id"]: row for row in cache.sources().to_pylist()}
    assert set(sources) == set(CLIPS)
    assert sources["bikes"]["caption"] == "a clip of bikes"
    assert [sources[name]["rank"] for name in CLIPS] == list(range(len(CLIPS)))
    assert isinstance(cache.contract, Contract)
    assert cache.contract.statistic == "mean"
    assert cache.contract.value_range == (-1.0, 1.0)
    assert cache[cache.samples()["sample_id"][0].as_py()].keys() == {"mean"}
    rows = [
        r for r in cache.samples().to_pylist() if r["source_id"] == sources["bikes"]["source_id"]
    ]
    rate = Fraction(1, 12)
    for row in rows:
        wanted = [float(rate * (17 * row["window"] + k)) for k in range(row["valid_frames"])]
        shown = np.array(row["frame_times"][: row["valid_frames"]]) - rows[0]["frame_times"][0]
        # each frame is the last one at or before its time: less than a source frame (1/25 s) early
        assert np.all(shown <= np.array(wanted) + 1e-9)
        assert np.all(shown > np.array(wanted) - 1 / 25 - 1e-9)


def test_several_buckets_per_source_are_decoded_once(tmp_path, clip, monkeypatch):
    import pipeline.stages.decode as stage

    opened = []
    real = stage.open_source
    monkeypatch.setattr(
        stage, "open_source", lambda uri, *rest: opened.append(uri) or real(uri, *rest)
    )
    dataset = write_list(tmp_path / "a.jsonl", [{"video": str(clip("short")), "id": "a"}])
    tree = config_tree(dataset, tmp_path / "cache", windows__tail="pad", bucket_choice="all")
    config = load_config(str(write_config(tmp_path / "config.yaml", tree)))
    assert run_job(config, JobOptions()) == EXIT_DONE
    samples = LatentCache.open(str(tmp_path / "cache")).samples()
    assert sorted(samples["bucket"].to_pylist()) == ["h32w64", "h48w48", "h64w32"]
    assert len(opened) == 1


def test_windows_of_a_picture_held_for_long_are_samples_of_their_own(tmp_path):
    held = clips.encode(tmp_path / "held.mp4", "libx264", count=3, times=lambda i: (0, 25, 100)[i])
    tree = config_tree(tmp_path / "clips.jsonl", tmp_path / "cache", windows__fps="24")
    write_list(tmp_path / "clips.jsonl", [{"video": str(held)}])
    config = load_config(str(write_config(tmp_path / "config.yaml", tree)))
    assert run_job(config, JobOptions()) == EXIT_DONE
    samples = LatentCache.open(str(tmp_path / "cache")).samples()
    assert samples["window"].to_pylist() == list(range((4 * 24 + 1) // 17))
    assert samples["first_frame"].to_pylist() == [17 * n for n in range(samples.num_rows)]
    assert len(set(samples["sample_id"].to_pylist())) == samples.num_rows
    shown = samples["frame_times"].to_pylist()
    assert shown[2] == shown[3] == [1.0] * 17
