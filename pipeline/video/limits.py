"""How much one source may cost before it is given up."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DecodeLimits:
    """Bounds on what an untrusted file may ask for; passing one fails that source.

    Attributes:
        max_pixels: coded width times height of a frame, and of a frame scaled for a bucket.
        max_frames: source frames decoded from one file.
        max_seconds: presentation time between the first and the last frame.
        max_gap_seconds: how long one frame may be shown; resampling repeats it all that time.
        open_timeout_s: seconds to open the file and read its header.
        read_timeout_s: seconds between two reads that make progress.
        seconds_per_second: seconds that a decoder process may take for each second of video, once
            ``grace_seconds`` are used up. Reading the file does not count.
        grace_seconds: seconds that it may take beyond that: to begin, and for a slow part.
        memory_bytes: private memory of a decoder process.

    The last three hold only where decoding has a process of its own.
    """

    max_pixels: int = 8192 * 8192 // 2
    max_frames: int = 10_000_000
    max_seconds: float = 12 * 3600.0
    max_gap_seconds: float = 600.0
    open_timeout_s: float = 60.0
    read_timeout_s: float = 60.0
    seconds_per_second: float = 60.0
    grace_seconds: float = 120.0
    memory_bytes: int = 4 * 2**30

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
