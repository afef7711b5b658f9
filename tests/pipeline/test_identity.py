import hashlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.identity import sample_id, source_id, stable_hash

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # (infinity has no place in JSON)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
WINDOW = {
    "source": "s",
    "version": "v1",
    "first_frame": 34,
    "pts": [0, 1, 2],
    "time_base": (1, 25),
    "geometry": {"height": 32, "width": 32, "crop_left": 0},
    "encoding": {"filter": "bicubic", "encoder_sha256": "ab", "dtype": "float16"},
}
OTHER = {
    "source": ["t", "S", ""],
    "version": ["v2", ""],
    "first_frame": [0, 17],  # else the windows of a frozen picture were one sample
    "pts": [[0, 1], [0, 1, 3], [1, 0, 2], [0, 1, 2, 2]],
    "time_base": [(1, 24), (2, 25), (25, 1)],
    "geometry": [
        {"height": 48, "width": 32, "crop_left": 0},
        {"height": 32, "width": 32, "crop_left": 1},
        {"height": 32, "width": 32},
    ],
    "encoding": [
        {"filter": "area", "encoder_sha256": "ab", "dtype": "float16"},
        {"filter": "bicubic", "encoder_sha256": "ac", "dtype": "float16"},
        {"filter": "bicubic", "encoder_sha256": "ab", "dtype": "float32"},
        {"filter": "bicubic", "encoder_sha256": "ab", "dtype": "float16", "seed": 0},
    ],
}


def test_the_formula_is_the_documented_one():
    text = '["source","caf\\u00e9.mp4",0.5,null]'
    expected = hashlib.sha256(text.encode()).hexdigest()[:32]
    assert source_id("café.mp4", 0.5, None) == expected


@given(st.dictionaries(st.text(), JSON))
def test_the_order_of_keys_does_not_matter(value):
    assert stable_hash(value) == stable_hash(dict(reversed(value.items())))


@given(st.lists(JSON, min_size=2, max_size=2, unique_by=repr))
def test_different_values_have_different_hashes(values):
    one, other = values
    assert stable_hash(one) != stable_hash(other)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_cannot_hold_are_refused(value):
    with pytest.raises(ValueError, match="JSON"):
        stable_hash([value])


def test_what_json_cannot_hold_is_refused():
    with pytest.raises(TypeError):
        stable_hash({"a": object()})


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_clips_of_one_video_are_sources_of_their_own(start, end):
    ids = [source_id("a", s, e) for s in (None, start) for e in (None, end)]
    assert len(set(ids)) == 4


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, vs in OTHER.items() for v in vs])
def test_every_part_of_a_resolved_window_is_identity(name, value):
    assert sample_id(**WINDOW) != sample_id(**{**WINDOW, name: value})


def test_a_sample_id_does_not_depend_on_container_types():
    assert sample_id(**{**WINDOW, "pts": (0, 1, 2)}) == sample_id(**WINDOW)
    assert sample_id(**{**WINDOW, "geometry": dict(reversed(WINDOW["geometry"].items()))}) == (
        sample_id(**WINDOW)
    )
