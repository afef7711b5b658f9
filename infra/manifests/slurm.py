"""The sbatch script of a run."""

import shlex

from infra.manifests.values import Values

STOP_SECONDS = 180
"""Before the time limit, or a preemption, the batch script is told to stop."""


def sbatch(values: Values) -> str:
    """Asks for nodes like the values' GPU nodes, and hands over to ``on_ray.sh``."""
    nodes, slurm = values.gpu_nodes, values.slurm
    options = {
        "job-name": values.name,
        "nodes": slurm.nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": nodes.cpus,
        "gpus-per-node": nodes.gpus,
        "mem": f"{nodes.memory_gib}G",
        "time": slurm.time_limit,
        "signal": f"B:TERM@{STOP_SECONDS}",
        "output": "%x-%j.log",
        "open-mode": "append",
        **({} if slurm.partition is None else {"partition": slurm.partition}),
    }
    storage = values.storage
    exports = {
        "OBJECT_STORE_BYTES": str(values.object_store_bytes),
        **({} if storage.endpoint_url is None else {"AWS_ENDPOINT_URL": storage.endpoint_url}),
        **({} if storage.region is None else {"AWS_REGION": storage.region}),
    }
    command = ["python", "jobs/encode_dataset.py", *values.arguments(slurm.nodes)]
    return "\n".join(
        [
            "#!/usr/bin/env bash",
            "# Made by `make manifests` from infra/values.yaml; changes here are lost.",
            "# Submit from the checkout, with credentials in the environment:",
            "#   sbatch infra/slurm/encode.sbatch",
            *(f"#SBATCH --{name}={value}" for name, value in options.items()),
            "#SBATCH --requeue",
            "set -euo pipefail",
            *(f"export {name}={shlex.quote(value)}" for name, value in exports.items()),
            f'export PATH="$PWD/{slurm.environment}/bin:$PATH"',
            f"exec infra/slurm/on_ray.sh {shlex.join(command)}",
            "",
        ]
    )
