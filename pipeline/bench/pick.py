"""Which clips the decode benchmark takes: named ones, or some of a configuration's dataset."""

import math
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import numpy as np

from pipeline.bench.work import Span, Work
from pipeline.buckets import Bucket, ResizeFilter, ResizePolicy, fit, nearest
from pipeline.catalog import read_catalog
from pipeline.config import Config, StorageConfig
from pipeline.errors import Reason, SourceError, UserError
from pipeline.reading import open_source
from pipeline.recipe import segment_cap
from pipeline.spans import name_of
from pipeline.storage import absolute, protocol_of
from pipeline.video.limits import DecodeLimits
from pipeline.video.probe import probe

T = TypeVar("T")

SPANS_OF_A_FILE = 8
"""Clips of one file that are taken, where a list names more."""


@dataclass(frozen=True)
class Settings:
    """How frames are made of a clip."""

    buckets: tuple[Bucket, ...]
    policy: ResizePolicy
    filter: ResizeFilter
    fps: Fraction | None
    segment_windows: int
    pack_bytes: int
    seconds: float
    """The most that is taken of a file."""


def named(
    uris: Sequence[str], spans: Sequence[Span], settings: Settings, folder: Path
) -> list[Work]:
    """Work on files by name. Raises ``UserError`` where one cannot be decoded."""
    found = []
    for index, uri in enumerate(uris):
        place = absolute(uri)
        try:
            path = _local(place, None, StorageConfig(), folder, index)
            found.append(_work(path, uri, spans or [(None, None)], settings))
        except SourceError as error:
            raise UserError(f"{uri}: {error.message}") from error
    return found


def picked(config: Config, count: int, settings: Settings, folder: Path) -> list[Work]:
    """Work on ``count`` videos of the dataset; what cannot be decoded is told and passed over.

    Raises ``UserError`` where none is left.
    """
    sources = read_catalog(config).sources
    files: dict[tuple[str, str | None], list[Span]] = {}
    columns = (sources[name].to_pylist() for name in ("uri", "version", "pinned", "start", "end"))
    for uri, version, pinned, start, end in zip(*columns, strict=True):
        files.setdefault((uri, version if pinned else None), []).append((start, end))
    found: list[Work] = []
    for index, ((uri, version), spans) in enumerate(_spread(list(files.items()))):
        if len(found) == count:
            break
        try:
            path = _local(uri, version, config.storage, folder, index)
            found.append(_work(path, uri, spans[:SPANS_OF_A_FILE], settings))
        except SourceError as error:
            print(f"{uri} is passed over: {error.message}", file=sys.stderr)
    if not found:
        raise UserError(f"{config.dataset.uri} has no video that can be decoded")
    return found


def _spread(items: list[T]) -> Iterator[T]:
    """All items, the first few of them from all over the list."""
    seen = set()
    for parts in (2**power for power in range(64)):
        for index in np.linspace(0, len(items) - 1, min(parts, len(items))).round().tolist():
            if index not in seen:
                seen.add(index)
                yield items[int(index)]
        if parts >= len(items):
            return


def _local(uri: str, version: str | None, storage: StorageConfig, folder: Path, index: int) -> str:
    """The path of a local file, or of a copy. Raises ``SourceError``."""
    if protocol_of(uri) == "file":
        return uri
    copy = folder / f"{index}{Path(name_of(uri)).suffix}"
    with open_source(uri, version, storage) as source, copy.open("wb") as file:
        shutil.copyfileobj(source, file, 4 * 2**20)
    return str(copy)


def _work(path: str, name: str, spans: Sequence[Span], settings: Settings) -> Work:
    with open_source(path, None, StorageConfig()) as source:
        facts = probe(source, DecodeLimits())
    if facts.is_image:
        raise SourceError(Reason.NO_VIDEO_STREAM, "it is an image")
    bucket = nearest(settings.buckets, facts.width, facts.height)
    return Work(
        path=path,
        name=Path(name_of(name)).name,
        spans=tuple(_shortened(spans, settings.seconds, facts.duration)),
        geometry=fit(facts.width, facts.height, bucket, settings.policy),
        policy=settings.policy,
        filter=settings.filter,
        fps=settings.fps,
        segment_windows=segment_cap(bucket, settings.segment_windows, settings.pack_bytes),
        facts=facts,
    )


def _shortened(spans: Sequence[Span], seconds: float, duration: float | None) -> Iterator[Span]:
    """The spans, as far as they make up ``seconds`` together."""
    left = seconds
    for start, end in spans:
        begin = start or 0.0
        length = (duration if end is None else end) or math.inf
        if left <= 0:
            return
        yield (start, end) if length - begin <= left else (start, begin + left)
        left -= length - begin
