"""Effort: how long encoders worked and waited, told with the rows, since only they see all of it.

Clocks decide nothing that is yielded; they ride beside it.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Effort:
    """What one pack took of an encoder.

    Attributes:
        encoder: a name of the replica, unique in the run.
        begun: when it took up the pack, seconds since the epoch.
        seconds: how long it worked on it.
        windows: windows encoded.
        frame_bytes: bytes of their frames.
        bare: windows a second where the same pack was encoded once more for that; else None.
    """

    encoder: str
    begun: float
    seconds: float
    windows: int
    frame_bytes: int
    bare: float | None = None

    @property
    def ended(self) -> float:
        """When the pack was done."""
        return self.begun + self.seconds


@dataclass
class Efforts:
    """The efforts of a run together; start-up, before anything is encoded, is apart.

    ``began`` tells when each encoder took up its first pack, and ``first`` is the effort that
    ended first. ``bare`` has the windows a second that encoders measured apart from the pipeline.
    """

    packs: int = 0
    windows: int = 0
    frame_bytes: int = 0
    busy_seconds: float = 0.0
    began: dict[str, float] = field(default_factory=dict)
    first: Effort | None = None
    ended: float = 0.0
    bare: dict[str, float] = field(default_factory=dict)

    def add(self, effort: Effort) -> None:
        """Count one pack in."""
        self.merge(
            Efforts(
                1,
                effort.windows,
                effort.frame_bytes,
                effort.seconds,
                {effort.encoder: effort.begun},
                effort,
                effort.ended,
                {} if effort.bare is None else {effort.encoder: effort.bare},
            )
        )

    def merge(self, other: "Efforts") -> None:
        """Count those of another part of the run in."""
        self.packs += other.packs
        self.windows += other.windows
        self.frame_bytes += other.frame_bytes
        self.busy_seconds += other.busy_seconds
        for encoder, begun in other.began.items():
            self.began[encoder] = min(begun, self.began.get(encoder, begun))
        found = [effort for effort in (self.first, other.first) if effort is not None]
        self.first = min(found, key=lambda effort: effort.ended, default=None)
        self.ended = max(self.ended, other.ended)
        self.bare.update(other.bare)

    @property
    def busy_share(self) -> float | None:
        """Share of the time from its first pack to the run's last that an encoder worked."""
        there = sum(self.ended - begun for begun in self.began.values())
        return self.busy_seconds / there if there > 0 else None

    @property
    def windows_per_second(self) -> float | None:
        """Windows of all encoders a second, from the end of the first pack to that of the last."""
        if self.first is None or self.ended <= self.first.ended:
            return None
        return (self.windows - self.first.windows) / (self.ended - self.first.ended)

    @property
    def bytes_per_second(self) -> float | None:
        """Bytes of frames that went into all encoders a second."""
        rate = self.windows_per_second
        return None if rate is None else rate * self.frame_bytes / self.windows

    @property
    def bare_windows_per_second(self) -> float | None:
        """Windows of all encoders a second by what they measured apart; None unless all did."""
        return sum(self.bare.values()) if self.bare.keys() == self.began.keys() != set() else None

    def to_dict(self) -> dict[str, float | None]:
        """The figures that a run records."""
        return {
            "packs": self.packs,
            "encoder_busy": self.busy_share,
            "encoder_seconds": self.busy_seconds,
            "windows_per_second": self.windows_per_second,
            "frame_bytes_per_second": self.bytes_per_second,
            "bare_windows_per_second": self.bare_windows_per_second,
            "first_encoded_at": None if self.first is None else self.first.begun,
            "last_encoded_at": None if self.first is None else self.ended,
        }
