import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.effort import Effort, Efforts, Pace

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
    found = together([Effort("a", 100.0 + 2 * n, 2.0, 8, 800) for n in range(5)]).pace(1)
    assert found.encoder_busy == 1
    assert found.windows_per_second == found.working_windows_per_second == 4
    assert found.frame_bytes_per_second == 400
    assert found.first_encoded_at == 100


def test_waiting_counts_from_an_encoders_own_first_pack_to_the_end_of_all():
    found = together([Effort("a", 0.0, 10.0, 1, 1), Effort("b", 5.0, 2.5, 1, 1)]).pace(2)
    assert found.encoder_busy == pytest.approx(12.5 / (10 + 5))


def test_rates_leave_out_the_first_pack_of_each_encoder():
    """Those of two encoders end at 10 and at 12; each then makes two packs of 4 windows in 2 s."""
    a = [Effort("a", 0.0, 10.0, 4, 1), Effort("a", 10.0, 2.0, 4, 1), Effort("a", 14.0, 2.0, 4, 1)]
    b = [Effort("b", 3.0, 9.0, 4, 1), Effort("b", 12.0, 2.0, 4, 1), Effort("b", 14.0, 2.0, 4, 1)]
    found = together([*a, *b]).pace(2)
    assert found.windows_per_second == 2 * 16 / (6 + 4)
    assert found.working_windows_per_second == 2 * 16 / 8


def test_an_encoder_in_the_place_of_another_is_no_further_one():
    """It comes where one was lost, and with each further execution of a large run."""
    a = [Effort("a", 10.0 * n, 10.0, 4, 1, 8.0) for n in range(3)]
    b = [Effort("b", 30.0 + 10 * n, 10.0, 4, 1, 8.0) for n in range(3)]
    found = together([*a, *b]).pace(1)
    assert found.encoder_busy == 1
    assert found.windows_per_second == 16 / 50
    assert found.working_windows_per_second == 16 / 40
    assert found.bare_windows_per_second == 16 / 32
    assert together([*a, *b]).pace(2).encoder_busy == 60 / (60 + 30)


def test_nothing_encoded_has_no_share():
    nothing = Efforts().pace(1)
    assert nothing == Pace()
    assert together([Effort("a", 0.0, 1.0, 1, 1)]).pace(1).windows_per_second is None  # no rate


@given(EFFORTS, st.integers(0, 9))
def test_parts_of_a_run_make_the_whole(efforts, cut):
    whole, part = together(efforts), together(efforts[cut:])
    part.merge(together(efforts[:cut]))
    assert part == whole
    share = whole.pace(2).encoder_busy
    assert share is None or share > 0


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.integers(1, 5)), max_size=20),
    st.integers(1, 3),
)
def test_no_rate_is_above_that_of_encoders_that_never_wait(turns, lost_after):
    """Two places; in each, encoders work in turn, wait, and are replaced."""
    clock, count, found = [0.0, 0.0], [0, 0], Efforts()
    for place, wait, seconds in turns:
        clock[place] += wait
        name = f"{place}-{count[place] // lost_after}"
        found.add(Effort(name, clock[place], seconds, 1 + wait, 1, seconds / 2))
        clock[place] += seconds
        count[place] += 1
    pace = found.pace(2)
    assert pace.encoder_busy is None or pace.encoder_busy <= 1
    if pace.windows_per_second is not None:
        assert pace.windows_per_second <= pace.working_windows_per_second * (1 + 1e-9)
        assert pace.working_windows_per_second <= pace.bare_windows_per_second


def test_the_bare_rate_is_by_the_time_in_the_vae_without_first_packs():
    def bare(efforts):
        return together(efforts).pace(2).bare_windows_per_second

    a = [Effort("a", 0.0, 9.0, 4, 1, 8.0), Effort("a", 9.0, 3.0, 4, 1, 2.0)]
    assert bare(a) == 2
    both = [*a, Effort("b", 0.5, 9.0, 4, 1, 8.0), Effort("b", 9.5, 3.0, 4, 1, 1.0)]
    assert bare(both) == 2 * 8 / 3
    assert bare(a[:1]) is None
    assert bare([Effort("a", t, 1.0, 4, 1) for t in (0.0, 1.0)]) is None
    assert bare([]) is None


def test_an_encoder_that_is_always_in_the_vae_is_at_the_speed_of_light():
    found = together([Effort("a", 3.0 * n, 3.0, 6, 1, 3.0) for n in range(4)]).pace(1)
    assert found.windows_per_second == found.bare_windows_per_second == 2
