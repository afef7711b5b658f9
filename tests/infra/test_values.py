"""The values file: sizes that follow from it, and mistakes in it."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from infra.manifests.__main__ import main
from infra.manifests.values import GIB, INFRA, load_values, ray_version
from pipeline.errors import UserError

MIB = 2**20


@pytest.fixture
def tree() -> dict:
    return yaml.safe_load((INFRA / "values.yaml").read_text())


def _load(folder: Path, tree: dict):
    path = folder / "values.yaml"
    path.write_text(yaml.safe_dump(tree))
    return load_values(path)


@given(st.integers(1, 32), st.integers(1, 8))
def test_shared_memory_holds_the_store_with_a_tenth_to_spare(decode_tasks, gpus):
    tree = yaml.safe_load((INFRA / "values.yaml").read_text())
    tree["gpu_nodes"].update(decode_tasks=decode_tasks, gpus=gpus)
    values = type(load_values(INFRA / "values.yaml")).model_validate(tree)
    spare = values.shared_memory_gib * GIB - values.object_store_bytes
    assert values.object_store_bytes / 10 <= spare < values.object_store_bytes / 10 + GIB
    # The configuration's packs are of 256 MiB.
    assert values.object_store_bytes == 7 * (decode_tasks + gpus + 2) * 256 * MIB


def test_arguments_ask_for_what_so_many_nodes_have(tmp_path, tree):
    told = _load(tmp_path, tree).arguments(3)
    assert "--set=run.encoders=24" in told
    assert "--set=run.decode_tasks=72" in told
    assert told[:2] == ["--config", "configs/t2v_540p.yaml"]


@pytest.mark.parametrize(
    ("section", "key", "value", "told"),
    [
        ("gpu_nodes", "cpus", 32, "gpu_nodes.cpus is 32, but 24 decode tasks, 8 encoders"),
        ("gpu_nodes", "memory_gib", 96, "gpu_nodes.memory_gib is 96, and shared memory alone"),
        ("gpu_nodes", "gpu", 8, "gpu_nodes.gpu: Extra inputs are not permitted"),
        ("gpu_nodes", "gpus", "many", "gpu_nodes.gpus"),
        ("refresh", "gpu_nodes", 9, "refresh.gpu_nodes is 9, more than gpu_nodes.max 8"),
        ("refresh", "schedule", "nightly", "refresh.schedule"),
        (None, "name", "Latents", "name: String should match"),
        (None, "config", "configs/none.yaml", "name an existing YAML file"),
    ],
)
def test_mistakes_are_told(tmp_path, tree, capsys, section, key, value, told):
    (tree if section is None else tree[section])[key] = value
    with pytest.raises(UserError, match=r"\A[^\n]*\Z") as raised:
        _load(tmp_path, tree)
    assert told in str(raised.value)
    assert main(["--values", str(tmp_path / "values.yaml"), "--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_a_missing_values_file_is_told(tmp_path):
    with pytest.raises(UserError, match="name an existing values file"):
        load_values(tmp_path / "none.yaml")


def test_the_version_of_ray_is_the_pinned_one():
    import ray

    assert ray_version() == ray.__version__


def test_generated_files_are_up_to_date(capsys):
    assert main(["--check"]) == 0, capsys.readouterr().out


def test_a_stale_file_is_told(tmp_path, capsys):
    assert main(["--out", str(tmp_path)]) == 0
    assert main(["--out", str(tmp_path), "--check"]) == 0
    stale = tmp_path / "kuberay/base/run/rayjob.yaml"
    stale.write_text(stale.read_text().replace("backoffLimit: 3", "backoffLimit: 4"))
    capsys.readouterr()
    assert main(["--out", str(tmp_path), "--check"]) == 1
    assert str(stale) in capsys.readouterr().out
