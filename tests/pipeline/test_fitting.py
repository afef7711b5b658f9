import pytest
from helpers import make_config
from hypothesis import given
from hypothesis import strategies as st

from pipeline.fitting import choose_decode, fit_packs, room_for_pack, store_for_packs
from pipeline.measured import NOTHING, Measured
from pipeline.recipe import window_bytes

GB = 10**9
MIB = 2**20


@pytest.mark.parametrize("wanted", ["stage", "in_actor"])
def test_what_is_configured_is_taken(wanted):
    config = make_config(run__decode=wanted)
    for rate in (None, 1.0, 10.0**12):
        assert choose_decode(config, Measured(rate), GB) == wanted


def test_frames_of_ten_seconds_have_to_fit_into_half_of_the_object_store():
    config = make_config()
    assert config.run.decode == "auto"
    assert choose_decode(config, NOTHING, GB) == "stage"
    assert choose_decode(config, Measured(0.049 * GB), GB) == "stage"
    assert choose_decode(config, Measured(0.051 * GB), GB) == "in_actor"
    assert choose_decode(config, Measured(0.051 * GB), 8 * GB) == "stage"


def test_a_window_has_to_be_no_larger_than_a_pack_may_be():
    config = make_config(run__decode_tasks=2)
    largest = max(window_bytes(bucket) for bucket in config.bucket_list)
    enough = store_for_packs(2, 1, largest)
    assert choose_decode(config, NOTHING, enough) == "stage"
    assert choose_decode(config, NOTHING, enough - 16) == "in_actor"


@given(st.integers(1, 500), st.integers(1, 16), st.integers(1, 4 * 2**30))
def test_another_decode_task_fits_beside_all_others(decode_tasks, encoders, pack_bytes):
    """As Ray Data counts: `ReservationOpResourceAllocator` of three operators."""
    store = store_for_packs(decode_tasks, encoders, pack_bytes)
    used = store / 2
    reserved, shared = 0.5 * used / 3, 0.5 * used
    waiting = max(0, 2 * encoders * pack_bytes - reserved / 2)
    at_work = 2 * (decode_tasks - 1) * pack_bytes + waiting
    left = shared - max(0, at_work - reserved / 2)
    assert 2 * pack_bytes <= left / 3 + 1
    config = make_config(run__decode_tasks=decode_tasks, run__encoders=encoders)
    assert room_for_pack(config, store) == pack_bytes


@given(st.integers(0, 10**10))
def test_packs_are_made_smaller_where_the_store_has_no_room_for_them(store):
    config = make_config(run__pack_bytes=64 * MIB)
    packs = fit_packs(config, store, "stage").run.pack_bytes
    assert packs == max(1, min(64 * MIB, room_for_pack(config, store)))
    assert fit_packs(config, store, "in_actor") == config
