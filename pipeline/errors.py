"""The two kinds of failure: a mistake of the user, and a source that cannot be encoded."""

from enum import StrEnum


class UserError(Exception):
    """Bad usage, configuration or environment; jobs print its message and exit with code 1.

    The message names the thing, the value and the remedy. It is kept apart from ``args``, to which
    Ray adds advice of its own where a task raises.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return self.message


class StoreError(UserError):
    """A store cannot be reached, or refuses: nothing is known of what it holds."""


class Reason(StrEnum):
    """Why a source ended as ``skipped`` or ``failed``; stored in the table ``sources``."""

    TOO_SHORT = "too_short"
    MISSING = "missing"
    UNREADABLE = "unreadable"
    EMPTY_FILE = "empty_file"
    UNSUPPORTED_CONTAINER = "unsupported_container"
    UNSUPPORTED_CODEC = "unsupported_codec"
    INVALID_DATA = "invalid_data"
    NO_VIDEO_STREAM = "no_video_stream"
    DECODE_ERROR = "decode_error"
    TOO_LARGE = "too_large"
    TIMEOUT = "timeout"
    CRASHED = "crashed"
    BAD_TIMESTAMPS = "bad_timestamps"
    EMPTY_RANGE = "empty_range"
    HINT_MISMATCH = "hint_mismatch"
    SOURCE_CHANGED = "source_changed"
    NOT_FINITE = "not_finite"
    OVERFLOW = "overflow"
    INCOMPLETE = "incomplete"
    LOST = "lost"

    @property
    def transient(self) -> bool:
        """Whether another attempt may succeed though the version is the same."""
        return self in _TRANSIENT


_TRANSIENT = frozenset(
    {
        Reason.MISSING,
        Reason.UNREADABLE,
        Reason.SOURCE_CHANGED,
        Reason.HINT_MISMATCH,  # the true size is kept, and the hints may be corrected
        Reason.INCOMPLETE,
        Reason.LOST,
        Reason.TIMEOUT,  # the machine may have been busy
        Reason.CRASHED,  # it may have run out of memory
    }
)


class SourceError(Exception):
    """One source cannot be read, decoded or encoded; the run goes on without it."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message

    def __reduce__(self) -> "tuple[type[SourceError], tuple[Reason, str]]":
        return SourceError, (self.reason, self.message)


_SHOWN = 400


def printable(text: str) -> str:
    """Text that may be anything, fit for one line of a terminal: escaped, and not long."""
    shown = text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in shown)
