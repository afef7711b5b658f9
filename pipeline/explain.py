"""What the cache's store refuses, told to the user."""

import contextlib
import re
from collections.abc import Iterator
from typing import Literal

from deltalake.exceptions import DeltaError

from pipeline.errors import UserError
from pipeline.storage import S3_PROTOCOLS, STORE_ERRORS, protocol_of

Verb = Literal["read", "written", "used"]

_COLOUR = re.compile(r"\x1b\[\d*m")

_CHECK = "check the path, its permissions and the room there"
_CHECK_S3 = (
    "check the credentials (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, …), what they allow, and the "
    "endpoint and region (AWS_ENDPOINT_URL, AWS_REGION, or the configuration)"
)


@contextlib.contextmanager
def explained(uri: str, verb: Verb) -> Iterator[None]:
    """Raise ``UserError``, "``uri`` cannot be read", for what a store raises in the context."""
    try:
        yield
    except (*STORE_ERRORS, DeltaError) as error:
        told = " ".join(_COLOUR.sub("", str(error)).split()) or type(error).__name__
        remedy = _CHECK_S3 if protocol_of(uri) in S3_PROTOCOLS else _CHECK
        raise UserError(f"{uri} cannot be {verb}: {told}; {remedy}") from error
