"""Make a page that shows what a cache holds: counts, runs, failures, data, latents, history.

Examples:
  python jobs/report_cache.py output/demo --out output/report
  python jobs/report_cache.py s3://bucket/latents --out report --snapshot 12 --windows 8 \\
      --checkpoint s3://bucket/vae_v2.safetensors

Writes DIR/report.html: one file that asks no network and runs no script. Numbers come from the
tables of the cache alone, statistics of latents from some of its shards; --windows decodes some
windows from their latents, and their sources once more. The last line of stdout is a JSON object.
Credentials come from the environment. Exit codes: 0 done; 1 usage, or it cannot be done; 130
stopped by Ctrl-C.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.cli import Parser, not_negative, positive, storage_of
from pipeline.config import StorageConfig
from pipeline.errors import UserError
from pipeline.explain import explained
from pipeline.job import EXIT_DONE, EXIT_INTERRUPTED, EXIT_USAGE
from pipeline.manifest import Manifest
from pipeline.page.access import add_access, decoder_of, local_folder, unwritable
from pipeline.page.make import PAGE, Asked, Made, make_page
from pipeline.storage import Store


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, make the page, write it; returns the exit code."""
    args = _parser().parse_args(arguments)
    try:
        folder = local_folder(args.out)
        storage = storage_of(args)
        manifest = Manifest(Store(args.uri, storage))
        with explained(manifest.store.uri, "read"):
            made = make_page(manifest, manifest.snapshot(args.snapshot), _asked(args, storage))
        path = _write(folder, made)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    for name, why in made.findings.left_out:
        print(f"left out {name}: {why}", file=sys.stderr)
    print(f"wrote {path}")
    print(json.dumps(_summary(made, path)))
    return EXIT_DONE


def _asked(args: argparse.Namespace, storage: StorageConfig) -> Asked:
    decoder = decoder_of(args)
    if args.history is not None:  # then all of them, whatever it takes
        return Asked(args.windows, decoder, storage, args.history, None)
    return Asked(args.windows, decoder, storage)


def _write(folder: Path, made: Made) -> Path:
    path = folder / PAGE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(made.html, encoding="utf-8")
    except OSError as error:
        raise unwritable(folder, error.strerror or str(error)) from error
    return path


def _summary(made: Made, path: Path) -> dict[str, object]:
    found = made.findings
    counts = {name: found.held.statuses[name] for name in ("ok", "skipped", "failed")}
    return {
        "page": str(path),
        "bytes": path.stat().st_size,
        "snapshot": found.snapshot.number,
        "sources": {"total": found.held.total, **counts},
        "windows": found.held.windows,
        "shown": len(found.looked),
    }


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="report_cache.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("uri", metavar="URI", help="root of the cache: a path or s3://…")
    parser.add_argument("--out", metavar="DIR", required=True, help="local folder for the page")
    parser.add_argument("--snapshot", metavar="N", type=positive, help="default: the newest")
    parser.add_argument(
        "--history",
        metavar="N",
        type=positive,
        help="tell of the newest N snapshots (default: 30, fewer where the cache is large)",
    )
    parser.add_argument(
        "--windows",
        metavar="N",
        type=not_negative,
        default=0,
        help="show N windows: source, reconstruction, difference (default: none)",
    )
    add_access(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
