"""How fast one process writes shards, against plain writing of as many bytes.

Examples:
  python jobs/benchmark.py write /mnt/latents
  python jobs/benchmark.py write s3://bucket/prefix --height 256 --width 256 --shard-bytes 64MB
  python jobs/benchmark.py write --config configs/t2v_540p.yaml --output s3://bucket/prefix

Latents of random numbers, as many as make one shard, go through the code of the write stage: rows
told apart, checksums, the file's bytes, and one put. In turns:

  safetensors, parquet   the write stage with `output.format`
  plain                  the bytes of the safetensors shard: a file written and flushed to disk, or
                         one PutObject

Every way has a process of its own, and `memory` is its peak beyond its code and the latents.
`of plain` is the median over the turns of bytes a second, as a share of plain's in the same turn.
What is written lies in a folder of its own and is removed. The endpoint of S3 comes from the
configuration, or from AWS_ENDPOINT_URL.
"""

import argparse
import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, get_args

import botocore.session
import numpy as np

from pipeline.bench.measure import (
    Cost,
    Rates,
    as_json,
    conditions,
    in_turns,
    measured,
    process_of_its_own,
    wall_share,
)
from pipeline.buckets import Bucket
from pipeline.config import Config, OutputConfig, load_config
from pipeline.contract import FORMAT_VERSION, Contract
from pipeline.errors import UserError
from pipeline.packs import Batch, PackMeta, SegmentInfo, to_batch
from pipeline.recipe import Recipe, latent_values, segment_cap
from pipeline.report import human_bytes
from pipeline.stages.write import RESULT, Written, make_write_fn
from pipeline.storage import Store, open_filesystem
from pipeline.weights import LAYOUT
from pipeline.windows import WINDOW_FRAMES
from vae import COMPRESSIONS, VAEConfig, latent_frames

PLAIN = "plain"
FORMATS: tuple[str, ...] = get_args(OutputConfig.model_fields["format"].annotation)

_MEGABYTE = 10**6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    output_arguments(parser, "output, storage, latents, bucket")
    parser.add_argument("--height", type=int, help="of the bucket, in pixels (544)")
    parser.add_argument("--width", type=int, help="of the bucket, in pixels (992)")
    parser.add_argument("--shard-bytes", metavar="SIZE", help="overrides output.shard_bytes")
    parser.add_argument("--turns", type=int, default=5, help="turns of each way (5)")


def output_arguments(parser: argparse.ArgumentParser, used: str) -> None:
    """Arguments of commands that write below a URI or a configuration's output, of which ``used``
    counts.
    """
    parser.add_argument("uri", metavar="URI", nargs="?", help="a folder, or s3://bucket/prefix")
    given = parser.add_argument_group(f"from a configuration: {used}")
    given.add_argument("--config", metavar="YAML", help="configuration file")
    given.add_argument("--output", metavar="URI", help="overrides output.uri")
    given.add_argument("--set", metavar="KEY=VALUE", action="append", default=[])


def run(args: argparse.Namespace) -> None:
    """Measure and print. Raises ``UserError``."""
    fields = {} if args.shard_bytes is None else {"output.shard_bytes": args.shard_bytes}
    config = load_output_config(args, fields)
    benchmark_write(config, asked_bucket(args, config.bucket_list[0]), args.turns)


def asked_bucket(args: argparse.Namespace, other: Bucket) -> Bucket:
    """With the height and the width of the arguments, where given, else those of ``other``.

    Raises ``UserError``.
    """
    try:
        return Bucket(args.height or other.height, args.width or other.width)
    except ValueError as error:
        raise UserError(str(error)) from error


def fields_at(uri: str) -> dict[str, Any]:
    """Fields of a configuration that only writes, to ``uri``."""
    return {
        "dataset.uri": "unused",
        "output.uri": uri,
        "storage.endpoint_url": os.environ.get("AWS_ENDPOINT_URL") or None,
        "buckets": [{"height": 544, "width": 992}],
        "vae.random_seed": 0,
    }


def load_output_config(args: argparse.Namespace, fields: Mapping[str, Any]) -> Config:
    """The configuration that these arguments name, with ``fields``; it writes into a folder of its
    own. Raises ``UserError``.
    """
    if (args.config is None) == (args.uri is None):
        raise UserError("give either a URI to write to, or --config")
    given = {} if args.uri is None else fields_at(args.uri)
    if args.output is not None:
        given["output.uri"] = args.output
    config = load_config(args.config, args.set, given | dict(fields))
    folder = f"{config.output.uri.rstrip('/')}/benchmark-{secrets.token_hex(6)}"
    return config.model_copy(update={"output": config.output.model_copy(update={"uri": folder})})


