"""What a job says while it works, on stderr: plain lines, or one JSON object a line."""

import contextlib
import datetime
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any, Literal, TextIO

LogFormat = Literal["text", "json"]

_LOG = logging.getLogger("t2v_latents")


def tell(message: str, **fields: Any) -> None:
    """Say how things go. In JSON, ``fields`` stand beside the message."""
    _LOG.info(message, extra={"fields": fields})


def warn(message: str, **fields: Any) -> None:
    """Say what may need the user."""
    _LOG.warning(message, extra={"fields": fields})


def fail(message: str, **fields: Any) -> None:
    """Say why the job ends without its work done."""
    _LOG.error(message, extra={"fields": fields})


@contextlib.contextmanager
def logging_to_stderr(form: LogFormat, stream: TextIO | None = None) -> Iterator[None]:
    """Have messages written, while the context lasts; elsewhere only warnings are.

    ``stream`` stands in for stderr.
    """
    handler = _Stderr(stream)
    handler.setFormatter(_Json() if form == "json" else _Text())
    level = _LOG.level
    _LOG.addHandler(handler)
    _LOG.setLevel(logging.INFO)
    try:
        yield
    finally:
        _LOG.removeHandler(handler)
        _LOG.setLevel(level)


class _Stderr(logging.Handler):
    """Writes to what stderr is at the moment: a progress bar puts itself in its place."""

    def __init__(self, stream: TextIO | None) -> None:
        super().__init__()
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=self._stream or sys.stderr, flush=True)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        return level + record.getMessage()


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        told = {
            "time": at.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        return json.dumps(told, default=str)
