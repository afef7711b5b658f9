"""What sections of the configuration are made of."""

import re
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

_UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def parse_bytes(value: object) -> object:
    """A size as text, such as ``64MiB``, in bytes; all else as it is. Raises ``ValueError``."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", value)
    if match is None or match[2].lower() not in _UNITS:
        raise ValueError(f"{value!r} is not a size: write a number of bytes, or e.g. 64MiB or 1GB")
    return int(float(match[1]) * _UNITS[match[2].lower()])


ByteSize = Annotated[int, BeforeValidator(parse_bytes), Field(gt=0)]

Device = Literal["auto", "cpu", "cuda"]
"""Where a model works; ``auto`` is CUDA where there is some."""


class Section(BaseModel):
    """One section: unknown keys are refused, and nothing changes once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True)
