"""Checkpoints of both versions through the whole pipeline: told by the file, kept by the cache."""

import json
from pathlib import Path

import pytest
from safetensors.torch import save_file

from pipeline import LatentCache
from pipeline.config import Config, load_config
from pipeline.contract import ContractError
from pipeline.job import EXIT_DONE, JobOptions, run_job
from pipeline.manifest import Manifest
from pipeline.storage import Store
from tests.e2e.support import config_tree, write_config, write_list
from vae import AutoencoderKL, VAEConfig, encoder_sha256, seeded_state_dict

MODELS = {
    version: VAEConfig(
        version=version,
        z_channels=2,
        num_res_blocks=1,
        encoder_ch=8,
        encoder_ch_mult=(1, 1, 1, 1),
        decoder_ch=8,
        decoder_ch_mult=(1, 1, 1, 1),
        norm_groups=8,
    )
    for version in (1, 2)
}
FACTORS = {1: (5, 8), 2: (3, 16)}
"""Latent frames of a window, and pixels for a latent position, by version."""


def _checkpoint(folder: Path, version: int) -> Path:
    path = folder / f"v{version}.safetensors"
    save_file(seeded_state_dict(MODELS[version], 1), path)
    return path


def _config(tmp_path: Path, clip, version: int, **changes) -> Config:
    """A video and an image, with a checkpoint that alone says what it is."""
    rows = [{"video": str(clip(name)), "id": name} for name in ("short", "png")]
    dataset = write_list(tmp_path / "clips.jsonl", rows)
    vae = {"checkpoint": str(_checkpoint(tmp_path, version)), "widths": {"norm_groups": 8}}
    tree = config_tree(dataset, tmp_path / "cache", windows__tail="pad", **changes)
    return load_config(str(write_config(tmp_path / "config.yaml", {**tree, "vae": vae})))


@pytest.mark.parametrize("version", MODELS)
@pytest.mark.parametrize("shards", ["safetensors", "parquet"])
def test_a_cache_keeps_the_version_of_its_checkpoint(tmp_path, clip, version, shards):
    config = _config(tmp_path, clip, version, output__format=shards)
    assert run_job(config, JobOptions()) == EXIT_DONE
    cache = LatentCache.open(config.output.uri)
    latents, pixels = FACTORS[version]
    model = AutoencoderKL.from_file(config.vae.checkpoint, MODELS[version])
    assert cache.contract.vae_version == version
    assert cache.contract.z_channels == 2
    assert cache.contract.latent_frames == latents
    assert cache.contract.encoder_sha256 == encoder_sha256(model.state_dict())
    names = {row["source_id"]: row["id"] for row in cache.sources().to_pylist()}
    seen = set()
    for row in cache.samples().to_pylist():
        height, width = (int(side) for side in row["bucket"][1:].split("w"))
        is_image = names[row["source_id"]] == "png"
        stored = cache.read(row["sample_id"])
        shape = (1 if is_image else latents, 2, height // pixels, width // pixels)
        assert {name: tuple(tensor.shape) for name, tensor in stored.items()} == {
            "mean": shape,
            "logvar": shape,
        }
        seen.add(is_image)
    assert seen == {True, False}
    [run] = _runs(config)
    told = json.loads(run["config"])["vae"]
    assert (told["version"], told["z_channels"]) == (version, 2)  # as the file says
    assert told["widths"]["encoder_ch_mult"] == [1, 1, 1, 1]


def _runs(config: Config) -> list[dict]:
    rows = Manifest(Store(config.output.uri, config.storage)).read("runs").to_pylist()
    return [row for row in rows if row["state"] == "finished"]


def test_another_version_is_another_contract(tmp_path, clip):
    assert run_job(_config(tmp_path, clip, 1), JobOptions()) == EXIT_DONE
    with pytest.raises(ContractError, match="vae_version is 1 in the cache and 2"):
        run_job(_config(tmp_path, clip, 2), JobOptions())


def test_a_second_run_with_version_1_does_nothing(tmp_path, clip, capsys):
    config = _config(tmp_path, clip, 1)
    for _ in range(2):
        assert run_job(config, JobOptions()) == EXIT_DONE
    report = json.loads(capsys.readouterr().out.strip().rsplit("\n", 1)[-1])
    assert report["windows"] == 0
    assert len(_runs(config)) == 2
