"""The graph on a real Ray cluster: as many replicas and as large micro-batches as one likes."""

import pytest
import torch

from pipeline import LatentCache
from pipeline.config import load_config
from pipeline.job import EXIT_DONE, JobOptions, run_job
from tests.e2e.support import config_tree, write_config, write_list

pytestmark = pytest.mark.ray


def test_replicas_and_micro_batches_change_nothing(tmp_path, clip, ray_cluster):
    names = ["bikes", "carphone", "vfr", "rotated90", "png", "text"]
    dataset = write_list(
        tmp_path / "clips.jsonl", [{"video": str(clip(name)), "id": name} for name in names]
    )
    caches = {}
    for encoders, micro_batch in ((1, 1), (2, 4)):
        output = tmp_path / f"cache{encoders}{micro_batch}"
        tree = config_tree(
            dataset,
            output,
            windows__fps="12",
            windows__tail="pad",
            latents__dtype="float32",
            run__runner="ray",
            run__encoders=encoders,
            run__gpus_per_encoder=1,
            run__cpus_per_encoder=0,
            run__micro_batch=micro_batch,
            run__task_windows=4,
        )
        config = load_config(str(write_config(tmp_path / "config.yaml", tree)))
        assert run_job(config, JobOptions()) == EXIT_DONE
        caches[encoders, micro_batch] = LatentCache.open(str(output))
    reference = caches[1, 1]
    ids = reference.samples()["sample_id"].to_pylist()
    assert len(ids) > 10
    for cache in caches.values():
        assert cache.samples()["sample_id"].to_pylist() == ids
        states = {row["id"]: row["status"] for row in cache.sources().to_pylist()}
        assert states == {**dict.fromkeys(names, "ok"), "text": "failed"}
        for name in ids:
            ours, theirs = cache.read(name), reference.read(name)
            for key in ours:
                assert ours[key].dtype == torch.float32
                torch.testing.assert_close(ours[key], theirs[key], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_decoding_beside_the_encoder_changes_nothing(tmp_path, clip, ray_cluster):
    names = ["bikes", "carphone", "vfr", "rotated90", "png", "text"]
    rows = [{"video": str(clip(name)), "id": name} for name in names]
    dataset = write_list(tmp_path / "clips.jsonl", rows)
    caches = {}
    for decode in ("stage", "in_actor"):
        output = tmp_path / decode
        tree = config_tree(
            dataset,
            output,
            windows__fps="12",
            windows__tail="pad",
            run__runner="ray",
            run__gpus_per_encoder=1,
            run__cpus_per_encoder=0,
            run__micro_batch=4,
            run__task_windows=4,
            run__decode=decode,
            run__decode_tasks=1,
        )
        config = load_config(str(write_config(tmp_path / "config.yaml", tree)))
        assert run_job(config, JobOptions()) == EXIT_DONE
        caches[decode] = LatentCache.open(str(output))
    stage, actor = caches.values()
    same = ["sample_id", "source_id", "bucket", "window", "valid_frames", "checksum"]
    assert stage.samples().num_rows > 10
    assert actor.samples().select(same).equals(stage.samples().select(same))
    told = [
        cache.sources().select(["id", "status", "reason"]).to_pylist() for cache in caches.values()
    ]
    assert told[0] == told[1]
    assert {row["id"]: row["status"] for row in told[0]}["text"] == "failed"
