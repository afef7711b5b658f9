"""Keep a cache: look at its snapshots and latents, tag and restore, delete what is unneeded.

Examples:
  python jobs/maintain_cache.py history s3://bucket/latents
  python jobs/maintain_cache.py tag s3://bucket/latents release-1 --snapshot 12
  python jobs/maintain_cache.py restore s3://bucket/latents 11
  python jobs/maintain_cache.py compact output/demo --apply
  python jobs/maintain_cache.py index output/demo --snapshot 3
  python jobs/maintain_cache.py stats output/demo --out output/demo-stats.json
  python jobs/maintain_cache.py vacuum output/demo --keep-snapshots 5 --keep-days 30 --apply

compact and vacuum tell what they would do, and do it with --apply only. Credentials come from the
environment. Exit codes: 0 done; 1 usage, or it cannot be done.
"""

import argparse
import datetime
import json
import sys
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import NoReturn

from pipeline.cli import Progress, add_store_options, byte_size, positive, storage_of
from pipeline.errors import UserError
from pipeline.explain import explained
from pipeline.leases import RANGES, Leases, tell_of_waiting
from pipeline.logs import logging_to_stderr
from pipeline.maintain import text
from pipeline.maintain.compact import compact, plan_compaction
from pipeline.maintain.history import history
from pipeline.maintain.republish import new_maintenance_id
from pipeline.maintain.restore import restore
from pipeline.maintain.tags import delete_tag, set_tag
from pipeline.maintain.vacuum import Keep, plan_vacuum, vacuum
from pipeline.manifest import Manifest
from pipeline.reader.build import publish_index
from pipeline.shards import ShardError
from pipeline.storage import Store

_MORE = MappingProxyType(
    {
        "history": """

Of each snapshot: its sources by status, its windows, its tags, and how many sources it added,
changed (they have other windows) and removed, compared with the one before it that is still there.

Examples:
  python jobs/maintain_cache.py history output/demo
  python jobs/maintain_cache.py history s3://bucket/latents --json
""",
        "tag": """

Tag the snapshot that a training run pins: vacuum never drops it. A name stands for one snapshot; it
is moved with --force alone.

Examples:
  python jobs/maintain_cache.py tag output/demo release-1
  python jobs/maintain_cache.py tag s3://bucket/latents release-1 --snapshot 12 --force
  python jobs/maintain_cache.py tag s3://bucket/latents release-1 --delete
""",
        "restore": """

Nothing is deleted: snapshot N's state gets a new number, and readers of the newest see it. The next
refresh brings the dataset's state again, so change the dataset first.

Example:
  python jobs/maintain_cache.py restore s3://bucket/latents 11
""",
        "index": """

A run puts it beside the snapshot that it publishes. Without one, each training machine builds its
own.

Example:
  python jobs/maintain_cache.py index s3://bucket/latents --snapshot 12
""",
        "stats": """

Reads every window once, or about --windows of them, in bounded memory. Latent frames that repeated
pixel frames took part in (windows.tail: pad) are left out. Where the cache holds moments, the
figures are those of the posteriors' means and, worked out and not drawn, of samples.

Training takes the file: LatentDataset(…, normalize="stats.json") gives every channel mean 0 and
standard deviation 1, and refuses a cache of another contract.

Examples:
  python jobs/maintain_cache.py stats output/demo
  python jobs/maintain_cache.py stats s3://bucket/latents --snapshot 12 --windows 100000 \\
      --workers 8 --out s3://bucket/latents-12-stats.json

Prints a table, last a JSON object: with --out a summary, else what the file would hold.
""",
        "vacuum": """

All snapshots stay unless --keep-snapshots or --keep-days is given: one that either keeps stays, and
the newest and tagged ones always do. What work at hand may still publish stays too. A reader of a
dropped snapshot finds its shards missing. Waits for runs at work.

Examples:
  python jobs/maintain_cache.py vacuum output/demo --keep-snapshots 5 --list
  python jobs/maintain_cache.py vacuum s3://bucket/latents --keep-snapshots 5 --keep-days 30 --apply
""",
        "compact": """

Many small runs leave many small shards. Those below --min-fill of the target are put together, in
whole segments; no sample changes, and a snapshot is published. The old shards are freed by a later
vacuum. Waits for runs at work.

Examples:
  python jobs/maintain_cache.py compact output/demo
  python jobs/maintain_cache.py compact s3://bucket/latents --target-bytes 512MB --apply
""",
    }
)
"""What the help page of a command says below its first line."""

