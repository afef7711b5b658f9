import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.effort import Effort, Efforts

EFFORTS = st.lists(
    st.builds(
        Effort,
        encoder=st.sampled_from(["a", "b"]),
        begun=st.integers(0, 99).map(float),
        seconds=st.integers(1, 9).map(float),
        windows=st.integers(1, 20),
        frame_bytes=st.integers(1, 999),
        vae_seconds=st.integers(0, 9).map(float),
    ),
    unique_by=lambda effort: effort.ended,
)


def together(efforts):
    found = Efforts()
    for effort in efforts:
        found.add(effort)
    return found


def test_an_encoder_that_never_waits_is_busy_and_start_up_is_apart():
    found = together([Effort("a", 100.0 + 2 * n, 2.0, 8, 800) for n in range(5)])
    assert found.busy_share == 1
    assert found.windows_per_second == 4
    assert found.bytes_per_second == 400
    assert found.to_dict()["first_encoded_at"] == 100


def test_waiting_counts_from_an_encoders_own_first_pack_to_the_end_of_all():
    found = together([Effort("a", 0.0, 10.0, 1, 1), Effort("b", 5.0, 2.5, 1, 1)])
    assert found.busy_share == pytest.approx(12.5 / (10 + 5))


def test_nothing_encoded_has_no_share():
    assert Efforts().busy_share is None
    assert Efforts().windows_per_second is None
    assert set(Efforts().to_dict().values()) == {None, 0.0}
    assert together([Effort("a", 0.0, 1.0, 1, 1)]).windows_per_second is None  # one pack is no rate


@given(EFFORTS, st.integers(0, 9))
def test_parts_of_a_run_make_the_whole(efforts, cut):
    whole, part = together(efforts), together(efforts[cut:])
    part.merge(together(efforts[:cut]))
    assert part == whole
    assert whole.busy_share is None or whole.busy_share > 0


def test_the_bare_rate_is_by_the_time_in_the_vae_without_first_packs():
    a = [Effort("a", 0.0, 9.0, 4, 1, 8.0), Effort("a", 9.0, 3.0, 4, 1, 2.0)]
    assert together(a).bare_windows_per_second == 2
    both = [*a, Effort("b", 0.5, 9.0, 4, 1, 8.0), Effort("b", 9.5, 3.0, 4, 1, 1.0)]
    assert together(both).to_dict()["bare_windows_per_second"] == 2 * 8 / 3
    assert together(a[:1]).bare_windows_per_second is None
    assert together([Effort("a", t, 1.0, 4, 1) for t in (0.0, 1.0)]).bare_windows_per_second is None
    assert Efforts().bare_windows_per_second is None


def test_an_encoder_that_is_always_in_the_vae_is_at_the_speed_of_light():
    found = together([Effort("a", 3.0 * n, 3.0, 6, 1, 3.0) for n in range(4)])
    assert found.windows_per_second == found.bare_windows_per_second == 2
