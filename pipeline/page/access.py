"""Options that the jobs that look at a cache share: the VAE, the stores, the folder for files."""

import argparse
from pathlib import Path

from pydantic import ValidationError

from pipeline.config import StorageConfig
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
    store = parser.add_argument_group("S3-compatible stores")
    store.add_argument("--endpoint-url", metavar="URL", help="default: AWS_ENDPOINT_URL")
    store.add_argument("--region", metavar="NAME", help="default: AWS_REGION")


def storage_of(args: argparse.Namespace) -> StorageConfig:
    """The stores' settings. Raises ``UserError``."""
    try:
        return StorageConfig(endpoint_url=args.endpoint_url, region=args.region)
    except ValidationError as error:
        raise UserError(f"--endpoint-url {error.errors()[0]['msg']}") from error


def local_folder(out: str) -> Path:
    """Where files go. Raises ``UserError`` for a URI."""
    if "://" in out:
        raise UserError(f"--out {out}: the files are written to a local folder; name one")
    return Path(out)
