"""The one typed configuration tree of a run: a YAML file and dotted overrides; no secrets."""

import copy
import difflib
import os
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    PositiveInt,
    ValidationError,
    model_validator,
)

from pipeline.buckets import Bucket, ResizeFilter, ResizePolicy
from pipeline.config_canary import Canary, Decibels
from pipeline.config_decode import DecodeConfig
from pipeline.config_types import ByteSize, Device, Place, Section, Uri, parse_bytes
from pipeline.errors import UserError
from pipeline.windows import TailPolicy


def _parse_fps(value: object) -> object:
    """Frame rates as text (``30000/1001``), so that they stay exact; ``25`` works too."""
    if value is None or isinstance(value, bool):
        return value
    try:
        fps = Fraction(str(value)).limit_denominator(1_000_000)
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError(f"{value!r} is not a frame rate: write e.g. 24 or 30000/1001") from error
    if not 0 < fps <= 1000:
        raise ValueError(f"{value!r} frames per second is outside (0, 1000]")
    return str(fps)


def _parse_auto(value: object) -> object:
    if isinstance(value, str) and value != "auto":
        raise ValueError("write a number, or auto")
    return None if value == "auto" else value


class ColumnNames(Section):
    """Names of the dataset's columns; null finds the usual spellings."""

    video: str | None = None
    caption: str | None = None
    id: str | None = None
    start: str | None = None
    end: str | None = None
    version: str | None = None
    width: str | None = None
    height: str | None = None
    fps: str | None = None
    frames: str | None = None
    duration: str | None = None


class DatasetConfig(Section):
    """What is encoded: a directory, prefix or pattern, tar files, or a list; any fsspec URI."""

    uri: Place
    format: Literal["auto", "directory", "tar", "csv", "jsonl", "parquet"] = "auto"
    inventory: Uri | None = None
    columns: ColumnNames = ColumnNames()
    limit: int | None = Field(default=None, gt=0)


class OutputConfig(Section):
    """Where the cache lies and how its shards are stored."""

    uri: Place
    format: Literal["safetensors", "parquet"] = "safetensors"
    shard_bytes: ByteSize = 256 * 10**6


def _environment(*names: str) -> str | None:
    """The first of these variables that is set."""
    return next((value for name in names if (value := os.environ.get(name))), None)


def _check_endpoint(value: str) -> str:
    if not value.startswith(("http://", "https://")):
        raise ValueError(f"{value!r} is no address: write it as https://host, or http://host:port")
    return value


