"""The manifests: a run as a RayJob, a standing RayCluster, and its nightly refresh."""

import shlex
from pathlib import Path
from typing import Any

import yaml

from infra.manifests.kinds import (
    AuthOptions,
    AutoscalerOptions,
    ClusterSpec,
    HeadGroup,
    JobSpec,
    Metadata,
    RayCluster,
    RayJob,
    WorkerGroup,
)
from infra.manifests.pods import (
    CONTAINER_SECURITY,
    HEAD_STORE_GIB,
    gpu_template,
    head_template,
    submitter_template,
)
from infra.manifests.slurm import sbatch
from infra.manifests.values import GIB, Values, ray_version

Tree = dict[str, Any]

_MADE = "# Made by `make manifests` from infra/values.yaml; changes here are lost.\n"


def cluster_spec(values: Values) -> ClusterSpec:
    """A head that runs no task, and GPU nodes from none to the values' most."""
    beside = {"cpu": "1", "memory": "1Gi"}
    return ClusterSpec(
        ray_version=ray_version(),
        enable_in_tree_autoscaling=True,
        autoscaler_options=AutoscalerOptions(
            version="v2",
            idle_timeout_seconds=values.gpu_nodes.idle_seconds,
            resources={"requests": beside, "limits": dict(beside)},
            security_context=CONTAINER_SECURITY,
        ),
        auth_options=AuthOptions(mode="token"),
        head_group_spec=HeadGroup(
            ray_start_params={
                "num-cpus": "0",
                "dashboard-host": "0.0.0.0",
                "object-store-memory": str(HEAD_STORE_GIB * GIB),
            },
            template=head_template(values),
        ),
        worker_group_specs=[
            WorkerGroup(
                group_name="gpu-spot",
                replicas=0,
                min_replicas=0,
                max_replicas=values.gpu_nodes.max,
                ray_start_params={"object-store-memory": str(values.object_store_bytes)},
                template=gpu_template(values),
            )
        ],
    )


def ray_cluster(values: Values) -> Tree:
    """The cluster that stands, with its head alone while nothing runs."""
    return RayCluster(
        api_version="ray.io/v1",
        kind="RayCluster",
        metadata=Metadata(name=values.name),
        spec=cluster_spec(values),
    ).to_tree()


def ray_job(values: Values) -> Tree:
    """One run on all nodes; each retry is a new cluster, and goes on where the last one was."""
    command = ["python", "/app/jobs/encode_dataset.py", *_in_image(values, values.gpu_nodes.max)]
    return RayJob(
        api_version="ray.io/v1",
        kind="RayJob",
        metadata=Metadata(name=f"{values.name}-encode"),
        spec=JobSpec(
            entrypoint=shlex.join(command),
            submission_mode="K8sJobMode",
            backoff_limit=3,
            shutdown_after_job_finishes=True,
            ttl_seconds_after_finished=3600,
            ray_cluster_spec=cluster_spec(values),
        ),
    ).to_tree()


def cron_job(values: Values) -> Tree:
    """The nightly refresh, which submits to the standing cluster; never two at once."""
    nodes = values.refresh.gpu_nodes
    command = ["python", "/app/jobs/refresh_cache.py", *_in_image(values, nodes)]
    # What the job itself ended with is final; a submitter that was lost is made again.
    final = {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [1, 2, 143]}}
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": f"{values.name}-refresh"},
        "spec": {
            "schedule": values.refresh.schedule,
            "timeZone": values.refresh.time_zone,
            "concurrencyPolicy": "Forbid",
            "startingDeadlineSeconds": 3600,
            "successfulJobsHistoryLimit": 3,
            "failedJobsHistoryLimit": 7,
            "jobTemplate": {
                "spec": {
                    "backoffLimit": 6,
                    "podFailurePolicy": {"rules": [final]},
                    "template": submitter_template(values, command),
                }
            },
        },
    }


def _in_image(values: Values, nodes: int) -> list[str]:
    """The arguments with the configuration's path in the image."""
    option, config, *rest = values.arguments(nodes)
    return [option, f"/app/{config}", *rest]


def render(values: Values) -> dict[Path, str]:
    """Every generated file by its path in ``infra``."""
    base = Path("kuberay/base")
    trees = {
        base / "run/rayjob.yaml": ray_job(values),
        base / "standing/raycluster.yaml": ray_cluster(values),
        base / "standing/cronjob.yaml": cron_job(values),
    }
    texts = {path: _MADE + _to_yaml(tree) for path, tree in trees.items()}
    return {**texts, Path("slurm/encode.sbatch"): sbatch(values)}


class _Dumper(yaml.SafeDumper):
    """Writes what is used twice twice: Kubernetes' tools read no anchors reliably."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _to_yaml(tree: Tree) -> str:
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, width=1000)
