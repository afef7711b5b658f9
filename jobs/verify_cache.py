"""Verify a cache: read its shards back, and compare them with its tables.

Examples:
  python jobs/verify_cache.py output/demo
  python jobs/verify_cache.py s3://bucket/latents --sample 200 --seed 7 --out damage.json
  python jobs/verify_cache.py output/demo --repair
  python jobs/verify_cache.py s3://bucket/latents --canary 8 --checkpoint vae_v2.safetensors

With --canary N windows are read from their sources once more and encoded afresh; what is stored
must be the same, and decode to the frames. Sources that are gone or changed are told, no damage.

Without --repair nothing is changed. With it, damaged segments are marked lost, and the next run of
encode_dataset.py encodes exactly those again. Credentials come from the environment.

Exit codes: 0 sound, or all damage was marked; 1 usage, or it cannot be done (also: no window that
the canary drew can be compared); 3 damaged.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pipeline.cli import Parser, decibels, positive, storage_of
from pipeline.errors import UserError
from pipeline.explain import explained
from pipeline.leases import RANGES, Leases, tell_of_waiting
from pipeline.logs import logging_to_stderr
from pipeline.maintain.republish import new_maintenance_id
from pipeline.manifest import Manifest
from pipeline.page.access import add_access, decoder_of
from pipeline.storage import Store
from pipeline.verify.fidelity import AskedCanary, StoredCanary
from pipeline.verify.repair import Repaired, repair
from pipeline.verify.run import Asked, verify
from pipeline.verify.text import repair_text, totals, verification_text

EXIT_SOUND = 0
EXIT_USAGE = 1
EXIT_DAMAGED = 3

_TELL_SECONDS = 30.0


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(
        prog="verify_cache.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("uri", metavar="URI", help="root of the cache: a path or s3://…")
    parser.add_argument(
        "--sample", metavar="N", type=positive, help="read N segments only (default: all)"
    )
    parser.add_argument(
        "--seed", metavar="S", type=int, default=0, help="draws sample and canary (default: 0)"
    )
    parser.add_argument(
        "--snapshot",
        metavar="N",
        type=int,
        help="this snapshot alone (default: the newest, and what was committed since)",
    )
    parser.add_argument("--repair", action="store_true", help="mark damaged segments lost")
    parser.add_argument("--out", metavar="FILE", help="write the list of what is wrong as JSON")
    canary = parser.add_argument_group("the fidelity canary")
    canary.add_argument(
        "--canary",
        metavar="N",
        type=positive,
        help="compare N windows of the snapshot with their sources (default: none)",
    )
    canary.add_argument(
        "--canary-psnr",
        metavar="DB",
        type=decibels,
        help="decibels that they must decode with on average (default: the run's canary_psnr)",
    )
    add_access(parser)
    return parser


@logging_to_stderr("text")
def main(arguments: Sequence[str] | None = None) -> int:
    """Verify, and repair if asked to; returns the exit code."""
    parser = make_parser()
    args = parser.parse_args(arguments)
    if args.repair and args.snapshot is not None:
        parser.error("--repair works on the newest state: leave --snapshot out")
    if args.canary is None and (args.checkpoint is not None or args.canary_psnr is not None):
        parser.error("--checkpoint and --canary-psnr are of the canary: add --canary N")
    try:
        manifest = Manifest(Store(args.uri, storage_of(args)))
        with explained(manifest.store.uri, "used"):
            if manifest.contract() is None:
                raise UserError(f"{manifest.store.uri}: there is no cache here; check the URI")
            return _run(manifest, args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE


def _run(manifest: Manifest, args: argparse.Namespace) -> int:
    if args.out:
        _write(Path(args.out))  # where it cannot be written is told before all is read
    canary = None
    if args.canary is not None:  # so are other weights than those that encoded the cache
        asked = AskedCanary(args.canary, args.seed, args.canary_psnr, decoder_of(args))
        canary = StoredCanary(manifest, manifest.snapshot(args.snapshot), asked)
    found = verify(manifest, Asked(args.snapshot, args.sample, args.seed), _Progress())
    if canary is not None:
        found.add(canary.look(found.findings))
    print(verification_text(found))
    if args.out:
        _write(Path(args.out), json.dumps(found.to_json(), indent=1) + "\n")
    done: Repaired | None = None
    if args.repair and not found.sound:
        run_id = new_maintenance_id("repair")
        with Leases(manifest.store, run_id) as leases:
            leases.take(RANGES, tell_of_waiting)
            done = repair(manifest, found.findings, run_id, leases.check)
        print(repair_text(done))
    print(totals(found, done))
    left = not found.sound if done is None else bool(done.left)
    if left:
        return EXIT_DAMAGED
    if found.sound and found.fidelity is not None and not found.fidelity.told:
        raise UserError(
            "no window that the canary drew can be compared; draw more (--canary), or others "
            "(--seed)"
        )
    return EXIT_SOUND


class _Progress:
    """Tells now and then how many shards were read."""

    def __init__(self) -> None:
        self._told = time.monotonic()

    def __call__(self, done: int) -> None:
        if time.monotonic() - self._told >= _TELL_SECONDS:
            print(f"{done} shards were read", file=sys.stderr)
            self._told = time.monotonic()


def _write(path: Path, text: str | None = None) -> None:
    """Write a file; without text only open it: an earlier list stays until there is another."""
    try:
        with path.open("a" if text is None else "w") as file:
            file.write(text or "")
    except OSError as error:
        raise UserError(
            f"--out {path}: {error.strerror}; name a file that can be written"
        ) from error


if __name__ == "__main__":
    sys.exit(main())
