"""What sections of the configuration are made of."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

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


PASSWORD = r"^[A-Za-z][A-Za-z0-9+.-]*://[^/@]*:[^/@]*@"
"""Matches a URI with a user name and password."""


def _refuse_credentials(value: str) -> str:
    if re.match(PASSWORD, value):
        scheme = value.split("://", 1)[0]
        raise ValueError(
            f"the {scheme}:// URI holds a user name and password; "
            "put credentials into the environment"
        )
    return value


def _absolute(value: str) -> str:
    """A local path from the root: workers and cluster nodes have other working directories."""
    return value if "://" in value else str(Path(value).expanduser().absolute())


Uri = Annotated[str, Field(min_length=1), AfterValidator(_refuse_credentials)]
Place = Annotated[Uri, AfterValidator(_absolute)]
