"""The fidelity canary as an actor of a cluster, with the resources of an encoder."""

import functools

import pytest
from test_canary import run_config, videos

from pipeline.canary import CanaryError
from pipeline.errors import UserError
from pipeline.job import JobOptions, run_job
from tests.faithful_vae import write_checkpoint
from tests.mistaken import Changed, as_bgr, same

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]
__all__ = ["videos"]  # a fixture


@pytest.fixture
def config(videos, tmp_path):
    checkpoint = write_checkpoint(tmp_path / "vae.safetensors")
    config = run_config(videos, tmp_path / "cache", checkpoint, canary="auto", run__runner="ray")
    run = config.run.model_copy(update={"gpus_per_encoder": 1.0, "decode_tasks": 1})
    vae = config.vae.model_copy(update={"device": "auto"})
    return config.model_copy(update={"run": run, "vae": vae})


def test_it_runs_by_itself_where_encoders_have_gpus(config, capsys):
    assert run_job(config, JobOptions()) == 0
    assert "fidelity canary: 2 windows decode with 2" in capsys.readouterr().err


def test_a_mistake_ends_the_run_before_it_begins(config, tmp_path):
    with pytest.raises(CanaryError, match="less than canary_psnr 20"):
        run_job(config, JobOptions(), functools.partial(Changed, as_bgr, same))
    assert issubclass(CanaryError, UserError)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["leases"]
