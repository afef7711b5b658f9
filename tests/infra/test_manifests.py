"""Every manifest, generated or rendered, is valid and keeps the rules of this deployment."""

import shlex
from typing import Any

import pytest

from infra.manifests.pods import STOP_SECONDS
from infra.manifests.validate import manifests, problems
from infra.manifests.values import ROOT, ray_version
from pipeline.cli import make_parser
from pipeline.config import load_config

RUNS = [
    "base/run/rayjob.yaml: RayJob",
    "overlays/run: RayJob",
    "overlays/run-on-demand: RayJob",
]
CLUSTERS = ["base/standing/raycluster.yaml: RayCluster", "overlays/standing: RayCluster"]
REFRESHES = ["base/standing/cronjob.yaml: CronJob", "overlays/standing: CronJob"]
ALL = [*RUNS, *CLUSTERS, *REFRESHES]


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, Any]]:
    """Every manifest by its file, or overlay, and kind."""
    return {name.removeprefix("infra/kuberay/"): tree for name, tree in manifests()}


@pytest.fixture
def document(request, found):
    return found[request.param]


def _each(names):
    return pytest.mark.parametrize("document", names, indirect=True)


def _cluster(document: dict) -> dict[str, Any]:
    spec = document["spec"]
    return spec if document["kind"] == "RayCluster" else spec["rayClusterSpec"]


def _pods(document: dict) -> list[dict[str, Any]]:
    if document["kind"] == "CronJob":
        return [document["spec"]["jobTemplate"]["spec"]["template"]["spec"]]
    cluster = _cluster(document)
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def test_there_are_no_others(found):
    assert sorted(found) == sorted(ALL)


@_each(ALL)
def test_it_is_valid(document):
    assert problems(document, {}) == []


@_each(ALL)
def test_pods_are_not_root_and_secrets_are_only_named(document):
    for pod in _pods(document):
        assert pod["securityContext"]["runAsNonRoot"] is True
        [container] = pod["containers"]
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        secret = ("SECRET", "KEY", "TOKEN", "PASSWORD")
        for variable in container["env"]:
            if any(part in variable["name"] for part in secret):
                assert "secretKeyRef" in variable["valueFrom"]
                assert "value" not in variable


@_each([*RUNS, *CLUSTERS])
def test_the_head_runs_no_task_and_gpu_nodes_come_and_go(document):
    cluster = _cluster(document)
    assert cluster["rayVersion"] == ray_version()
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["autoscalerOptions"]["version"] == "v2"
    head = cluster["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert head["template"]["spec"]["nodeSelector"]["karpenter.sh/capacity-type"] == "on-demand"
    assert head["template"]["spec"]["terminationGracePeriodSeconds"] > STOP_SECONDS
    [group] = cluster["workerGroupSpecs"]
    assert (group["minReplicas"], group["replicas"], group["maxReplicas"]) == (0, 0, 8)
    assert group["template"]["spec"]["restartPolicy"] == "Never"


@_each([*RUNS, *CLUSTERS])
def test_shared_memory_holds_the_object_store_and_counts_as_memory(document):
    cluster = _cluster(document)
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        [container] = pod["containers"]
        [volume] = pod["volumes"]
        assert container["volumeMounts"] == [{"name": volume["name"], "mountPath": "/dev/shm"}]
        assert volume["emptyDir"]["medium"] == "Memory"
        shared = _gib(volume["emptyDir"]["sizeLimit"])
        store = int(group["rayStartParams"]["object-store-memory"]) / 2**30
        assert store < shared <= _gib(container["resources"]["limits"]["memory"]) / 2


def _gib(quantity: str) -> int:
    assert quantity.endswith("Gi")
    return int(quantity.removesuffix("Gi"))


def test_spot_is_left_out_where_it_is_not_wanted(found):
    spot = {"karpenter.sh/capacity-type": "spot"}
    assert _pods(found["overlays/run: RayJob"])[1]["nodeSelector"] == spot
    assert "nodeSelector" not in _pods(found["overlays/run-on-demand: RayJob"])[1]


@_each(REFRESHES)
def test_the_refresh_never_runs_twice_and_submits_under_its_jobs_name(document, found):
    assert document["spec"]["concurrencyPolicy"] == "Forbid"
    [pod] = _pods(document)
    [container] = pod["containers"]
    environment = {one["name"]: one for one in container["env"]}
    label = "metadata.labels['batch.kubernetes.io/job-name']"
    assert environment["SUBMISSION_ID"]["valueFrom"] == {"fieldRef": {"fieldPath": label}}
    assert "--id=$(SUBMISSION_ID)" in container["command"]
    # KubeRay's names: the head's service and the token's secret follow from the cluster's.
    [cluster] = {found[name]["metadata"]["name"] for name in CLUSTERS}
    assert environment["RAY_API_SERVER_ADDRESS"]["value"] == f"http://{cluster}-head-svc:8265"
    token = {"secretKeyRef": {"name": cluster, "key": "auth_token"}}
    assert environment["RAY_AUTH_TOKEN"]["valueFrom"] == token


def _command(document: dict) -> list[str]:
    if document["kind"] == "RayJob":
        return shlex.split(document["spec"]["entrypoint"])
    found = _pods(document)[0]["containers"][0]["args"]
    assert isinstance(found, list)
    return found


@_each([*RUNS, *REFRESHES])
def test_the_job_takes_its_arguments(document):
    _check_command(_command(document), nodes=8 if document["kind"] == "RayJob" else 1)


def test_the_job_takes_the_arguments_of_the_sbatch_script():
    last = (ROOT / "infra/slurm/encode.sbatch").read_text().rstrip().rsplit("\n", 1)[-1]
    on_allocation, command = shlex.split(last)[1], shlex.split(last)[2:]
    assert (ROOT / on_allocation).is_file()
    _check_command(command, nodes=4)


def _check_command(command: list[str], nodes: int) -> None:
    python, job, *arguments = command
    assert python == "python"
    assert (ROOT / job.removeprefix("/app/")).is_file()
    args = make_parser(job, None).parse_args(arguments)
    fields = {"dataset.uri": args.dataset, "output.uri": args.output}
    path = ROOT / args.config.removeprefix("/app/")
    config = load_config(str(path), args.set, fields)
    assert config.run.encoders == 8 * nodes
    assert config.run.decode_tasks == 24 * nodes
    assert config.vae.checkpoint == "s3://my-bucket/vae_v2.safetensors"
