"""Retrying what may pass: one budget for an operation, whatever layers lie below it."""

import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import aiohttp
import botocore.exceptions
import botocore.parsers
from s3fs.utils import FileExpired

T = TypeVar("T")

FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 8.0

_PERMANENT = (
    FileNotFoundError,
    PermissionError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
    FileExpired,
)
_PASSING = (
    OSError,  # timeouts, resets; s3fs turns 500, 503 and slow-down answers into it too
    aiohttp.ClientError,
    botocore.exceptions.ConnectionError,  # a connection refused, or reset before the answer
    botocore.exceptions.HTTPClientError,
    botocore.exceptions.FlexibleChecksumError,
    botocore.exceptions.IncompleteReadError,
    botocore.parsers.ResponseParserError,
)
_PASSING_STATUS = frozenset({408, 425, 429})
_PASSING_CODES = frozenset({"RequestTimeout", "OperationAborted", "ConditionalRequestConflict"})
_STATUS_IN_TEXT = re.compile(r"non-2xx status code\W+(?:\x1b\[\d*m\W*)*(\d{3})\b")
"""How delta-rs tells the status of an answer: in its message alone."""

_BAD_REQUEST = "builder error"
"""What delta-rs says where it cannot even make the request: an address that is none."""


def may_pass(error: BaseException) -> bool:
    """Whether the same request may succeed later: timeouts, resets, 5xx, slow-down, cut bodies."""
    if isinstance(error, aiohttp.ClientResponseError):
        return _passes(error.status)
    response = getattr(error.__cause__, "response", None)
    if isinstance(response, dict):
        if response.get("Error", {}).get("Code") in _PASSING_CODES:
            return True
        return _passes(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500))
    if type(error) is OSError:
        told = _STATUS_IN_TEXT.search(str(error))
        if told is not None:
            return _passes(int(told[1]))
        if _BAD_REQUEST in str(error):
            return False
    return isinstance(error, _PASSING) and not isinstance(error, _PERMANENT)


def _passes(status: int) -> bool:
    return status >= 500 or status in _PASSING_STATUS


@dataclass(frozen=True)
class Retry:
    """Calls a function again while its error may pass and ``seconds`` are not used up.

    Waits between attempts grow exponentially from 0.1 s to 8 s, each a random share of its bound
    (full jitter), so that many workers do not come back at once. The layers below do not retry.
    """

    seconds: float
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic

    def call(self, function: Callable[[], T]) -> T:
        """The function's result, or its last error."""
        begun = self.clock()
        delay = FIRST_DELAY_S
        while True:
            try:
                return function()
            except Exception as error:
                wait = random.uniform(0, delay)
                if not may_pass(error) or self.clock() - begun + wait > self.seconds:
                    raise
            self.sleep(wait)
            delay = min(2 * delay, LONGEST_DELAY_S)