EXIT_DONE = 0
EXIT_USAGE = 1


class _Parser(argparse.ArgumentParser):
    """argparse exits with 2 on usage errors; the jobs exit with 1."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(EXIT_USAGE, f"error: {message}\n")


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = _Parser(
        prog="maintain_cache.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, about: str) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            help=about,
            description=about + _MORE[name],
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        added.add_argument("uri", metavar="URI", help="root of the cache: a path or s3://…")
        return added

    found = command("history", "the published snapshots, and what each changed")
    found.add_argument("--json", action="store_true", help="a line of JSON for each")

    found = command("tag", "name a snapshot; vacuum keeps it")
    found.add_argument("name", metavar="NAME", help="1 to 64 of A-Z a-z 0-9 . _ -")
    found.add_argument("--snapshot", metavar="N", type=int, help="default: the newest")
    either = found.add_mutually_exclusive_group()
    either.add_argument("--force", action="store_true", help="move a tag that exists")
    either.add_argument("--delete", action="store_true", help="remove the tag")

    found = command("restore", "publish an earlier snapshot's state as the newest")
    found.add_argument("snapshot", metavar="N", type=int)

    found = command("index", "build the training reader's index of a snapshot again")
    found.add_argument("--snapshot", metavar="N", type=int, help="default: the newest")

    found = command("stats", "mean and spread of the latents, channel by channel")
    found.add_argument("--snapshot", metavar="N", type=int, help="default: the newest")
    found.add_argument("--out", metavar="FILE", help="a path or s3://…; default: print alone")
    found.add_argument(
        "--windows", metavar="N", type=positive, help="look at N windows, drawn evenly"
    )
    found.add_argument(
        "--workers", metavar="N", type=positive, default=1, help="processes (default: 1, this one)"
    )

    found = command("vacuum", "delete what no snapshot that stays needs")
    found.add_argument(
        "--keep-snapshots", metavar="K", type=positive, help="the newest K stay (default: all)"
    )
    found.add_argument(
        "--keep-days", metavar="D", type=_amount, help="those younger than D days stay"
    )
    found.add_argument(
        "--grace-hours",
        metavar="H",
        type=_amount,
        default=24.0,
        help="younger files stay: a run may be about to commit them (default: 24)",
    )
    found.add_argument("--list", action="store_true", help="name every file")
    found.add_argument("--apply", action="store_true", help="do it; without, only tell")

    found = command("compact", "merge small shards, and small files of the tables")
    found.add_argument(
        "--target-bytes", metavar="SIZE", type=byte_size, default="256MB", help="default: 256MB"
    )
    found.add_argument(
        "--min-fill",
        metavar="SHARE",
        type=_share,
        default=0.5,
        help="shards below this share of the target are small (default: 0.5)",
    )
    found.add_argument("--apply", action="store_true", help="do it; without, only tell")

    for each in commands.choices.values():
        add_store_options(each)
    return parser


def _amount(text: str) -> float:
    value = float(text)
    if not 0 <= value < 10**6:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 to a million")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0 and up to 1")
    return value


Guard = Callable[[], None]
"""Called before each write; raises when another run took the cache over."""


@logging_to_stderr("text")
def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and carry out one command; returns the exit code."""
    args = make_parser().parse_args(arguments)
    try:
        manifest = Manifest(Store(args.uri, storage_of(args)))
        with explained(manifest.store.uri, "used"):
            if manifest.contract() is None:
                raise UserError(f"{manifest.store.uri}: there is no cache here; check the URI")
            _run(manifest, args)
    except (UserError, ShardError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    return EXIT_DONE


def _run(manifest: Manifest, args: argparse.Namespace) -> None:
    if args.command == "history":
        _history(manifest, args)
    elif args.command == "tag":
        _tag(manifest, args)
    elif args.command == "stats":
        _stats(manifest, args)
    elif args.command == "index":
        snapshot = manifest.snapshot(args.snapshot)
        publish_index(manifest, snapshot)
        print(f"snapshot {snapshot.number} has its index")
    elif args.command != "restore" and not args.apply:
        _tell(manifest, args)
    else:
        with Leases(manifest.store, new_maintenance_id(args.command)) as leases:
            leases.take(RANGES, tell_of_waiting)
            _CHANGING[args.command](manifest, args, leases.check)


def _history(manifest: Manifest, args: argparse.Namespace) -> None:
    entries = history(manifest)
    if args.json:
        for entry in entries:
            print(json.dumps(entry.to_json()))
    else:
        print(text.history_table(entries))


def _tag(manifest: Manifest, args: argparse.Namespace) -> None:
    if args.delete:
        tag = delete_tag(manifest, args.name)
        print(f"tag {tag.name} is removed; snapshot {tag.snapshot} stays until a vacuum drops it")
        return
    tag = set_tag(manifest, args.name, args.snapshot, force=args.force)
    print(f"tag {tag.name} names snapshot {tag.snapshot}")


def _stats(manifest: Manifest, args: argparse.Namespace) -> None:
    from pipeline.reader.measure import measure  # the others do without torch

    storage = manifest.store.storage
    workers = 0 if args.workers == 1 else args.workers
    found = measure(
        manifest.store.uri,
        args.snapshot,
        storage,
        windows=args.windows,
        workers=workers,
        progress=Progress("windows"),
    )
    if args.out is not None:
        found.write(args.out, storage)
    print(text.statistics_text(found, args.out))


def _tell(manifest: Manifest, args: argparse.Namespace) -> None:
    """What compact or vacuum would do."""
    if args.command == "vacuum":
        planned = plan_vacuum(manifest, _keep(args), _grace(args))
        print(text.vacuum_text(planned, every_file=args.list, done=False))
    else:
        plan = plan_compaction(manifest, args.target_bytes, args.min_fill)
        print(text.compaction_text(plan, None))


def _restore(manifest: Manifest, args: argparse.Namespace, guard: Guard) -> None:
    guard()
    snapshot = restore(manifest, args.snapshot)
    publish_index(manifest, snapshot)
    print(
        f"published snapshot {snapshot.number}, equal to snapshot {args.snapshot}. The next "
        "refresh brings the dataset's state again: change the dataset first, or tag this snapshot "
        "and pin it in training"
    )


def _vacuum(manifest: Manifest, args: argparse.Namespace, guard: Guard) -> None:
    done = vacuum(manifest, _keep(args), _grace(args), guard)
    print(text.vacuum_text(done, every_file=args.list, done=True))


def _compact(manifest: Manifest, args: argparse.Namespace, guard: Guard) -> None:
    done = compact(manifest, args.target_bytes, args.min_fill, guard)
    if done.published is not None:
        publish_index(manifest, done.published)
    print(text.compaction_text(done.plan, done))


def _keep(args: argparse.Namespace) -> Keep:
    return Keep(args.keep_snapshots, args.keep_days)


def _grace(args: argparse.Namespace) -> datetime.timedelta:
    return datetime.timedelta(hours=args.grace_hours)


_CHANGING = {"restore": _restore, "vacuum": _vacuum, "compact": _compact}

if __name__ == "__main__":
    sys.exit(main())
