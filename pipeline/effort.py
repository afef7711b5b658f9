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
        vae_seconds: how long its device was in the VAE's calls; 0 where that was not measured.
    """

    encoder: str
    begun: float
    seconds: float
    windows: int
    frame_bytes: int
    vae_seconds: float = 0.0

    @property
    def ended(self) -> float:
        """When the pack was done."""
        return self.begun + self.seconds


@dataclass
class Efforts:
    """The efforts of a run together; start-up, before anything is encoded, is apart.

    ``firsts`` has the first effort of each encoder, which may be slow: kernels are loaded, chosen
    or compiled.
    """

    packs: int = 0
    windows: int = 0
    frame_bytes: int = 0
    busy_seconds: float = 0.0
    vae_seconds: float = 0.0
    firsts: dict[str, Effort] = field(default_factory=dict)
    ended: float = 0.0

    def add(self, effort: Effort) -> None:
        """Count one pack in."""
        self.merge(
            Efforts(
                1,
                effort.windows,
                effort.frame_bytes,
                effort.seconds,
                effort.vae_seconds,
                {effort.encoder: effort},
                effort.ended,
            )
        )

    def merge(self, other: "Efforts") -> None:
        """Count those of another part of the run in."""
        self.packs += other.packs
        self.windows += other.windows
        self.frame_bytes += other.frame_bytes
        self.busy_seconds += other.busy_seconds
        self.vae_seconds += other.vae_seconds
        for encoder, effort in other.firsts.items():
            known = self.firsts.get(encoder, effort)
            self.firsts[encoder] = min(known, effort, key=lambda each: each.ended)
        self.ended = max(self.ended, other.ended)

    @property
    def first(self) -> Effort | None:
        """The effort that ended first."""
        return min(self.firsts.values(), key=lambda effort: effort.ended, default=None)

    @property
    def busy_share(self) -> float | None:
        """Share of the time from its first pack to the run's last that an encoder worked."""
        there = sum(self.ended - first.begun for first in self.firsts.values())
        return self.busy_seconds / there if there > 0 else None

    @property
    def windows_per_second(self) -> float | None:
        """Windows of all encoders a second, from the end of the first pack to that of the last."""
        first = self.first
        if first is None or self.ended <= first.ended:
            return None
        return (self.windows - first.windows) / (self.ended - first.ended)

    @property
    def bytes_per_second(self) -> float | None:
        """Bytes of frames that went into all encoders a second."""
        rate = self.windows_per_second
        return None if rate is None else rate * self.frame_bytes / self.windows

    @property
    def bare_windows_per_second(self) -> float | None:
        """Windows a second of all encoders if their devices never left the VAE's calls.

        The first pack of each is left out. None where there is no other, or nothing was measured.
        """
        firsts = self.firsts.values()
        seconds = self.vae_seconds - sum(effort.vae_seconds for effort in firsts)
        windows = self.windows - sum(effort.windows for effort in firsts)
        return len(self.firsts) * windows / seconds if windows and seconds > 0 else None

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
