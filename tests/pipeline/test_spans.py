"""Places: members of tar files as files of their own."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.spans import Place, Span, find_place, member_uri, name_of


@given(st.text(min_size=1), st.text(), st.integers(0, 2**50), st.integers(0, 2**50))
def test_a_place_is_in_the_version(member, version, offset, size):
    place = Place("s3://b/x.tar", version, offset, size)
    uri = member_uri(member, place.tar)
    assert find_place(uri, place.version) == place
    assert name_of(uri) == member
    assert find_place(uri, None) is None
    assert find_place("s3://b/x.mp4", place.version) is None
    assert find_place(uri, "12-1700000000") is None


DATA = bytes(range(256)) * 5


@given(st.integers(0, 600), st.integers(0, 600), st.data())
def test_a_span_is_a_file_of_its_own(offset, size, data):
    span = Span(lambda a, b: DATA[offset + a : offset + b], size)
    plain = io.BytesIO(DATA[offset : offset + size])
    for _ in range(data.draw(st.integers(0, 8))):
        target = data.draw(st.integers(0, 700))
        base = data.draw(st.sampled_from([(0, 0), (1, span.tell()), (2, size)]))
        assert span.seek(target - base[1], base[0]) == target
        plain.seek(target)
        count = data.draw(st.integers(-1, 700))
        assert span.read(count) == plain.read(count)
        assert span.tell() == plain.tell()
    with pytest.raises(ValueError, match="negative"):
        span.seek(-1)
