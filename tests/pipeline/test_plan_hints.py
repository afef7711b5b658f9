"""The dataset's own columns in place of headers."""

import pytest
from helpers import (
    SMALL,
    WIDE,
    make_facts,
)
from plan_cases import BUCKETS, Prober, clips, kinds, only

HINTS = {"width": 128, "height": 64}


@pytest.mark.parametrize(
    ("hints", "fps", "windows"),
    [
        ({**HINTS, "frames": 100}, None, 5),
        ({**HINTS, "fps": 25, "duration": 4}, None, 5),
        ({**HINTS, "fps": 25, "frames": 100, "duration": 4}, None, 5),
        ({**HINTS, "duration": 4}, 12, 2),
        ({**HINTS, "fps": 25, "frames": 100}, 12, 2),
    ],
)
def test_hints_spare_the_probe(data, hints, fps, windows):
    data.rows = [{"video": "/v/a.mp4", **hints}]
    plan = data.plan(windows__fps=fps, buckets=BUCKETS)
    assert data.prober.asked == []
    [clip] = clips(plan)
    assert clip.expected_size == (128, 64)
    assert clip.buckets == (WIDE,)
    assert clip.windows == windows
    assert clip.ranges == ((0, None),)


@pytest.mark.parametrize(
    ("hints", "fps"),
    [
        ({"width": 128, "frames": 100}, None),
        (HINTS, None),
        ({**HINTS, "duration": 4}, None),
        ({**HINTS, "fps": 25}, None),
        ({**HINTS, "frames": 100}, 12),
        ({"width": 0, "height": 64, "frames": 100}, None),
        ({"width": -128, "height": 64, "frames": 100}, None),
        ({**HINTS, "frames": -1}, None),
        ({**HINTS, "fps": 25, "duration": float("nan")}, None),
        ({**HINTS, "fps": 25, "duration": float("inf")}, None),
        ({**HINTS, "duration": -4}, 12),
    ],
)
def test_hints_that_say_too_little_are_not_enough(data, hints, fps):
    data.rows = [{"video": "/v/a.mp4", **hints}]
    plan = data.plan(windows__fps=fps, buckets=BUCKETS)
    assert len(data.prober.asked) == 1
    assert only(plan).buckets == (SMALL,)


def test_an_image_is_probed_whatever_the_hints_say(data):
    data.rows = [{"video": "/v/a.png", **HINTS, "frames": 1}]
    data.prober = Prober(default=make_facts(is_image=True, frames=1, duration=None))
    data.finish(data.plan())
    assert kinds(data.plan()) == {"reusable": 1}
    assert len(data.prober.asked) == 1


def test_a_hinted_source_that_ended_before_its_header_was_recorded(data):
    """A crash between the tables: its windows are all there, and facts were never stored."""
    data.rows = [{"video": "/v/a.mp4", **HINTS, "frames": 100}]
    first = data.plan(buckets=BUCKETS)
    data.hold(only(first), 0, 5, WIDE, last=True, frames_actual=100)
    resumed = data.plan(buckets=BUCKETS)
    assert not resumed.units
    data.finish(resumed)
    assert kinds(data.plan(buckets=BUCKETS)) == {"reusable": 1}
    assert kinds(data.plan(buckets=BUCKETS, windows__tail="pad")) == {"changed": 1}
    assert kinds(data.plan(buckets=BUCKETS[:1])) == {"changed": 1}
    data.rows = [{"video": "/v/a.mp4"}]  # its size is recorded, though its header is not
    assert kinds(data.plan(buckets=BUCKETS)) == {"reusable": 1}
