"""The values file, checked, and what follows from it: sizes and the jobs' arguments."""

import re
from pathlib import Path
from typing import Annotated, Self

import yaml
from pydantic import Field, PositiveInt, ValidationError, model_validator

from pipeline.config import Config, load_config
from pipeline.config_types import Section
from pipeline.errors import UserError
from pipeline.fitting import store_for_packs

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
GIB = 2**30

_NAME = Field(pattern=r"^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$")
"""At most 40 characters, so that the names that KubeRay derives stay valid."""


class Images(Section):
    """Of GPU nodes, and of the head and the submitter."""

    gpu: str
    cpu: str


class Storage(Section):
    """How pods reach the object store; names of secrets, never what they hold."""

    secret: str | None = None
    service_account: str | None = None
    endpoint_url: str | None = None
    region: str | None = None


class Head(Section):
    """The node of the driver."""

    cpus: PositiveInt
    memory_gib: PositiveInt
    node_selector: dict[str, str] = Field(default_factory=dict)


class GpuNodes(Section):
    """The group of encoding nodes."""

    max: PositiveInt
    gpus: PositiveInt
    cpus: PositiveInt
    memory_gib: PositiveInt
    decode_tasks: PositiveInt
    idle_seconds: PositiveInt = 300
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: tuple[dict[str, str], ...] = ()


class Refresh(Section):
    """The nightly refresh."""

    gpu_nodes: PositiveInt = 1
    schedule: Annotated[str, Field(pattern=r"^\S+( \S+){4}$")]
    time_zone: str = "Etc/UTC"


class Slurm(Section):
    """An allocation of nodes like ``gpu_nodes``."""

    nodes: PositiveInt
    partition: str | None = None
    time_limit: str
    environment: str = ".venv"


class Values(Section):
    """The values file; ``load_values`` reads it."""

    name: Annotated[str, _NAME]
    images: Images
    config: str
    dataset: str
    output: str
    checkpoint: str
    storage: Storage = Storage()
    head: Head
    gpu_nodes: GpuNodes
    refresh: Refresh
    slurm: Slurm

    @model_validator(mode="after")
    def _fits(self) -> Self:
        nodes = self.gpu_nodes
        if self.refresh.gpu_nodes > nodes.max:
            raise ValueError(
                f"refresh.gpu_nodes is {self.refresh.gpu_nodes}, more than gpu_nodes.max "
                f"{nodes.max}: the refresh would wait forever"
            )
        if self.gpu_cpus > nodes.cpus:
            raise ValueError(
                f"gpu_nodes.cpus is {nodes.cpus}, but {nodes.decode_tasks} decode tasks, "
                f"{nodes.gpus} encoders and a writer want {self.gpu_cpus:g}: the last encoders "
                "would wait forever. Lower gpu_nodes.decode_tasks"
            )
        shared = self.shared_memory_gib
        if 2 * shared > nodes.memory_gib:
            raise ValueError(
                f"gpu_nodes.memory_gib is {nodes.memory_gib}, and shared memory alone takes "
                f"{shared} of it; give at least twice that, or lower gpu_nodes.decode_tasks"
            )
        return self

    def arguments(self, nodes: int) -> list[str]:
        """Of ``encode_dataset.py`` and ``refresh_cache.py``, for so many GPU nodes."""
        return [
            *("--config", self.config, "--dataset", self.dataset, "--output", self.output),
            *(f"--set={key}={value}" for key, value in self._settings(nodes).items()),
        ]

    def _settings(self, nodes: int) -> dict[str, str]:
        return {
            "vae.checkpoint": self.checkpoint,
            "run.encoders": str(nodes * self.gpu_nodes.gpus),
            "run.gpus_per_encoder": "1",
            "run.decode_tasks": str(nodes * self.gpu_nodes.decode_tasks),
            # A cluster that starts from no nodes has no object store yet to choose by.
            "run.decode": "stage",
        }

    @property
    def gpu_cpus(self) -> float:
        """CPUs that a GPU node's tasks ask Ray for."""
        nodes, run = self.gpu_nodes, self._config.run
        return nodes.decode_tasks + nodes.gpus * run.cpus_per_encoder + 1

    @property
    def object_store_bytes(self) -> int:
        """Object store of a GPU node; Ray Data fills half of it."""
        return store_for_packs(
            self.gpu_nodes.decode_tasks, self.gpu_nodes.gpus, self._config.run.pack_bytes
        )

    @property
    def shared_memory_gib(self) -> int:
        """``/dev/shm`` of a GPU node: the object store and a tenth, in whole GiB."""
        return -(-self.object_store_bytes * 11 // (10 * GIB))

    @property
    def _config(self) -> Config:
        settings = [f"{key}={value}" for key, value in self._settings(1).items()]
        fields = {"dataset.uri": self.dataset, "output.uri": self.output}
        return load_config(str(ROOT / self.config), settings, fields)


def load_values(path: Path) -> Values:
    """Read a values file; raises ``UserError`` that names every key that is wrong."""
    try:
        return Values.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; name an existing values file") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {error}") from error
    except ValidationError as error:
        wrong = (
            f"{'.'.join(map(str, one['loc'])) or 'values'}: {one['msg']} (it is {one['input']!r})"
            if one["loc"]
            else one["msg"].removeprefix("Value error, ")
            for one in error.errors()
        )
        raise UserError(f"{path}: {'; '.join(wrong)}") from error


def ray_version() -> str:
    """The version that ``constraints.txt`` pins, which is the images'."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    found = re.search(r"^ray==(\S+)$", text, re.MULTILINE)
    if found is None:
        raise UserError("constraints.txt has no line ray==VERSION; add it")
    return found[1]
