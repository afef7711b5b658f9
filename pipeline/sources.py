"""One source as the plan sees it: what the dataset, the manifest and the header say of it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from pipeline.buckets import Bucket
from pipeline.coverage import NOTHING_HELD, Coverage
from pipeline.errors import SourceError
from pipeline.known import KnownRun
from pipeline.listing import IMAGE_SUFFIXES
from pipeline.recipe import Recipe
from pipeline.spans import name_of
from pipeline.video.facts import Header, VideoFacts

NO_HINTS: Mapping[str, Any] = {}
"""One for all sources without: a plan may hold millions."""

HINTS = ("width", "height", "fps", "frames", "duration")
"""Columns of the dataset that can stand for a header."""


@dataclass(frozen=True, slots=True)
class Previous:
    """The complete generation of the same bytes that a changed recipe replaces."""

    generation: str
    window_recipe: str
    contract_id: str
    frames_actual: int


@dataclass(frozen=True, slots=True)
class SourcePlan:
    """One source that a run has to bring to an end.

    ``facts`` are what the header says, and the first frame where it was read, or None where hints
    say enough or the header is not read yet; ``coverage`` is what an interrupted run left of the
    generation; ``failure`` ends the source without any work; ``previous`` is a generation whose
    windows may be carried over, ``known`` are its samples where decoding alone can tell whether
    they are.
    """

    source_id: str
    user_id: str | None
    uri: str
    start: float | None
    end: float | None
    version: str
    pinned: bool
    revision: int
    attempts: int
    facts: Header | None = None
    hints: Mapping[str, Any] = field(default_factory=lambda: NO_HINTS)
    recipe: str = ""
    window_recipe: str = ""
    generation: str = ""
    buckets: tuple[Bucket, ...] = ()
    coverage: Coverage = NOTHING_HELD
    failure: SourceError | None = None
    previous: "Previous | None" = None
    known: tuple[KnownRun, ...] = ()

    @property
    def file(self) -> tuple[str, str | None]:
        """URI, and the version that a read must meet (None: the dataset's own column gave it)."""
        return self.uri, self.version if self.pinned else None

    @property
    def settled(self) -> bool:
        """Whether the plan alone brings it to an end: it cannot be read, or all of it is held."""
        return self.failure is not None or self.coverage.complete(self.buckets)

    @property
    def is_image(self) -> bool:
        """Whether the header says so; hints never speak of images."""
        return isinstance(self.facts, VideoFacts) and self.facts.is_image

    @property
    def display_size(self) -> tuple[int, int]:
        """Width and height in pixels, upright, from the header or else the hints."""
        if self.facts is not None:
            return self.facts.width, self.facts.height
        return self.hints["width"], self.hints["height"]

    def hinted(self, recipe: Recipe) -> bool:
        """Whether the dataset's own columns say enough to plan without opening the file.

        Never of an image: time has no part in its recipe, and columns do not tell images apart.
        """
        hints = self.hints
        image = PurePosixPath(name_of(self.uri)).suffix.lower() in IMAGE_SUFFIXES
        if image or not {"width", "height"} <= hints.keys():
            return False
        if recipe.fps is None:
            return "frames" in hints or {"fps", "duration"} <= hints.keys()
        return "duration" in hints or {"fps", "frames"} <= hints.keys()

    def estimated_windows(self, recipe: Recipe) -> int:
        """Windows per bucket that the header or the hints promise; 0 when they say nothing."""
        if self.is_image:
            return 1
        if self.facts is not None:
            frames = self.facts.estimated_frames(recipe.fps, self.start, self.end)
            return 0 if frames is None else recipe.grid.count(frames)
        hints = self.hints
        duration = hints.get("duration") or hints["frames"] / hints.get("fps", 1.0)
        if recipe.fps is not None:
            rate = float(recipe.fps)
        else:
            rate = hints["fps"] if "fps" in hints else hints["frames"] / duration
        begin = self.start or 0.0
        stop = duration if self.end is None else min(self.end, duration)
        return recipe.grid.count(max(0, round((stop - begin) * rate)))


def usable_hints(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The hints of a dataset's row that are positive, finite numbers."""
    return {k: row[k] for k in HINTS if row[k] is not None and 0 < row[k] < math.inf} or NO_HINTS
