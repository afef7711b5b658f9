"""What ``LatentDataset`` is given: values that cannot be meant are refused, by name and remedy."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import torch
import torch.distributed

from pipeline.contract import Contract, Expectation
from pipeline.errors import UserError
from pipeline.reader.draw import Normalization
from pipeline.reader.order import Division


def check_counts(**given: tuple[int, int]) -> None:
    """Raise ``UserError`` where a value is no whole number, or below its least: (value, least)."""
    for name, (value, least) in given.items():
        if not isinstance(value, int) or value < least:
            raise UserError(f"{name} {value!r}: it must be a whole number, at least {least}")


def check_choices(**given: tuple[str, tuple[str, ...]]) -> None:
    """Raise ``UserError`` where a value is none of those allowed: (value, allowed)."""
    for name, (value, allowed) in given.items():
        if value not in allowed:
            raise UserError(f"{name} {value!r}: it is one of {', '.join(allowed)}")


def check_kinds(
    *,
    columns: Sequence[str],
    condition: pc.Expression | None,
    weights: Mapping[str, float] | str | None,
    dtype: torch.dtype | None,
    normalize: Normalization | str | Path | None,
    first_frame: bool,
    statistic: str,
) -> None:
    """Raise ``UserError`` for values of another kind than is asked for."""
    if isinstance(columns, str):
        raise UserError(f"columns {columns!r}: give a list of names, [{columns!r}]")
    if not isinstance(condition, pc.Expression | None):
        raise UserError(
            f"filter {condition!r}: give a pyarrow expression, such as pc.field('fps') >= 24; "
            "pipeline.where.parse_where makes one of text"
        )
    if not isinstance(weights, Mapping | str | None):
        raise UserError(f"weights {weights!r}: give a dict by bucket name, or a column's name")
    if not isinstance(dtype, torch.dtype | None):
        raise UserError(f"dtype {dtype!r}: give one of torch's, such as torch.bfloat16")
    if not isinstance(normalize, Normalization | str | Path | None):
        raise UserError(
            f"normalize {normalize!r}: give Normalization(scale, shift), or the file of "
            "jobs/maintain_cache.py stats"
        )
    if statistic == "moments" and normalize is not None:
        raise UserError("normalize: moments are given as stored; ask for another statistic")
    if statistic == "moments" and first_frame:
        raise UserError(
            "first_frame: of moments take mean[:, :1] and logvar[:, :1]; or ask for another "
            "statistic"
        )


def check_steps(origin: str, frames: Any, clips: Mapping[str, int], division: Division) -> None:
    """Raise ``UserError`` where an epoch would be empty: loops over it would never end."""
    if not sum(clips.values()):
        raise UserError(
            f"{origin} has no clip of {frames} frames that fits; choose another clip_frames or "
            "filter, or allow_padded"
        )
    if not division.steps:
        told = ", ".join(f"{count} of {name}" for name, count in clips.items())
        raise UserError(
            f"{origin} has too few clips ({told}) for one batch on each of {division.world_size} "
            f"ranks (batch_size {division.batch_size}, remainder {division.remainder!r}); take "
            "fewer ranks, a smaller batch_size or remainder='short'"
        )


def expectation(given: Expectation | Contract | None) -> Expectation:
    """What the contract must hold. Raises ``UserError``."""
    if given is None:
        return Expectation({})
    if isinstance(given, Contract):
        return Expectation(asdict(given))
    if not isinstance(given, Expectation):
        raise UserError(f"expect {given!r}: give Contract.matching(name=value, …), or a Contract")
    return given


def lengths(given: Any) -> tuple[int, ...]:
    """Lengths of clips: one, or several. ``Choice`` checks them."""
    return tuple(given) if isinstance(given, Sequence) else (given,)


def ranks(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Rank and world size: those given, or those of ``torch.distributed``."""
    found = (0, 1)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        found = torch.distributed.get_rank(), torch.distributed.get_world_size()
    rank = found[0] if rank is None else rank
    world_size = found[1] if world_size is None else world_size
    if not 0 <= rank < world_size:
        raise UserError(f"rank {rank} of world_size {world_size}: ranks are counted from 0")
    return rank, world_size
