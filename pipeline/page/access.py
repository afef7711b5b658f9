"""Options that the jobs that look at a cache share: the VAE, the stores, the folder for files."""

import argparse
from pathlib import Path

from pipeline.cli import add_store_options
from pipeline.errors import UserError


def add_access(parser: argparse.ArgumentParser) -> None:
    """Add the options of the VAE and of the stores."""
    model = parser.add_argument_group("the VAE")
    model.add_argument(
        "--checkpoint",
        metavar="URI",
        help="vae_v2.safetensors that encoded the cache (default: where the newest run found it)",
    )
    model.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto"
    )
    add_store_options(parser)


def local_folder(out: str) -> Path:
    """Where files go. Raises ``UserError`` for a URI."""
    if "://" in out:
        raise UserError(f"--out {out}: the files are written to a local folder; name one")
    return Path(out)
