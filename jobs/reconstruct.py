"""Encode a clip, decode it again, and show what the VAE loses. Needs no cache.

Examples:
  python jobs/reconstruct.py clip.mp4 --checkpoint vae_v2.safetensors
  python jobs/reconstruct.py s3://bucket/clip.webm --checkpoint s3://bucket/vae_v2.safetensors \\
      --size 544x992 --fps 24 --dtype bfloat16 --max-windows 30
  python jobs/reconstruct.py photo.jpg --config configs/demo.yaml      (random weights: noise)

Prints the PSNR of each window, and writes CLIP_reconstruction.mp4 (original | reconstruction) and
CLIP_reconstruction.png. The last line of stdout is a JSON object. Exit codes: 0 done; 1 usage, or
it cannot be done; 130, 143 stopped by Ctrl-C or SIGTERM.
"""

import argparse
import json
import re
import signal
import sys
from collections.abc import Sequence
from typing import Any, get_args

from pipeline.buckets import Bucket
from pipeline.cli import Parser, positive
from pipeline.config import Config, load_config
from pipeline.errors import UserError
from pipeline.job import EXIT_DONE, EXIT_INTERRUPTED, EXIT_TERMINATED, EXIT_USAGE
from pipeline.reconstruct import MAX_OWN_PIXELS, Reconstruction, reconstruct
from pipeline.roundtrip import WindowScore
from pipeline.side_by_side import video_codec
from pipeline.video.facts import VideoFacts
from pipeline.windows import WINDOW_FRAMES, TailPolicy


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, reconstruct, print; returns the exit code."""
    parser = _parser()
    args = parser.parse_args(arguments)
    named = any(override.startswith("vae.") for override in args.set)
    if args.checkpoint is None and args.config is None and not named:
        parser.error(
            "no weights: pass --checkpoint vae_v2.safetensors, or, to try it without, "
            "--config configs/demo.yaml"
        )
    try:
        config = _config(args)
        _warn(config)
        done = reconstruct(config, args.size, args.max_windows, _print_begin, _print_score)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    _print_end(done, config)
    return EXIT_DONE


def _config(args: argparse.Namespace) -> Config:
    """The configuration, the command line over ``--set`` over the file."""
    given: dict[str, Any] = {
        "vae.checkpoint": args.checkpoint,
        "vae.compute_dtype": args.dtype,
        "vae.device": args.device,
        "windows.fps": args.fps,
        "windows.tail": args.tail,
        "latents.statistic": args.statistic,
        "latents.seed": args.seed,
    }
    fields = {key: value for key, value in given.items() if value is not None}
    if args.checkpoint is not None:
        fields["vae.random_seed"] = None
    fields |= {
        "dataset.uri": args.clip,
        "output.uri": args.out,
        "run.runner": "local",
        "buckets": [{"height": 16, "width": 16}],  # required, but --size or the clip decides
    }
    before = ["windows.tail=pad"] if args.config is None else []
    return load_config(args.config, before + args.set, fields)


def _warn(config: Config) -> None:
    if config.vae.checkpoint is None:
        print(
            "warning: the VAE's weights are random (vae.random_seed): the reconstruction is noise "
            "and tells nothing of the VAE; pass --checkpoint vae_v2.safetensors",
            file=sys.stderr,
        )
    if video_codec() != "libx264":
        print(
            "warning: this PyAV has no encoder for H.264: the video is MPEG-4, which browsers do "
            "not play",
            file=sys.stderr,
        )


def _print_begin(facts: VideoFacts, size: Bucket) -> None:
    if facts.is_image:
        kind = "an image"
    elif facts.fps:
        kind = f"{facts.fps:.5g} frames per second by its header"
    else:
        kind = "a video"
    print(
        f"the clip is {facts.height}x{facts.width} (height x width), {kind}; encoded at "
        f"{size.height}x{size.width}"
    )
    print(f"{'window':>6} {'frames':>13} {'start':>10} {'PSNR':>10}", flush=True)


def _print_score(score: WindowScore) -> None:
    span = f"{score.first_frame}-{score.first_frame + score.frames - 1}"
    print(f"{score.window:>6} {span:>13} {score.seconds:>8.2f} s {score.psnr:>7.2f} dB", flush=True)


def _print_end(done: Reconstruction, config: Config) -> None:
    print(f"{'mean':>6} {'':>24} {done.mean_psnr:>7.2f} dB")
    if done.clip_frames is None:
        print(f"the clip goes on behind {done.frames} frames; --max-windows takes more of it")
    elif done.frames < done.clip_frames:
        print(
            f"the last {done.clip_frames - done.frames} frames fill no window of {WINDOW_FRAMES} "
            f"and are left out (windows.tail: {config.windows.tail}); --tail pad takes them"
        )
    for path in (done.video, done.image):
        if path is not None:
            print(f"wrote {path}")
    print(json.dumps(done.to_json() | {"weights": config.vae.checkpoint or "random"}))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="reconstruct.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("clip", metavar="CLIP", help="video or image: a path or any fsspec URI")
    parser.add_argument(
        "--out",
        metavar="DIR",
        default="output/reconstructions",
        help="local folder for the files; older ones are replaced (default: %(default)s)",
    )
    model = parser.add_argument_group("the VAE")
    model.add_argument("--checkpoint", metavar="URI", help="vae_v2.safetensors")
    model.add_argument(
        "--config",
        metavar="YAML",
        help="take vae, storage, windows, resize and latents from a configuration",
    )
    model.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="override a key of these, e.g. --set resize.policy=contain; may be repeated",
    )
    model.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="default: float32"
    )
    model.add_argument("--device", choices=("auto", "cpu", "cuda"), help="default: auto")
    model.add_argument(
        "--statistic",
        choices=("mean", "sample"),
        help="decode the posterior's mean, or a sample of it (default: mean)",
    )
    model.add_argument("--seed", metavar="N", type=_seed, help="of --statistic sample; default: 0")
    frames = parser.add_argument_group("the frames")
    frames.add_argument(
        "--size",
        metavar="HxW",
        type=_size,
        help="height and width to encode at, multiples of 16; default: the clip's own, cut to "
        f"such, and shrunk where it has more than {MAX_OWN_PIXELS} pixels",
    )
    frames.add_argument("--fps", help="output frames per second (default: the clip's own frames)")
    frames.add_argument(
        "--tail",
        choices=get_args(TailPolicy),
        help="frames behind the last full window: left out, completed with copies of the last "
        "one, or covered by a window that ends with them (default: pad)",
    )
    frames.add_argument(
        "--max-windows",
        metavar="N",
        type=positive,
        default=4,
        help=f"windows of {WINDOW_FRAMES} frames to take, from the start (default: %(default)s)",
    )
    return parser


def _size(text: str) -> Bucket:
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not height x width: write e.g. 544x992")
    try:
        return Bucket(int(match[1]), int(match[2]))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _seed(text: str) -> int:
    if not re.fullmatch(r"\d{1,18}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to {10**18 - 1}")
    return int(text)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_TERMINATED))
    sys.exit(main())