def benchmark_write(config: Config, bucket: Bucket, turns: int) -> None:
    """Measure every way; print a table, and last JSON."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(removed(config))
        ways: dict[str, Callable[[], Cost]] = {}
        for name in (*FORMATS, PLAIN):
            call = stack.enter_context(process_of_its_own())
            function = write_plainly if name == PLAIN else partial(write_shard, name)
            call(prepare, config, bucket)
            ways[name] = partial(call, measured, function, config, bucket)
        costs = in_turns(turns, ways)
    shares = {name: wall_share(costs[name], costs[PLAIN]) for name in FORMATS}
    _print(config, bucket, costs, shares)
    found: dict[str, Any] = {
        "uri": config.output.uri,
        "bucket": bucket.name,
        "statistic": config.latents.statistic,
        "dtype": config.latents.dtype,
        "ways": as_json(costs),
        "share_of_plain": shares,
    }
    print(json.dumps({**conditions(), "turns": turns, **found}))


def prepare(config: Config, bucket: Bucket) -> None:
    """Make what is written, and load what writes it, before anything is measured."""
    latents(config, bucket)
    Store(config.output.uri, config.storage).exists("nothing")


def write_shard(format_name: str, config: Config, bucket: Bucket) -> int:
    """One call of the write stage; bytes of its shard."""
    output = config.output.model_copy(update={"format": format_name})
    changed = config.model_copy(update={"output": output})
    recipe = Recipe.from_config(changed, contract_of(config))
    batch = make_write_fn(changed, recipe)(latents(config, bucket))
    return sum(Written.from_json(str(batch[RESULT][0])).shards.values())


def write_plainly(config: Config, bucket: Bucket) -> int:
    """As many bytes as a safetensors shard has, but for its header, without any ado."""
    batch = latents(config, bucket)
    data = [batch[name] for name in contract_of(config).tensors]
    uri = f"{config.output.uri}/plain"
    if Store(config.output.uri, config.storage).local:
        path = Path(uri)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for tensor in data:
                file.write(tensor.data)
            file.flush()
            os.fsync(file.fileno())
    else:
        name, _, key = uri.partition("://")[2].partition("/")
        _client(config.storage.endpoint_url, config.storage.region).put_object(
            Bucket=name, Key=key, Body=b"".join(tensor.data for tensor in data)
        )
    return sum(tensor.nbytes for tensor in data)


@cache
def _client(endpoint: str | None, region: str | None) -> Any:
    return botocore.session.get_session().create_client(
        "s3", endpoint_url=endpoint, region_name=region
    )


def contract_of(config: Config) -> Contract:
    """A contract with the shapes that the configuration asks for, of no weights."""
    version = config.vae.version or 2
    return Contract(
        format_version=FORMAT_VERSION,
        vae_version=version,
        z_channels=config.vae.z_channels or VAEConfig(version=version).z_channels,
        encoder_sha256="0" * 64,
        value_range=(-1.0, 1.0),
        layout=LAYOUT,
        statistic=config.latents.statistic,
        dtype=config.latents.dtype,
        scale=1.0,
        shift=0.0,
        window_frames=WINDOW_FRAMES,
        latent_frames=latent_frames(WINDOW_FRAMES, compression=COMPRESSIONS[version]),
    )


@cache
def latents(config: Config, bucket: Bucket) -> Batch:
    """One batch of packs of a segment each that make a shard, of random numbers."""
    contract = contract_of(config)
    windows = segment_cap(bucket, config.windows.segment_windows, config.run.pack_bytes)
    factor = contract.spatial_factor
    shape = (
        *(windows, contract.latent_frames, contract.z_channels),
        *(bucket.height // factor, bucket.width // factor),
    )
    dtype: np.dtype[Any] = np.dtype(contract.dtype)
    stored = latent_values(contract, bucket) * windows * dtype.itemsize * len(contract.tensors)
    rng = np.random.default_rng(0)
    packs = []
    for index in range(max(1, round(config.output.shard_bytes / stored))):
        tensors = {
            name: rng.standard_normal(shape, np.float32).astype(dtype) for name in contract.tensors
        }
        meta = PackMeta(f"{index}", (_segment(index, windows, bucket),), ())
        packs.append(to_batch(meta, tensors))
    return {name: np.concatenate([pack[name] for pack in packs]) for name in packs[0]}


def _segment(index: int, windows: int, bucket: Bucket) -> SegmentInfo:
    first = index * windows
    return SegmentInfo(
        source_id=f"{index // 8:032x}",
        generation=f"{index // 8:032x}",
        bucket=bucket.name,
        first_window=first,
        windows=windows,
        frames=WINDOW_FRAMES,
        pts=[list(range(WINDOW_FRAMES)) for _ in range(windows)],
        time_base=(1, 24),
        valid_frames=[WINDOW_FRAMES] * windows,
        first_frames=[(first + row) * WINDOW_FRAMES for row in range(windows)],
        sample_ids=[f"{first + row:032x}" for row in range(windows)],
        geometry={"height": bucket.height, "width": bucket.width},
        fps=24.0,
        last=False,
        frames_actual=None,
    )


@contextlib.contextmanager
def removed(config: Config) -> Iterator[None]:
    """Remove the benchmark's folder at the end. Raises ``UserError`` where none can be."""
    local = Store(config.output.uri, config.storage).local
    filesystem, root = open_filesystem(config.output.uri, config.storage)
    try:
        yield
    finally:
        if local:
            shutil.rmtree(root, ignore_errors=True)
        else:
            with contextlib.suppress(FileNotFoundError):
                filesystem.rm(root, recursive=True)


def _print(
    config: Config,
    bucket: Bucket,
    costs: Mapping[str, Sequence[Cost]],
    shares: Mapping[str, float],
) -> None:
    print(
        f"shards of {bucket.width}x{bucket.height}, {config.latents.statistic}, "
        f"{config.latents.dtype}, to {config.output.uri}"
    )
    heads = ("shard", "MB / s", "CPU ms / MB", "memory", "of plain")
    print(" " * 12 + " ".join(f"{head:>11}" for head in heads))
    for name, turns in costs.items():
        rates = Rates.of(turns)
        cells = [human_bytes(rates.units), f"{rates.per_second / _MEGABYTE:.0f}"]
        cells += [f"{1000 * _MEGABYTE / rates.per_cpu_second:.2f}"]
        cells += ["" if rates.peak_bytes is None else human_bytes(rates.peak_bytes)]
        cells += [f"{shares[name]:.2f}" if name in shares else ""]
        print(f"{name:12}" + " ".join(f"{cell:>11}" for cell in cells))
