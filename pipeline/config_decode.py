"""The section ``decode``: what a source may cost, and whether its decoder is watched."""

from pydantic import Field

from pipeline.config_types import ByteSize, Section
from pipeline.video.limits import DecodeLimits

_DEFAULT = DecodeLimits()


class DecodeConfig(Section):
    """Limits of one source. Nothing here changes a number in the cache.

    With ``isolate`` a source that hangs, crashes or exhausts its decoder costs itself alone;
    without, time and memory have no limit, and a crash ends the worker.
    """

    isolate: bool = True
    max_pixels: int = Field(default=_DEFAULT.max_pixels, gt=0)
    max_frames: int = Field(default=_DEFAULT.max_frames, gt=0)
    max_seconds: float = Field(default=_DEFAULT.max_seconds, gt=0)
    max_gap_seconds: float = Field(default=_DEFAULT.max_gap_seconds, gt=0)
    seconds_per_second: float = Field(default=_DEFAULT.seconds_per_second, gt=0)
    grace_seconds: float = Field(default=_DEFAULT.grace_seconds, gt=0)
    memory_bytes: ByteSize = _DEFAULT.memory_bytes

    @property
    def limits(self) -> DecodeLimits:
        """The limits as decoding takes them."""
        return DecodeLimits(**self.model_dump(exclude={"isolate"}))
