"""Options that the jobs that look at a cache share: the VAE, the stores, the folder for files."""

import argparse
import os
from pathlib import Path
from typing import get_args

from pipeline.cli import add_store_options
from pipeline.config_types import Device
from pipeline.errors import UserError
from pipeline.page.look import Decoder


def add_access(parser: argparse.ArgumentParser) -> None:
    """Add the options of the VAE and of the stores."""
    model = parser.add_argument_group("the VAE")
    model.add_argument(
        "--checkpoint",
        metavar="URI",
        help="vae_v2.safetensors that encoded the cache (default: where its run found it)",
    )
    model.add_argument(
        "--device",
        choices=get_args(Device),
        default="auto",
        help="where it decodes (default: auto, CUDA where there is some)",
    )
    add_store_options(parser)


def decoder_of(args: argparse.Namespace) -> Decoder:
    """The VAE that ``add_access`` tells."""
    return Decoder(args.checkpoint, args.device)


def local_folder(out: str) -> Path:
    """Where files go; makes nothing yet. Raises ``UserError`` where that cannot be."""
    if "://" in out:
        raise UserError(f"--out {out}: the files are written to a local folder; name one")
    folder = Path(out)
    there = folder
    try:
        while not there.exists():
            there = there.parent
    except OSError as error:
        raise unwritable(folder, error.strerror or str(error)) from error
    if not there.is_dir():
        raise unwritable(folder, f"{there} is no folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise unwritable(folder, f"{there} cannot be written to")
    return folder


def unwritable(folder: Path, why: str) -> UserError:
    """What to say of a folder that takes no file."""
    return UserError(f"--out {folder}: {why}; name a folder that can be written to")
