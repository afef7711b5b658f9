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

    def pace(self, encoders: int) -> "Pace":
        """How fast a run with so many encoders at once went.

        One that takes the place of another (which was lost, or whose execution was done) is no
        further encoder: only as many are counted to be there as work at once.
        """
        firsts = self.firsts.values()
        begun = sorted(effort.begun for effort in firsts)[:encoders]
        warm = sorted(effort.ended for effort in firsts)[:encoders]
        there = sum(self.ended - at for at in begun)
        windows = self.windows - sum(effort.windows for effort in firsts)
        working = self.busy_seconds - sum(effort.seconds for effort in firsts)
        bare = self.vae_seconds - sum(effort.vae_seconds for effort in firsts)

        def rate(seconds: float) -> float | None:
            return len(warm) * windows / seconds if windows and seconds > 0 else None

        whole = rate(sum(self.ended - at for at in warm))
        moved = None if whole is None else whole * self.frame_bytes / self.windows
        return Pace(
            packs=self.packs,
            encoder_busy=self.busy_seconds / there if there > 0 else None,
            encoder_seconds=self.busy_seconds,
            windows_per_second=whole,
            working_windows_per_second=rate(working),
            bare_windows_per_second=rate(bare),
            frame_bytes_per_second=moved,
            first_encoded_at=begun[0] if begun else None,
            last_encoded_at=self.ended if begun else None,
        )


@dataclass(frozen=True)
class Pace:
    """How fast a run's encoders went, as it is recorded; None where nothing tells.

    The rates are of all encoders together, each taken from the end of its first pack to the end of
    the run's last: how many windows they made a second of that time, of the part of it in which
    they worked (had they never waited), and of the part in which their devices were in the VAE's
    calls (had these never left them).

    Attributes:
        packs: encoded.
        encoder_busy: share of the time from each encoder's first pack to the run's last that it
            worked.
        encoder_seconds: for which encoders worked.
        windows_per_second: of the whole time.
        working_windows_per_second: of the time in which they worked.
        bare_windows_per_second: of the time in the VAE's calls.
        frame_bytes_per_second: that went into them, of the whole time.
        first_encoded_at: when the first pack was taken up, seconds since the epoch.
        last_encoded_at: when the last was done.
    """

    packs: int = 0
    encoder_busy: float | None = None
    encoder_seconds: float = 0.0
    windows_per_second: float | None = None
    working_windows_per_second: float | None = None
    bare_windows_per_second: float | None = None
    frame_bytes_per_second: float | None = None
    first_encoded_at: float | None = None
    last_encoded_at: float | None = None
