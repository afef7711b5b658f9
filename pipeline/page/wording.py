"""How the page words numbers and names: short, and without what may be secret."""

import math
import re

from pipeline.errors import printable
from pipeline.report import human_bytes

_USER = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)[^/@\s]*@")
_QUERY = re.compile(r"(?P<uri>[A-Za-z][A-Za-z0-9+.-]*://[^\s?'\"]+)\?[^\s'\",;)]*")

NONE = "\N{EN DASH}"
_GLUE = "\N{NO-BREAK SPACE}"
_TIMES = "\N{MULTIPLICATION SIGN}"
"""Stands for a figure that there is not."""


def shown(text: str | None) -> str:
    """Text that may be anything, in one line: no control characters, not long, no credentials.

    User names and passwords, and queries (which hold signatures), are cut out of URIs.
    """
    if text is None:
        return NONE
    without = _USER.sub(r"\g<scheme>…@", text)
    return printable(_QUERY.sub(r"\g<uri>?…", without))


def last_part(uri: str) -> str:
    """The last part of a path or URI, fit to be shown."""
    path = uri.partition("?")[0] if "://" in uri else uri
    return shown(path.rstrip("/").rsplit("/", 1)[-1]) or shown(uri)


def bucket_size(name: str) -> str:
    """``h96w160`` as height × width."""
    return name.removeprefix("h").replace("w", f"{_GLUE}{_TIMES}{_GLUE}")


def count(number: int) -> str:
    """``1234567`` as ``1,234,567``."""
    return f"{number:,}"


def share(part: float, whole: float) -> str:
    """A part of a whole in per cent; never 0% or 100% where it is not."""
    if whole <= 0:
        return NONE
    percent = 100 * part / whole
    if 0 < percent < 0.1:
        return "<0.1%"
    if 99.9 < percent < 100:
        return ">99.9%"
    return f"{percent:.1f}%" if percent % 1 and percent < 99.95 else f"{percent:.0f}%"


def figure(value: float | None, unit: str = "", digits: int = 3) -> str:
    """A number with three digits and its unit, or a dash."""
    if value is None or not math.isfinite(value):
        return NONE
    text = f"{value:,.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:.{digits}g}"
    return f"{text} {unit}".rstrip()


def span(seconds: float | None) -> str:
    """A duration as people say it: ``0.8 s``, ``12 min``, ``3 h 20 min``, ``5 d 4 h``."""
    if seconds is None or not math.isfinite(seconds):
        return NONE
    if seconds < 100:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 72:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days:,} d {hours} h" if hours else f"{days:,} d"


def size(count_of_bytes: float | None) -> str:
    """Bytes in decimal units."""
    return NONE if count_of_bytes is None else human_bytes(count_of_bytes)
