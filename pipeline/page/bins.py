"""Counts by intervals: as many as there are bins, however many values are added."""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Bins:
    """Values counted between ``edges``.

    Attributes:
        edges: ascending; bin k holds values in [edges[k], edges[k + 1]), the last has no end.
        labels: of the left edge of each bin.
        counts: of each bin.
    """

    edges: Sequence[float]
    labels: Sequence[str]
    counts: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        if len(self.edges) != len(self.labels):
            raise ValueError(f"{len(self.edges)} edges, but {len(self.labels)} labels")
        self.counts = [0] * len(self.edges)

    def add(self, value: float) -> None:
        """Count one value in; what lies below the first edge is in the first bin."""
        self.counts[max(0, bisect.bisect_right(self.edges, value) - 1)] += 1

    @property
    def total(self) -> int:
        """Values added."""
        return sum(self.counts)

    def trimmed(self, least: int = 6) -> list[tuple[str, int]]:
        """Labels and counts from the first bin that holds something to the last, or none.

        Empty neighbours make them ``least`` where they are fewer.
        """
        held = [place for place, count in enumerate(self.counts) if count]
        if not held:
            return []
        begin, stop = held[0], held[-1] + 1
        missing = max(0, least - (stop - begin))
        begin = max(0, min(begin - missing // 2, len(self.counts) - least))
        kept = slice(begin, max(stop, begin + least))
        return list(zip(self.labels[kept], self.counts[kept], strict=True))


def duration_bins() -> Bins:
    """Lengths of clips in seconds, from below a second to above an hour."""
    edges = (0, 1, 2, 4, 8, 15, 30, 60, 120, 300, 900, 3600)
    labels = ("0", "1 s", "2 s", "4 s", "8 s", "15 s", "30 s", "1 m", "2 m", "5 m", "15 m", "1 h")
    return Bins(edges, labels)
