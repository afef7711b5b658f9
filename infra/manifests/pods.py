"""Pod templates of the head, the GPU nodes and the submitter."""

from typing import Any

from infra.manifests.values import Values

Tree = dict[str, Any]

STOP_SECONDS = 120
"""What a job has from SIGTERM to commit and to leave its leases, before it is killed."""

HEAD_STORE_GIB = 1
"""The head runs the driver alone, to which only small rows travel."""

USER = 10001
"""Of the images; Kubernetes takes only a number as not root."""

CONTAINER_SECURITY: Tree = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
}


def head_template(values: Values) -> Tree:
    """The driver's pod."""
    head = values.head
    resources = {"cpu": str(head.cpus), "memory": f"{head.memory_gib}Gi"}
    container = {
        "name": "head",
        "image": values.images.cpu,
        "ports": [
            {"name": "gcs", "containerPort": 6379},
            {"name": "dashboard", "containerPort": 8265},
            {"name": "metrics", "containerPort": 8080},
        ],
        "env": [
            *_environment(values),
            {"name": "RAY_JOB_STOP_WAIT_TIME_S", "value": str(STOP_SECONDS)},
        ],
        **_with_shared_memory(resources),
    }
    spec = {
        **_spec(values, container, shared_gib=HEAD_STORE_GIB + 1),
        "nodeSelector": head.node_selector,
        "terminationGracePeriodSeconds": STOP_SECONDS + 30,
    }
    return {"spec": spec}


def gpu_template(values: Values) -> Tree:
    """A GPU node's pod: encoders, and the decode tasks that feed them."""
    nodes = values.gpu_nodes
    resources = {
        "cpu": str(nodes.cpus),
        "memory": f"{nodes.memory_gib}Gi",
        "nvidia.com/gpu": str(nodes.gpus),
    }
    container = {
        "name": "gpu",
        "image": values.images.gpu,
        "ports": [{"name": "metrics", "containerPort": 8080}],
        "env": _environment(values),
        **_with_shared_memory(resources),
    }
    spec = {
        **_spec(values, container, shared_gib=values.shared_memory_gib),
        "automountServiceAccountToken": False,
        "nodeSelector": nodes.node_selector,
        "tolerations": [dict(one) for one in nodes.tolerations],
        "terminationGracePeriodSeconds": 60,  # Ray drains a node for 30
    }
    return {"spec": spec}


def submitter_template(values: Values, arguments: list[str]) -> Tree:
    """The pod that submits to the standing cluster and follows the job.

    The submission's id is the name of the pod's Job, which is new for each time of the schedule
    and the same when the pod is made again.
    """
    job_name = "metadata.labels['batch.kubernetes.io/job-name']"
    token = {"name": values.name, "key": "auth_token"}
    container = {
        "name": "submit",
        "image": values.images.cpu,
        "command": ["python", "/app/infra/submit.py", "--id=$(SUBMISSION_ID)", "--"],
        "args": arguments,
        "env": [
            {"name": "SUBMISSION_ID", "valueFrom": {"fieldRef": {"fieldPath": job_name}}},
            {
                "name": "RAY_API_SERVER_ADDRESS",
                "value": f"http://{values.name}-head-svc:8265",
            },
            {"name": "RAY_AUTH_MODE", "value": "token"},
            {"name": "RAY_AUTH_TOKEN", "valueFrom": {"secretKeyRef": token}},
        ],
        "resources": {
            "requests": {"cpu": "250m", "memory": "512Mi"},
            "limits": {"cpu": "1", "memory": "1Gi"},
        },
        "securityContext": CONTAINER_SECURITY,
    }
    return {
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": _pod_security(),
            "containers": [container],
            "nodeSelector": values.head.node_selector,
        }
    }


def _pod_security() -> Tree:
    return {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "fsGroup": USER,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _environment(values: Values) -> list[Tree]:
    storage = values.storage
    found = {
        "AWS_ENDPOINT_URL": storage.endpoint_url,
        "AWS_REGION": storage.region,
        # A worker that ended after one idle second would load its modules anew for the next task.
        "RAY_idle_worker_killing_time_threshold_ms": "60000",
    }
    return [{"name": name, "value": value} for name, value in found.items() if value is not None]


def _with_shared_memory(resources: Tree) -> Tree:
    return {
        "resources": {"requests": resources, "limits": dict(resources)},
        "securityContext": CONTAINER_SECURITY,
        "volumeMounts": [{"name": "shared-mem", "mountPath": "/dev/shm"}],
    }


def _spec(values: Values, container: Tree, shared_gib: int) -> Tree:
    storage = values.storage
    if storage.secret is not None:
        container = {**container, "envFrom": [{"secretRef": {"name": storage.secret}}]}
    spec: Tree = {
        "restartPolicy": "Never",
        "securityContext": _pod_security(),
        "containers": [container],
        "volumes": [
            {
                "name": "shared-mem",
                "emptyDir": {"medium": "Memory", "sizeLimit": f"{shared_gib}Gi"},
            }
        ],
    }
    if storage.service_account is not None:
        spec["serviceAccountName"] = storage.service_account
    return spec
