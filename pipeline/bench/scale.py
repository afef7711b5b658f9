"""More and more encoders: does the rate grow with them, and where is a driver's limit?

Examples:
  python jobs/benchmark.py scale --config configs/demo.yaml --simulated-encoder 0.5 --nodes 4
  python jobs/benchmark.py scale --config configs/demo.yaml --simulated-encoder 0.5 \\
      --encoders 2 4 --cells 1 2
  python jobs/benchmark.py scale --config configs/demo.yaml --simulated-encoder 0.01 \\
      --encoders 8 --cells 1 2 4 --driver-share 0.1

The configuration's dataset is encoded once for every number of encoders, by stand-ins that wait so
long a window and occupy no processor; with --cells for every number of drivers, too. With --nodes
a cluster of so many pretended nodes is started on this machine, each of which says that it has
--node-cpus processors; else the run starts one as a job does. `linear` is the rate of each encoder
as a share of that in the first row.

A driver's CPU time for each pack tells its limit: packs a second of one driver that is busy for
`DRIVER_SHARE` of a processor, or for what --driver-share gives it. The real processors of this
machine are shared by all: take small frames, so that decoding does not limit, and see that
`processors`, which everything together occupied, stays below their number. Where it does not,
--driver-share shows the limit all the same: each driver is stopped and continued, so that it has no
more than that part of a processor while there are encoders, and all else has the rest.

All is told of the time when all encoders are at work: from the end of the first pack of the last
that starts, to the end of the last pack of the first that has no more. --sources-each makes every
row equally long.
"""

