"""Buckets and geometry."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.buckets import Bucket, fit, nearest

sides = st.integers(1, 9000)
buckets = st.builds(lambda h, w: Bucket(16 * h, 16 * w), st.integers(1, 80), st.integers(1, 80))


@settings(deadline=None)
@given(buckets)
def test_names_round_trip(bucket: Bucket) -> None:
    assert Bucket.parse(bucket.name) == bucket


def test_name() -> None:
    assert Bucket(128, 224).name == "h128w224" == str(Bucket(128, 224))


@pytest.mark.parametrize("name", ["128x224", "h128", "h128w224x", "H128W224", "h-16w16"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not of the form"):
        Bucket.parse(name)


@pytest.mark.parametrize(
    ("height", "width", "message"),
    [
        (130, 224, "height 130 .* 128 and 144"),
        (128, 100, "width 100 .* 96 and 112"),
        (0, 16, "height 0 .* 16"),
        (5, 16, "height 5 .* 16"),
    ],
)
def test_sides_are_multiples_of_16(height: int, width: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Bucket(height, width)


@settings(deadline=None)
@given(st.lists(buckets, min_size=1, max_size=8), sides, sides)
def test_nearest_is_nearest_in_shape_and_does_not_enlarge_without_need(
    choice: list[Bucket], width: int, height: int
) -> None:
    found = nearest(choice, width, height)

    def distance(bucket: Bucket) -> float:
        return abs(math.log((bucket.width / bucket.height) / (width / height)))

    assert found in choice
    assert distance(found) <= min(map(distance, choice)) + 2e-6
    same = [b for b in choice if b.width * found.height == b.height * found.width]
    within = [b for b in same if b.width <= width and b.height <= height]
    if within:
        assert found == max(within)
    else:
        assert found == min(same)


def test_nearest_examples() -> None:
    choice = [Bucket(256, 256), Bucket(144, 256), Bucket(288, 512), Bucket(256, 144)]
    assert nearest(choice, 1920, 1080) == Bucket(288, 512)
    assert nearest(choice, 400, 225) == Bucket(144, 256)
    assert nearest(choice, 64, 36) == Bucket(144, 256)
    assert nearest(choice, 1080, 1920) == Bucket(256, 144)
    assert nearest(choice, 300, 290) == Bucket(256, 256)
    with pytest.raises(ValueError, match="no bucket"):
        nearest([], 10, 10)
    with pytest.raises(ValueError, match="0x10"):
        nearest(choice, 0, 10)


@settings(deadline=None)
@given(sides, sides, buckets, st.sampled_from(["cover", "contain", "stretch"]))
def test_fit_fills_the_bucket_as_the_policy_says(width, height, bucket, policy) -> None:
    g = fit(width, height, bucket, policy)
    over = (g.scaled_width - bucket.width, g.scaled_height - bucket.height)
    assert min(g.crop_left, g.crop_top, g.pad_left, g.pad_top) >= 0
    assert min(g.scaled_width, g.scaled_height) >= 1
    if policy == "stretch":
        assert over == (0, 0)
    else:
        assert 0 in over
        assert min(over) >= 0 if policy == "cover" else max(over) <= 0
        # Neither side is off by more than half a pixel from the true shape.
        exact = g.scaled_width * height / width
        other = g.scaled_height * width / height
        near = abs(exact - g.scaled_height) <= 0.5 or abs(other - g.scaled_width) <= 0.5
        assert near or 1 in (g.scaled_width, g.scaled_height)
    for size, side, crop, pad in (
        (g.scaled_width, bucket.width, g.crop_left, g.pad_left),
        (g.scaled_height, bucket.height, g.crop_top, g.pad_top),
    ):
        assert crop == max(0, size - side) // 2
        assert pad == max(0, side - size) // 2


def test_geometry_is_plain_numbers() -> None:
    g = fit(640, 272, Bucket(96, 96), "cover")
    assert json.loads(json.dumps(g.to_dict())) == {
        "height": 96,
        "width": 96,
        "scaled_width": 226,
        "scaled_height": 96,
        "crop_left": 65,
        "crop_top": 0,
        "pad_left": 0,
        "pad_top": 0,
    }


def test_fit_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="resize"):
        fit(10, 10, Bucket(16, 16), "crop")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="0x10"):
        fit(0, 10, Bucket(16, 16), "cover")
