"""Encode video datasets into a published, resumable cache of Step-Video VAE latents."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.cache import LatentCache
    from pipeline.contract import Contract
    from pipeline.reader.dataset import LatentDataset

__all__ = ["Contract", "LatentCache", "LatentDataset"]

_HOMES = {
    "LatentCache": "pipeline.cache",
    "Contract": "pipeline.contract",
    "LatentDataset": "pipeline.reader.dataset",
}


if not TYPE_CHECKING:  # what is misspelt is to be an error of the type checker

    def __getattr__(name: str) -> Any:
        """Import a name when it is first asked for: a decoder needs none of them."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value = getattr(importlib.import_module(_HOMES[name]), name)
        return value
