"""Export a snapshot of a cache, or a part of it, for other loaders.

Examples:
  python jobs/export_cache.py output/demo --format webdataset --out output/demo-tars
  python jobs/export_cache.py s3://bucket/latents --format mds --out s3://bucket/mds --workers 8 \\
      --snapshot 12 --where "fps >= 24 and contains(caption, 'dog')" --clip-frames 34
  python jobs/export_cache.py s3://bucket/latents --format fastvideo --out /data/fv --plan

--format     a shard                  a sample
  webdataset DIR/BUCKET/000000.tar    KEY.latents.npy (moments: KEY.mean.npy, KEY.logvar.npy),
                                      KEY.txt (the caption), KEY.json
  mds        DIR/BUCKET/shard.00000.mds, and an index.json in each folder: a Stream of a
                                      StreamingDataset; latents (mean, logvar) as ndarray, and more
  fastvideo  DIR/BUCKET/000000.parquet  FastVideo's columns for text-to-video, latents as float32
                                      (C, T, H, W); text_embedding_* are empty

A folder holds one bucket and length (h544w992x17), so that its samples can be batched. Latents are
(t, C, h, w) in the cache's dtype, bit for bit; they are not normalised. DIR/_export.json tells the
contract, the snapshot, the condition and every shard. It is written first with "complete": false
and last with true: an export without that is not whole. DIR is a path or any fsspec URI, and must
be empty. The last line of stdout is a JSON object. Exit codes: 0 done; 1 usage, or it cannot be
done; 130 stopped by Ctrl-C.

--where takes columns of LatentCache.sources() (caption, uri, your own, …) and of segments (bucket,
bucket_height, bucket_width, frames, fps, first_frame):
"""

import argparse
import json
import sys
from collections.abc import Sequence

from pipeline import where
from pipeline.cli import Parser, Progress, add_store_options, byte_size, positive, storage_of
from pipeline.errors import UserError
from pipeline.explain import explained
from pipeline.export.run import FORMATS, Export, Exporter
from pipeline.export.target import Target
from pipeline.job import EXIT_DONE, EXIT_INTERRUPTED, EXIT_USAGE
from pipeline.shards import ShardError


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, export, print; returns the exit code."""
    args = _parser().parse_args(arguments)
    try:
        storage = storage_of(args)
        with explained(args.uri, "read"):
            exporter = Exporter(_export(args), storage)
        target = Target(args.out, storage)
        print(_told(exporter))
        if args.plan:
            target.check_empty()
            print("nothing was written; without --plan it is")
            return EXIT_DONE
        total = sum(exporter.clips.values())
        with explained(args.uri, "read"):
            found = exporter.write(target, Progress("clips"))
    except (UserError, ShardError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        print(f"interrupted: {args.out} is not complete; delete it", file=sys.stderr)
        return EXIT_INTERRUPTED
    shards = [shard for each in found["shards"].values() for shard in each]
    size = sum(shard["bytes"] for shard in shards)
    print(f"wrote {total} clips in {len(shards)} shards, {size / 1e6:,.1f} MB, to {target.uri}")
    summary = {
        "out": target.uri,
        "format": args.format,
        "snapshot": exporter.snapshot.number,
        "statistic": exporter.statistic,
        "clips": exporter.clips,
        "shards": len(shards),
        "bytes": size,
    }
    print(json.dumps(summary))
    return EXIT_DONE


def _told(exporter: Exporter) -> str:
    lines = [f"{exporter.cache}, snapshot {exporter.snapshot.number}: {exporter.statistic}"]
    lines += [f"{count:>12} clips of {folder}" for folder, count in exporter.clips.items()]
    return "\n".join(lines)


def _export(args: argparse.Namespace) -> Export:
    return Export(
        uri=args.uri,
        format=args.format,
        snapshot=args.snapshot,
        where=args.where,
        statistic=args.statistic,
        seed=args.seed,
        clip_frames=tuple(args.clip_frames),
        clip_stride=args.clip_stride,
        allow_padded=args.allow_padded,
        columns=tuple(args.columns),
        shard_bytes=args.shard_bytes,
        workers=0 if args.workers == 1 else args.workers,
    )


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="export_cache.py",
        description=f"{__doc__}{where.HELP}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("uri", metavar="URI", help="root of the cache: a path or s3://…")
    parser.add_argument("--format", required=True, choices=tuple(FORMATS))
    parser.add_argument("--out", metavar="DIR", required=True, help="where to: empty or new")
    parser.add_argument("--plan", action="store_true", help="tell what there is, and stop")
    what = parser.add_argument_group("what")
    what.add_argument("--snapshot", metavar="N", type=int, help="default: the newest")
    what.add_argument("--where", metavar="EXPR", help="a condition, as above; default: all")
    what.add_argument(
        "--clip-frames",
        metavar="F",
        type=positive,
        nargs="+",
        default=(1, 17),
        help="lengths of clips: 17, 34, 51, …, and 1 for images (default: 1 17)",
    )
    what.add_argument(
        "--clip-stride",
        metavar="W",
        type=positive,
        help="windows from clip to clip (default: as many as a clip has)",
    )
    what.add_argument(
        "--allow-padded", action="store_true", help="also clips that end with repeated frames"
    )
    what.add_argument(
        "--columns", metavar="NAME", nargs="+", default=(), help="beside caption and uri"
    )
    what.add_argument(
        "--statistic",
        choices=("moments", "mean", "sample"),
        help="default: what the cache holds; fastvideo: mean",
    )
    what.add_argument("--seed", metavar="N", type=int, default=0, help="of samples (default: 0)")
    how = parser.add_argument_group("how")
    how.add_argument(
        "--shard-bytes",
        metavar="SIZE",
        type=byte_size,
        default="256MB",
        help="a shard at the most, and about half of the memory (default: 256MB)",
    )
    how.add_argument(
        "--workers", metavar="N", type=positive, default=1, help="processes that read (default: 1)"
    )
    add_store_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
