"""Stable hashes: what makes a source, a generation and a sample the same or another one.

Every hash is the SHA-256 of canonical JSON (sorted keys, no spaces, non-ASCII escaped), cut to its
first 32 hexadecimal digits (128 bits). ``docs/cache-format.md`` gives each as a formula.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

ID_DIGITS = 32

_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def stable_hash(value: Any) -> str:
    """First 32 hex digits of the SHA-256 of ``value`` as canonical JSON.

    Floats must be exact in the identity that they serve: they are written with ``repr``'s shortest
    round-trip digits. Raises ``TypeError`` for what JSON cannot hold, ``ValueError`` for NaN.
    """
    return hash_text(canonical(value))


def canonical(value: Any) -> str:
    """``value`` as canonical JSON. Fast for a text alone."""
    return _CANONICAL.encode(value)


def hash_text(text: str) -> str:
    """``stable_hash`` of what ``text`` is the canonical JSON of."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:ID_DIGITS]


def source_id(key: str, start: float | None, end: float | None) -> str:
    """Identity of a source: the dataset's ``id`` (else the URI) and the clip range in seconds."""
    span = ["null" if time is None else canonical(time) for time in (start, end)]
    return hash_text(f'["source",{canonical(key)},{span[0]},{span[1]}]')


def sample_id(
    source: str,
    version: str,
    first_frame: int,
    pts: Sequence[int],
    time_base: tuple[int, int],
    geometry: Mapping[str, Any],
    encoding: Mapping[str, Any],
) -> str:
    """Identity of one *resolved* window.

    ``first_frame`` is the source's output frame that the window begins with (so that windows of a
    frozen picture differ); ``pts`` are the timestamps of the frames shown, in units of
    ``time_base`` seconds; ``geometry``
    is crop and size; ``encoding`` is filter, VAE weights, compute dtype, statistic, stored dtype
    (and the seed, for drawn samples). Nothing else of the configuration takes part.
    """
    return stable_hash(
        [
            *("sample", source, version, first_frame, list(pts), list(time_base)),
            *(dict(geometry), dict(encoding)),
        ]
    )
