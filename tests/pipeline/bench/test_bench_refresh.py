"""The benchmark's cache is one that a refresh finds nothing, or one source, to do in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.bench.build import bench_config, build, change_one
from pipeline.bench.refresh import Measured, Parts, Whole, at_windows, measure_parts, measure_whole
from pipeline.cache import LatentCache

SOURCES, WINDOWS = 30, 3


@pytest.fixture
def built(tmp_path):
    build(tmp_path, SOURCES, WINDOWS)
    return tmp_path


def test_refreshes_of_what_was_built(built):
    cache = LatentCache.open(bench_config(built).output.uri)
    assert cache.sources().num_rows == SOURCES
    samples = cache.samples()
    assert samples.num_rows == SOURCES * WINDOWS
    assert len(set(samples["sample_id"].to_pylist())) == SOURCES * WINDOWS
    measure_parts(built)
    measure_whole(built, 0)
    change_one(built)
    with pytest.raises(RuntimeError, match="not all is as it was built"):
        measure_parts(built)
    measure_whole(built, 1)  # one image, encoded
    with pytest.raises(RuntimeError, match="not as expected"):
        measure_whole(built, 1)


@given(
    st.lists(st.integers(1, 10**7), min_size=2, max_size=5, unique=True),
    st.integers(1, 100),
    st.integers(0, 10**4),
    st.integers(1, 10**8),
)
def test_a_line_is_found_again(sizes, base, slope, far):
    def line(windows):
        return Whole(base + slope * windows / 1e6, 10**8 + slope * windows)

    measured = [Measured(n, n, Parts(0, 0), line(n), line(n)) for n in sizes]
    found, expected = at_windows(measured, far), line(far)
    spread = 1e-6 * max(1, far / (max(sizes) - min(sizes)))
    assert found.seconds == pytest.approx(expected.seconds, rel=spread)
    assert found.peak_resident_bytes == pytest.approx(expected.peak_resident_bytes, rel=spread)
