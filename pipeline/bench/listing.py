"""How long listing objects on S3 takes, against raw pages of ListObjectsV2.

Lists a prefix as a run does, in turns with raw pages of ListObjectsV2 through botocore. Fills the
prefix with tiny objects first, if it holds none. The endpoint comes from AWS_ENDPOINT_URL, and
`python -m tests.s3 COMMAND` runs a command beside the tests' own S3 server.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import botocore.session

from pipeline.catalog import read_catalog
from pipeline.config import Config, DatasetConfig, StorageConfig
from pipeline.listing import read_listing
from pipeline.storage import open_filesystem

_TURNS = 3
_AT_ONCE = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.add_argument("uri", help="prefix, e.g. s3://bucket/prefix; filled if it is empty")
    parser.add_argument("--objects", type=int, default=100_000)


def run(args: argparse.Namespace) -> None:
    """Measure and print."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL") or None
    benchmark_listing(args.uri, args.objects, StorageConfig(endpoint_url=endpoint))


def benchmark_listing(uri: str, objects: int, storage: StorageConfig) -> None:
    """Fill the prefix if it is empty; list it in turns; print medians and last JSON.

    Raises ``RuntimeError`` where the prefix holds another number of objects.
    """
    client = botocore.session.get_session().create_client(
        "s3", endpoint_url=storage.endpoint_url, region_name=storage.region
    )
    kinds: dict[str, Callable[[], int]] = {
        "raw": lambda: _raw(client, uri),
        "listing": lambda: _listing(uri, storage),
        "catalog": lambda: _catalog(uri, storage),
    }
    if kinds["raw"]() == 0:
        _fill(uri, objects, storage)
    _listing(uri, storage)  # both clients have connected before anything is timed
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(_TURNS):
        for name, function in kinds.items():
            begun = time.monotonic()
            found = function()
            seconds[name].append(time.monotonic() - begun)
            if found != objects:
                raise RuntimeError(f"{uri} holds {found} objects, not {objects}")
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    ratio = medians["listing"] / medians["raw"]
    print(f"raw ListObjectsV2 pages     {medians['raw']:.2f} s")
    print(f"the listing of a run        {medians['listing']:.2f} s, {ratio:.2f} times that")
    print(f"with identities (catalog)   {medians['catalog']:.2f} s")
    print(json.dumps({"objects": objects, "seconds": seconds, "ratio": ratio}))


def _raw(client: Any, uri: str) -> int:
    bucket, _, key = uri.partition("://")[2].partition("/")
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=key)
    return sum(len(page.get("Contents", ())) for page in pages)


def _listing(uri: str, storage: StorageConfig) -> int:
    count: int = read_listing(DatasetConfig(uri=uri), storage, ()).table.num_rows
    return count


def _catalog(uri: str, storage: StorageConfig) -> int:
    config = Config.model_validate(
        {
            "dataset": {"uri": uri},
            "output": {"uri": "unused"},
            "storage": storage.model_dump(),
            "buckets": [{"height": 256, "width": 256}],
            "vae": {"random_seed": 0},
        }
    )
    count: int = read_catalog(config).sources.num_rows
    return count


def _fill(uri: str, objects: int, storage: StorageConfig) -> None:
    """Tiny objects, in folders of a thousand."""
    filesystem, root = open_filesystem(uri, storage)
    for first in range(0, objects, 1000):
        folder = f"{root}/{first // 1000:06d}"
        names = range(first, min(first + 1000, objects))
        filesystem.pipe({f"{folder}/{n:09d}.mp4": b"x" for n in names}, batch_size=_AT_ONCE)
