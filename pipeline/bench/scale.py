"""More and more encoders: does the rate grow with them, and where is a driver's limit?

Examples:
  python jobs/benchmark.py scale --config configs/demo.yaml --simulated-encoder 0.5 --nodes 4
  python jobs/benchmark.py scale --config configs/demo.yaml --simulated-encoder 0.5 \\
      --encoders 2 4 --cells 1 2

The configuration's dataset is encoded once for every number of encoders, by stand-ins that wait so
long a window and occupy no processor; with --cells for every number of drivers, too. With --nodes
a cluster of so many pretended nodes is started on this machine, each of which says that it has
--node-cpus processors; else the run joins or starts one as a job does. `linear` is the rate of each
encoder as a share of that in the first row.

A driver's CPU time for each pack tells its limit: packs a second of one driver that is busy for
`DRIVER_SHARE` of a processor. The real processors of this machine are shared by all that decodes
and writes: take small frames, so that these do not limit.
"""

import argparse
import contextlib
import itertools
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from pipeline.bench.apart import apart
from pipeline.bench.measure import conditions
from pipeline.bench.pipeline import Whole, dataset_arguments, load_dataset_config, whole_run
from pipeline.bench.write import removed
from pipeline.cells import DRIVER_SHARE
from pipeline.cli import positive
from pipeline.config import Config
from pipeline.simulated import MakeSimulated
from pipeline.weights import resolve_vae


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    dataset_arguments(parser)
    parser.add_argument(
        "--simulated-encoder", metavar="SECONDS_PER_WINDOW", type=float, required=True
    )
    parser.add_argument("--encoders", type=positive, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--cells", type=positive, nargs="+", default=[1])
    parser.add_argument("--nodes", type=positive, help="start a cluster of so many pretended nodes")
    parser.add_argument("--node-cpus", type=positive, default=8, help="that each says it has (8)")


def run(args: argparse.Namespace) -> None:
    """Measure and print. Raises ``UserError``."""
    config = load_dataset_config(args)
    config = config.model_copy(update={"vae": resolve_vae(config.vae, config.storage)})
    make_encoder = MakeSimulated(args.simulated_encoder)
    found: list[dict[str, Any]] = []
    heads = ("encoders", "cells", "windows/s", "linear", "busy", "packs/s", "driver ms", "limit/s")
    print(" ".join(f"{head:>10}" for head in heads), flush=True)
    with _cluster(args.nodes, args.node_cpus), removed(config):
        for encoders, cells in itertools.product(args.encoders, args.cells):
            if cells > encoders:
                continue
            whole = apart(whole_run, _of(config, encoders, cells), make_encoder)
            found.append({"encoders": encoders, "cells": cells, **asdict(whole)})
            _print(found, whole)
    print(json.dumps({**conditions(), "runs": found}))


def _of(config: Config, encoders: int, cells: int) -> Config:
    changed = config.run.model_copy(update={"encoders": encoders, "cells": cells})
    uri = f"{config.output.uri}/{encoders}-{cells}"
    output = config.output.model_copy(update={"uri": uri})
    return config.model_copy(update={"run": changed, "output": output})


def _print(found: Sequence[dict[str, Any]], whole: Whole) -> None:
    one, last = found[0], found[-1]
    each = one["windows_per_second"] / one["encoders"]
    packs = whole.packs / whole.windows * whole.windows_per_second
    numbers = (
        f"{last['encoders']}",
        f"{last['cells']}",
        f"{whole.windows_per_second:.4g}",
        f"{whole.windows_per_second / last['encoders'] / each:.3f}",
        f"{whole.encoder_busy:.3f}",
        f"{packs:.3g}",
        f"{1000 * whole.driver_seconds_per_pack:.3g}",
        f"{last['cells'] * DRIVER_SHARE / whole.driver_seconds_per_pack:.3g}",
    )
    print(" ".join(f"{number:>10}" for number in numbers), flush=True)


@contextlib.contextmanager
def _cluster(nodes: int | None, cpus: int) -> Iterator[None]:
    """A cluster of pretended nodes on this machine, which runs within join."""
    if nodes is None:
        yield
        return
    from ray.cluster_utils import Cluster

    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as folder:
        head = {
            "num_cpus": cpus,
            "object_store_memory": 300 * 10**6,
            "include_dashboard": False,
            "temp_dir": folder,
        }
        cluster = Cluster(initialize_head=True, head_node_args=head)
        before = os.environ.get("RAY_ADDRESS")
        try:
            for _ in range(nodes - 1):
                cluster.add_node(num_cpus=cpus, object_store_memory=300 * 10**6)
            os.environ["RAY_ADDRESS"] = cluster.address
            yield
        finally:
            os.environ.pop("RAY_ADDRESS", None)
            if before is not None:
                os.environ["RAY_ADDRESS"] = before
            cluster.shutdown()  # type: ignore[no-untyped-call]