import argparse
import contextlib
import itertools
import json
import os
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from pipeline.bench.drivers import Drivers, Taken, can_hold
from pipeline.bench.measure import conditions, process_of_its_own
from pipeline.bench.pipeline import Told, dataset_arguments, load_dataset_config, told_run
from pipeline.bench.together import MakeNoting, Together, noted, together
from pipeline.bench.watch import Watch
from pipeline.bench.write import removed
from pipeline.cells import DRIVER_SHARE
from pipeline.cli import positive
from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.weights import resolve_vae


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    dataset_arguments(parser)
    parser.add_argument(
        "--sources-each", metavar="N", type=positive, help="the first N sources for each encoder"
    )
    parser.add_argument(
        "--simulated-encoder", metavar="SECONDS_PER_WINDOW", type=float, required=True
    )
    parser.add_argument("--encoders", type=positive, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--cells", type=positive, nargs="+", default=[1])
    parser.add_argument(
        "--driver-share", metavar="S", type=_share, help="of a processor, for each driver (Linux)"
    )
    parser.add_argument("--nodes", type=positive, help="start a cluster of so many pretended nodes")
    parser.add_argument("--node-cpus", type=positive, default=8, help="that each says it has (8)")


def _share(text: str) -> float:
    share = float(text)
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no part of a processor: give 0.01 to 1")
    return share


@dataclass(frozen=True)
class Row:
    """One run; the rates, and what is told of processors, are of the time when all encoders worked.

    Attributes:
        encoders, cells: of the run.
        windows, packs: encoded in the whole run.
        seconds: of that time.
        windows_per_second, packs_per_second: of all encoders.
        encoder_busy: share of the time that they worked.
        driver_busy: processors that each driver took.
        driver_seconds_per_pack: CPU time of drivers.
        processors: that everything together took.
    """

    encoders: int
    cells: int
    windows: int
    packs: int
    seconds: float
    windows_per_second: float
    packs_per_second: float
    encoder_busy: float
    driver_busy: float
    driver_seconds_per_pack: float
    processors: float


def run(args: argparse.Namespace) -> None:
    """Measure and print. Raises ``UserError``."""
    if args.nodes is None and os.environ.get("RAY_ADDRESS"):
        raise UserError("RAY_ADDRESS is set: all is watched on this machine; give --nodes")
    if args.driver_share is not None and not can_hold():
        raise UserError(
            f"--driver-share {args.driver_share:g}: this system has no pidfd_open, with which a "
            "driver is stopped and continued; leave it out, or take Linux 5.3 or newer"
        )
    config = load_dataset_config(args)
    config = config.model_copy(update={"vae": resolve_vae(config.vae, config.storage)})
    rows: list[Row] = []
    print(" ".join(f"{head:>10}" for head in _HEADS), flush=True)
    with _cluster(args.nodes, args.node_cpus), removed(config), Watch() as watch:
        for encoders, cells in itertools.product(args.encoders, args.cells):
            if cells <= encoders:
                changed = config_of(config, encoders, cells, args.sources_each)
                rows.append(_row(changed, args.simulated_encoder, args.driver_share, watch))
                _print(rows[0], rows[-1], args.driver_share or DRIVER_SHARE)
    found = {"driver_share": args.driver_share, "runs": [asdict(row) for row in rows]}
    print(json.dumps({**conditions(), **found}))


def config_of(config: Config, encoders: int, cells: int, sources_each: int | None) -> Config:
    """The configuration of one row."""
    changed = config.run.model_copy(update={"encoders": encoders, "cells": cells})
    uri = f"{config.output.uri}/{encoders}-{cells}"
    output = config.output.model_copy(update={"uri": uri})
    limit = config.dataset.limit if sources_each is None else sources_each * encoders
    dataset = config.dataset.model_copy(update={"limit": limit})
    changes = {"run": changed, "output": output, "dataset": dataset, "canary": "off"}
    return config.model_copy(update=changes)


def _row(config: Config, seconds: float, share: float | None, watch: Watch) -> Row:
    run = config.run
    with (
        tempfile.TemporaryDirectory() as folder,
        process_of_its_own() as call,
        Drivers(call(os.getpid), run.cells or 1, share) as drivers,
    ):
        told = call(told_run, config, MakeNoting(folder, seconds))
        at_work = together(noted(folder), run.encoders)
    return row_of(config, told, at_work, seconds, drivers.taken, watch)


def row_of(
    config: Config, told: Told, at_work: Together, seconds: float, taken: Taken, watch: Watch
) -> Row:
    """What a run told, and what was seen of it; encoders wait so many seconds a window."""
    begin, end = at_work.begin, at_work.end
    packs = told.report["packs"] / told.report["windows"] * at_work.windows
    encoders, cells = config.run.encoders, config.run.cells or 1
    driven = taken.between(begin, end)
    return Row(
        encoders=encoders,
        cells=cells,
        windows=told.report["windows"],
        packs=told.report["packs"],
        seconds=end - begin,
        windows_per_second=at_work.windows_per_second,
        packs_per_second=packs / (end - begin),
        encoder_busy=at_work.windows_per_second * seconds / encoders,
        driver_busy=driven / (end - begin) / cells,
        driver_seconds_per_pack=driven / packs,
        processors=watch.cpu_seconds(begin, end) / (end - begin),
    )


_HEADS = (
    *("encoders", "cells", "windows/s", "linear", "busy", "packs/s"),
    *("driver", "ms a pack", "limit/s", "processors"),
)


def _print(one: Row, row: Row, share: float) -> None:
    each = one.windows_per_second / one.encoders
    numbers = (
        f"{row.encoders}",
        f"{row.cells}",
        f"{row.windows_per_second:.4g}",
        f"{row.windows_per_second / row.encoders / each:.3f}",
        f"{row.encoder_busy:.3f}",
        f"{row.packs_per_second:.3g}",
        f"{row.driver_busy:.3f}",
        f"{1000 * row.driver_seconds_per_pack:.3g}",
        f"{row.cells * share / row.driver_seconds_per_pack:.3g}",
        f"{row.processors:.2f}",
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
        handler = signal.getsignal(signal.SIGTERM)
        cluster = Cluster(initialize_head=True, head_node_args=head)
        before = os.environ.get("RAY_ADDRESS")
        try:
            for _ in range(nodes - 1):
                cluster.add_node(num_cpus=cpus, object_store_memory=300 * 10**6)
            signal.signal(signal.SIGTERM, handler)  # Ray has put its own, which lets the run go on
            os.environ["RAY_ADDRESS"] = cluster.address
            yield
        finally:
            os.environ.pop("RAY_ADDRESS", None)
            if before is not None:
                os.environ["RAY_ADDRESS"] = before
            cluster.shutdown()  # type: ignore[no-untyped-call]
