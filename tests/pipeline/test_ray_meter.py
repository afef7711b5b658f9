"""The meter on Ray, as far as it goes without a cluster; a real one is in tests/e2e."""

import pickle

import pytest

from pipeline.metrics import BUSY, COMMIT, FORECAST, QUEUE
from pipeline.stages.ray_meter import RayMeter


def test_it_is_silent_where_no_cluster_was_joined_and_travels():
    for meter in (RayMeter(), pickle.loads(pickle.dumps(RayMeter()))):
        meter.add(BUSY, 1.5)
        meter.set(FORECAST, 3)
        meter.observe(COMMIT, 0.2)
        assert meter._made == {}


def test_it_keeps_to_the_table():
    with pytest.raises(ValueError, match="queue may be one of"):
        RayMeter().set(QUEUE, 1, queue="somewhere")
    with pytest.raises(ValueError, match="is a gauge"):
        RayMeter().add(FORECAST, 1)
