"""The fields of KubeRay's kinds that we use; unknown ones are refused.

Pod templates stay mappings: they are a core kind, which ``kubernetes-validate`` knows.
"""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, model_validator
from pydantic.alias_generators import to_camel

_Tree = dict[str, Any]


class _Kind(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True, strict=True
    )

    def to_tree(self) -> _Tree:
        """As Kubernetes writes it; fields that are not set are left out."""
        return self.model_dump(by_alias=True, exclude_unset=True)


class Metadata(_Kind):
    """Of an object."""

    name: str = Field(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=63)
    namespace: str | None = None
    labels: dict[str, str] = {}


class AuthOptions(_Kind):
    """KubeRay makes the token and keeps it in a Secret of the cluster's name."""

    mode: Literal["token"]


class AutoscalerOptions(_Kind):
    """The autoscaler beside the head."""

    version: Literal["v2"]
    idle_timeout_seconds: PositiveInt
    resources: _Tree
    security_context: _Tree


class HeadGroup(_Kind):
    """The head's pod; no task may run on it."""

    ray_start_params: dict[str, str]
    template: _Tree

    @model_validator(mode="after")
    def _runs_no_task(self) -> Self:
        if self.ray_start_params.get("num-cpus") != "0":
            raise ValueError('the head group needs rayStartParams num-cpus: "0"')
        return self


class WorkerGroup(_Kind):
    """Pods that come and go."""

    group_name: str
    replicas: NonNegativeInt
    min_replicas: NonNegativeInt
    max_replicas: PositiveInt
    ray_start_params: dict[str, str]
    template: _Tree

    @model_validator(mode="after")
    def _between(self) -> Self:
        if not self.min_replicas <= self.replicas <= self.max_replicas:
            raise ValueError(
                f"replicas of {self.group_name} are {self.replicas}, not between "
                f"{self.min_replicas} and {self.max_replicas}"
            )
        return self


class ClusterSpec(_Kind):
    """Of a RayCluster, and of the cluster of a RayJob."""

    ray_version: str
    enable_in_tree_autoscaling: Literal[True]
    autoscaler_options: AutoscalerOptions
    auth_options: AuthOptions
    head_group_spec: HeadGroup
    worker_group_specs: list[WorkerGroup] = Field(min_length=1)

    @property
    def templates(self) -> list[_Tree]:
        """Pod templates of all groups."""
        return [
            self.head_group_spec.template,
            *(group.template for group in self.worker_group_specs),
        ]


class RayCluster(_Kind):
    """A cluster that stands."""

    api_version: Literal["ray.io/v1"]
    kind: Literal["RayCluster"]
    metadata: Metadata
    spec: ClusterSpec

    @property
    def cluster(self) -> ClusterSpec:
        """The cluster's own specification."""
        return self.spec


class JobSpec(_Kind):
    """One run on a cluster of its own."""

    entrypoint: str = Field(min_length=1)
    submission_mode: Literal["K8sJobMode"]
    backoff_limit: NonNegativeInt
    shutdown_after_job_finishes: Literal[True]
    ttl_seconds_after_finished: NonNegativeInt
    ray_cluster_spec: ClusterSpec


class RayJob(_Kind):
    """A run, its cluster, and how often it is begun anew."""

    api_version: Literal["ray.io/v1"]
    kind: Literal["RayJob"]
    metadata: Metadata
    spec: JobSpec

    @property
    def cluster(self) -> ClusterSpec:
        """The specification of the run's cluster."""
        return self.spec.ray_cluster_spec


RAY_KINDS: dict[str, type[RayCluster] | type[RayJob]] = {
    "RayCluster": RayCluster,
    "RayJob": RayJob,
}
