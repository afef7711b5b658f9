"""The keys ``canary`` and ``canary_psnr``: whether a run looks at its first latents, and how."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field


def _parse(value: object) -> object:
    """YAML reads ``on`` and ``off`` as truth values."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


Canary = Annotated[Literal["auto", "on", "off"], BeforeValidator(_parse)]

Decibels = Annotated[float, Field(gt=0, le=100)]
