"""Encode video datasets into a published, resumable cache of Step-Video VAE latents."""

from typing import TYPE_CHECKING

from vae.lazy import lazy

if TYPE_CHECKING:
    from pipeline.cache import LatentCache
    from pipeline.contract import Contract
    from pipeline.reader.dataset import LatentDataset

__all__ = ["Contract", "LatentCache", "LatentDataset"]

_HOMES = {  # a decoder needs none of them
    "LatentCache": "pipeline.cache",
    "Contract": "pipeline.contract",
    "LatentDataset": "pipeline.reader.dataset",
}


if not TYPE_CHECKING:  # what is misspelt is to be an error of the type checker
    __getattr__ = lazy(__name__, _HOMES)