class StorageConfig(Section):
    """Settings of S3-compatible stores. Credentials come from the environment alone.

    Endpoint and region come from it too where they are not set; nodes take over what they are here.
    """

    endpoint_url: Annotated[Uri, AfterValidator(_check_endpoint)] | None = None
    region: str | None = None
    anonymous: bool = False
    retry_seconds: float = Field(default=60, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _from_environment(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        told = {
            "endpoint_url": _environment("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
            "region": _environment("AWS_REGION", "AWS_DEFAULT_REGION"),
        }
        return given | {name: value for name, value in told.items() if given.get(name) is None}


class WindowsConfig(Section):
    """How a source is resampled in time and cut into windows of 17 frames."""

    fps: Annotated[str | None, BeforeValidator(_parse_fps)] = None
    stride: int = Field(default=17, ge=1)
    tail: TailPolicy = "drop"
    min_frames: int = Field(default=1, ge=1)
    segment_windows: int = Field(default=12, ge=1, le=1024)

    @property
    def rate(self) -> Fraction | None:
        """Output frames per second, exact; None keeps the source's own frames."""
        return None if self.fps is None else Fraction(self.fps)


class BucketConfig(Section):
    """One bucket, in pixels; both sides multiples of 16."""

    height: int
    width: int

    @model_validator(mode="after")
    def _check(self) -> Self:
        Bucket(self.height, self.width)
        return self


class ResizeConfig(Section):
    """How a frame is brought to its bucket's size."""

    policy: ResizePolicy = "cover"
    filter: ResizeFilter = "bicubic"


class WidthsConfig(Section):
    """Widths of the VAE, the fields of ``vae.VAEConfig``; null: the checkpoint's, or published.

    The groups of the norms are not told by a checkpoint: null is always the published model's.
    """

    num_res_blocks: int | None = None
    encoder_ch: int | None = None
    encoder_ch_mult: tuple[int, ...] | None = None
    decoder_ch: int | None = None
    decoder_ch_mult: tuple[int, ...] | None = None
    norm_groups: int | None = None


class VAESection(Section):
    """The encoder. Either ``checkpoint`` (the published file) or ``random_seed`` (demo, tests).

    ``version`` and ``z_channels`` are None for ``auto``: told by the checkpoint; without one, 2 and
    the published number of the version.
    """

    checkpoint: Place | None = None
    random_seed: int | None = None
    version: Annotated[Literal[1, 2] | None, BeforeValidator(_parse_auto)] = None
    z_channels: Annotated[PositiveInt | None, BeforeValidator(_parse_auto)] = None
    widths: WidthsConfig = WidthsConfig()
    compute_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: Device = "auto"

    @model_validator(mode="after")
    def _one_source_of_weights(self) -> Self:
        if (self.checkpoint is None) == (self.random_seed is None):
            raise ValueError(
                "set exactly one of vae.checkpoint (path or URI of vae_v2.safetensors) and "
                "vae.random_seed (random weights, for demos and tests only)"
            )
        return self


class LatentsConfig(Section):
    """What is stored of the posterior."""

    statistic: Literal["moments", "mean", "sample"] = "moments"
    dtype: Literal["float16", "float32"] = "float16"
    seed: int = 0


class RunConfig(Section):
    """How the work is spread. Nothing here changes a number in the cache."""

    runner: Literal["ray", "local"] = "ray"
    encoders: int = Field(default=1, ge=1)
    gpus_per_encoder: float = Field(default=0, ge=0)
    cpus_per_encoder: float = Field(default=0.5, ge=0)
    encoder_threads: int | None = Field(default=None, ge=1)
    micro_batch: Annotated[PositiveInt | None, BeforeValidator(_parse_auto)] = None
    compile: bool = False
    decode: Literal["auto", "stage", "in_actor"] = "auto"
    cells: Annotated[PositiveInt | None, BeforeValidator(_parse_auto)] = None
    decode_tasks: int = Field(default=2, ge=1)
    probe_tasks: int = Field(default=8, ge=1)
    pack_bytes: ByteSize = 256 * 2**20
    pack_seconds: float = Field(default=4, gt=0)
    task_windows: int = Field(default=96, ge=1)
    commit_seconds: float = Field(default=30, ge=0)
    shard_seconds: float = Field(default=300, gt=0)
    publish_seconds: float | None = Field(default=None, gt=0)
    object_store_bytes: Annotated[ByteSize | None, BeforeValidator(parse_bytes)] = None
    num_cpus: int | None = Field(default=None, ge=1)
    num_gpus: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _cells_have_encoders(self) -> Self:
        if self.cells is not None and self.cells > self.encoders:
            raise ValueError(
                f"cells is {self.cells}, and encoders {self.encoders}: a cell needs an encoder; "
                "lower cells, or write auto"
            )
        return self

    @property
    def device_share(self) -> float:
        """The part of a GPU that is one encoder's: below 1 where several share it."""
        return min(1.0, self.gpus_per_encoder) or 1.0


class ForecastConfig(Section):
    """Assumptions of ``--plan``: the rate of an encoder, and prices in whatever currency."""

    tflops_per_encoder: float | None = Field(default=None, gt=0)
    encoder_hour_price: float | None = Field(default=None, ge=0)
    gb_month_price: float | None = Field(default=None, ge=0)


class ReportConfig(Section):
    """What a run writes to look at."""

    contact_sheet_windows: int = Field(default=0, ge=0, le=64)
    page: bool = True
    history: int = Field(default=12, ge=1)


class Config(Section):
    """A run's configuration; ``load_config`` makes it, the README explains it."""

    dataset: DatasetConfig
    output: OutputConfig
    storage: StorageConfig = Field(default_factory=lambda: StorageConfig())
    windows: WindowsConfig = WindowsConfig()
    buckets: tuple[BucketConfig, ...] = Field(min_length=1)
    bucket_choice: Literal["nearest", "all"] = "nearest"
    resize: ResizeConfig = ResizeConfig()
    vae: VAESection
    latents: LatentsConfig = LatentsConfig()
    decode: DecodeConfig = DecodeConfig()
    run: RunConfig = RunConfig()
    forecast: ForecastConfig = ForecastConfig()
    report: ReportConfig = ReportConfig()
    canary: Canary = "auto"
    canary_psnr: Decibels = 20
    max_failure_rate: float = Field(default=0.05, ge=0, le=1)
    stop_early_sources: int | None = Field(default=200, ge=1)
    max_attempts: int = Field(default=3, ge=1)

    @model_validator(mode="after")
    def _cuda_needs_gpus(self) -> Self:
        if self.vae.device == "cuda" and self.run.runner == "ray" and not self.run.gpus_per_encoder:
            raise ValueError(
                "vae.device is cuda, but run.gpus_per_encoder is 0, so that Ray hides the GPUs "
                "from the encoders; set run.gpus_per_encoder: 1"
            )
        return self

    @model_validator(mode="after")
    def _distinct_buckets(self) -> Self:
        if len(set(self.bucket_list)) != len(self.buckets):
            raise ValueError("buckets lists the same bucket twice; name each once")
        return self

    @property
    def bucket_list(self) -> tuple[Bucket, ...]:
        """The buckets as value objects, in configured order."""
        return tuple(Bucket(b.height, b.width) for b in self.buckets)


def load_config(
    path: str | None,
    overrides: Sequence[str] = (),
    fields: Mapping[str, Any] | None = None,
) -> Config:
    """Read a YAML file and apply ``a.b=value`` overrides, then ``fields`` (dotted name to value).

    Values of overrides are YAML, so ``windows.fps=24`` is a number and ``a=null`` is null. Raises
    ``UserError`` with every problem found, each naming the key, the value and the remedy.
    """
    tree = {} if path is None else _read_yaml(path)
    for override in overrides:
        name, separator, text = override.partition("=")
        if not separator or not name.strip():
            raise UserError(f"--set {override!r}: write it as key.subkey=value")
        try:
            _assign(tree, name.strip(), yaml.safe_load(text))
        except yaml.YAMLError as error:
            raise UserError(f"--set {override!r}: the value is not YAML: {error}") from error
    for name, value in (fields or {}).items():
        _assign(tree, name, copy.deepcopy(value))
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise UserError(_explain(error, path)) from error


def _read_yaml(path: str) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--config {path}: {error.strerror}; name an existing YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"--config {path} is not YAML: {error}") from error
    if not isinstance(tree, dict):
        raise UserError(f"--config {path} holds {type(tree).__name__}, not a mapping of sections")
    return tree


def _assign(tree: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    node = tree
    for name in parents:
        child = node.setdefault(name, {})
        if not isinstance(child, dict):
            raise UserError(f"--set {dotted}: {name!r} is {child!r}, not a section")
        node = child
    node[last] = value


def _explain(error: ValidationError, path: str | None) -> str:
    lines = [f"the configuration {path or 'given'} has {error.error_count()} mistake(s):"]
    for item in error.errors():
        name = ".".join(str(part) for part in item["loc"]) or "top level"
        if item["type"] == "extra_forbidden":
            message = f"unknown key{_suggest(item['loc'])}"
        elif item["type"] == "missing":
            message = "is required and not set"
        else:
            message = item["msg"].removeprefix("Value error, ")
            if not isinstance(item["input"], BaseModel | dict) and "password" not in message:
                message += f" (got {_shorten(item['input'])})"
        lines.append(f"  {name}: {message}")
    return "\n".join(lines)


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _suggest(loc: tuple[int | str, ...]) -> str:
    model: type[BaseModel] = Config
    for part in loc[:-1]:
        if isinstance(part, int):
            model = BucketConfig
            continue
        annotation = model.model_fields[part].annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            model = annotation
    close = difflib.get_close_matches(str(loc[-1]), model.model_fields, n=1, cutoff=0.5)
    known = ", ".join(model.model_fields)
    return f"; did you mean {close[0]!r}?" if close else f"; known here: {known}"
