"""How much one source may cost before it is given up."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DecodeLimits:
    """Bounds on what an untrusted file may ask for; passing one fails that source.

    Attributes:
        max_pixels: coded width times height of a frame, and of a frame scaled for a bucket.
        max_frames: source frames decoded from one file.
        max_seconds: presentation time between the first and the last frame.
        open_timeout_s: seconds to open the file and read its header.
        read_timeout_s: seconds between two reads that make progress.
    """

    max_pixels: int = 8192 * 8192 // 2
    max_frames: int = 10_000_000
    max_seconds: float = 12 * 3600.0
    open_timeout_s: float = 60.0
    read_timeout_s: float = 60.0

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
