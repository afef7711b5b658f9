"""Buckets and how a picture is fitted into one: integer arithmetic, and nothing else."""

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal, get_args

MULTIPLE = 16
"""Sides of a bucket are multiples of this many pixels."""

ResizePolicy = Literal["cover", "contain", "stretch"]
"""Fill the bucket and crop the rest; show the whole picture between black bars; or distort."""

ResizeFilter = Literal["bicubic", "area", "bilinear", "lanczos"]
"""The resampling kernel."""

_NAME = re.compile(r"h(\d+)w(\d+)")
_TIE = 1e-6


@dataclass(frozen=True, order=True)
class Bucket:
    """A target size in pixels; both sides are positive multiples of 16.

    Raises:
        ValueError: a side is not; the message names the nearest sides that are.
    """

    height: int
    width: int

    def __post_init__(self) -> None:
        for side, value in (("height", self.height), ("width", self.width)):
            if value <= 0 or value % MULTIPLE:
                below = max(value // MULTIPLE, 1) * MULTIPLE
                near = f"{below} and {below + MULTIPLE}" if value > below else f"{below}"
                raise ValueError(
                    f"bucket {side} {value} is not a positive multiple of {MULTIPLE}; "
                    f"nearest: {near}"
                )

    @property
    def name(self) -> str:
        """``h128w224``, as used in paths and tables."""
        return f"h{self.height}w{self.width}"

    @property
    def pixels(self) -> int:
        """Height times width."""
        return self.height * self.width

    @classmethod
    def parse(cls, name: str) -> "Bucket":
        """The bucket called ``name``.

        Raises:
            ValueError: ``name`` is not of the form ``h128w224``.
        """
        match = _NAME.fullmatch(name)
        if match is None:
            raise ValueError(f"bucket name {name!r} is not of the form 'h128w224'")
        return cls(height=int(match[1]), width=int(match[2]))

    def __str__(self) -> str:
        return self.name


def nearest(buckets: Sequence[Bucket], width: int, height: int) -> Bucket:
    """The bucket whose shape is nearest to a picture of display size ``width`` x ``height``.

    Nearness is the absolute difference of the logarithms of the aspect ratios. Among buckets of
    equal nearness the largest that does not enlarge the picture wins, or else the smallest.

    Raises:
        ValueError: no bucket to choose from, or a side of the picture is not positive.
    """
    if not buckets:
        raise ValueError("no bucket to choose from")
    if width <= 0 or height <= 0:
        raise ValueError(f"picture size {width}x{height} is not positive")
    shape = math.log(width / height)
    distances = [abs(math.log(bucket.width / bucket.height) - shape) for bucket in buckets]
    least = min(distances)
    tied = [b for b, distance in zip(buckets, distances, strict=True) if distance <= least + _TIE]
    within = [b for b in tied if b.width <= width and b.height <= height]
    if within:
        return max(within, key=lambda b: (b.pixels, b))
    return min(tied, key=lambda b: (b.pixels, b))


@dataclass(frozen=True)
class Geometry:
    """How an upright picture is placed in a bucket; all values in pixels of the bucket.

    The whole picture is scaled to ``scaled_width`` x ``scaled_height``; then ``crop_left`` columns
    and ``crop_top`` rows are cut off before the part that is kept, or the scaled picture is placed
    behind ``pad_left`` black columns and ``pad_top`` black rows.
    """

    bucket: Bucket
    scaled_width: int
    scaled_height: int
    crop_left: int
    crop_top: int
    pad_left: int
    pad_top: int

    def to_dict(self) -> dict[str, int]:
        """Plain integers, fit for JSON: everything above, the bucket as height and width."""
        figures: dict[str, int] = {
            name: value for name, value in asdict(self).items() if name != "bucket"
        }
        return {"height": self.bucket.height, "width": self.bucket.width, **figures}


def fit(display_width: int, display_height: int, bucket: Bucket, policy: ResizePolicy) -> Geometry:
    """Place an upright picture of the given display size in ``bucket``, centred.

    An odd remainder goes to the right and the bottom.

    Raises:
        ValueError: a side is not positive, or the policy is unknown.
    """
    if display_width <= 0 or display_height <= 0:
        raise ValueError(f"picture size {display_width}x{display_height} is not positive")
    if policy not in get_args(ResizePolicy):
        raise ValueError(f"resize must be one of {get_args(ResizePolicy)}, got {policy!r}")
    # Cross products compare the two scale factors without rounding.
    wider = display_width * bucket.height >= display_height * bucket.width
    if policy == "stretch":
        width, height = bucket.width, bucket.height
    elif wider == (policy == "cover"):
        width = max(1, _divide(display_width * bucket.height, display_height))
        height = bucket.height
    else:
        width = bucket.width
        height = max(1, _divide(display_height * bucket.width, display_width))
    return Geometry(
        bucket=bucket,
        scaled_width=width,
        scaled_height=height,
        crop_left=max(0, width - bucket.width) // 2,
        crop_top=max(0, height - bucket.height) // 2,
        pad_left=max(0, bucket.width - width) // 2,
        pad_top=max(0, bucket.height - height) // 2,
    )


def _divide(numerator: int, denominator: int) -> int:
    """The nearest integer to the quotient of two positive integers; halves round up."""
    return (2 * numerator + denominator) // (2 * denominator)
