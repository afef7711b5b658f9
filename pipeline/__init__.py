"""Encode video datasets into a published, resumable cache of Step-Video VAE latents."""

from pipeline.cache import LatentCache
from pipeline.contract import Contract

__all__ = ["Contract", "LatentCache"]
