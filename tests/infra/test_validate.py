"""The check of manifests finds what is wrong."""

import copy

import pytest
import yaml

from infra.manifests.build import cron_job, ray_cluster, ray_job
from infra.manifests.validate import main, problems, read_crds
from infra.manifests.values import INFRA, load_values
from pipeline.errors import UserError

VALUES = load_values(INFRA / "values.yaml")

CRD = """
spec:
  group: ray.io
  names: {kind: RayJob}
  versions:
    - name: v1
      schema:
        openAPIV3Schema:
          type: object
          properties:
            apiVersion: {type: string}
            kind: {type: string}
            metadata: {type: object}
            spec:
              type: object
              required: [entrypoint]
              properties:
                entrypoint: {type: string}
                submissionMode: {type: string, enum: [K8sJobMode]}
                backoffLimit: {type: integer, nullable: true}
                shutdownAfterJobFinishes: {type: boolean}
                ttlSecondsAfterFinished: {x-kubernetes-int-or-string: true, anyOf: []}
                rayClusterSpec: {type: object, x-kubernetes-preserve-unknown-fields: true}
"""


def _set(tree: dict, path: str, value: object) -> dict:
    tree = copy.deepcopy(tree)
    *parents, last = path.split("/")
    found = tree
    for key in parents:
        found = found[int(key) if key.isdigit() else key]
    found[last] = value
    return tree


CLUSTER, JOB, CRON = ray_cluster(VALUES), ray_job(VALUES), cron_job(VALUES)
GROUP = "spec/workerGroupSpecs/0"


@pytest.mark.parametrize(
    ("tree", "path", "value", "told"),
    [
        (CLUSTER, "spec/headGroupSpec/rayStartParams/num-cpus", "4", 'num-cpus: "0"'),
        (CLUSTER, "spec/authOptions/mode", "disabled", "authOptions/mode"),
        (CLUSTER, "spec/autoscalerOptions/version", "v1", "autoscalerOptions/version"),
        (CLUSTER, f"{GROUP}/maxReplica", 3, "maxReplica"),
        (CLUSTER, f"{GROUP}/replicas", 9, "not between 0 and 8"),
        (CLUSTER, f"{GROUP}/rayStartParams/num-gpus", 8, "rayStartParams/num-gpus"),
        (CLUSTER, f"{GROUP}/template/spec/tolerance", [], "'tolerance' was unexpected"),
        (CLUSTER, f"{GROUP}/template/spec/containers/0/image", 5, "containers/0/image"),
        (CLUSTER, "kind", "RayServe", "no kind that is used here"),
        (JOB, "spec/submissionMode", "HTTP", "spec/submissionMode"),
        (JOB, "spec/rayClusterSpec/rayVersion", 2.6, "rayVersion"),
        (CRON, "spec/concurrencyPolicies", "Forbid", "'concurrencyPolicies' was unexpected"),
        (CRON, "spec/jobTemplate/spec/backoffLimit", "six", "backoffLimit"),
        (CRON, "kind", "CronTab", "no kind of Kubernetes"),
    ],
)
def test_what_is_wrong_is_told(tree, path, value, told):
    assert problems(tree, {}) == []
    [problem] = problems(_set(tree, path, value), {})
    assert told in problem


def test_crds_are_closed_against_unknown_fields(tmp_path):
    (tmp_path / "rayjobs.yaml").write_text(CRD)
    crds = read_crds(tmp_path)
    assert problems(JOB, crds) == []
    for path, value, told in [
        ("spec/backofLimit", 3, "'backofLimit' was unexpected"),
        ("spec/entrypoint", 3, "spec/entrypoint: 3 is not of type 'string'"),
        ("spec/ttlSecondsAfterFinished", [], "spec/ttlSecondsAfterFinished: [] is not of type"),
    ]:
        assert any(told in problem for problem in problems(_set(JOB, path, value), crds))
    assert problems(CLUSTER, crds) == ["the CRDs have no ray.io/v1 RayCluster"]


def test_the_command_checks_all_there_is(tmp_path, capsys):
    assert main([]) == 0
    told = capsys.readouterr().out
    assert "infra/kuberay/overlays/standing: RayCluster ok" in told
    assert "CRDs were not asked" in told
    (tmp_path / "rayjobs.yaml").write_text(CRD)
    assert main(["--crd-dir", str(tmp_path)]) == 1
    assert "the CRDs have no ray.io/v1 RayCluster" in capsys.readouterr().out
    assert main(["--crd-dir", str(tmp_path / "none")]) == 1
    assert "holds no CRD" in capsys.readouterr().err


def test_a_folder_without_crds_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text(yaml.safe_dump({}))
    with pytest.raises(UserError, match="holds no CRD"):
        read_crds(tmp_path)
