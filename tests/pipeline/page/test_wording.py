import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.page.bins import duration_bins
from pipeline.page.wording import NONE, bucket_size, figure, last_part, share, shown, span


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("/videos/a?b.mp4", "/videos/a?b.mp4"),
        ("https://host/a.mp4?X-Amz-Signature=s3cret", "https://host/a.mp4?…"),
        ("https://me:s3cret@host/a.mp4", "https://…@host/a.mp4"),
        ("cannot read https://h/a?sig=s3cret: gone", "cannot read https://h/a?… gone"),
        ("tar://a.mp4::https://h/0.tar?t=s3cret", "tar://a.mp4::https://h/0.tar?…"),
        ("a\x1b[31m\nb", "a\\x1b[31m\\nb"),
    ],
)
def test_texts_are_one_line_without_secrets(text, want):
    assert shown(text) == want


def test_names():
    assert last_part("s3://b/x/clip.mp4?versionId=3") == "clip.mp4"
    assert last_part("/x/clip.mp4") == "clip.mp4"
    assert bucket_size("h96w160").split() == ["96", "×", "160"]  # noqa: RUF001
    assert shown(None) == NONE


@pytest.mark.parametrize(
    ("part", "whole", "want"),
    [
        (0, 3, "0%"),
        (1, 3, "33.3%"),
        (3, 3, "100%"),
        (1, 10**6, "<0.1%"),
        (10**6 - 1, 10**6, ">99.9%"),
        (1, 0, NONE),
    ],
)
def test_a_share_is_never_nothing_or_all_where_it_is_not(part, whole, want):
    assert share(part, whole) == want


@pytest.mark.parametrize(
    ("seconds", "want"),
    [
        (0.25, "0.25 s"),
        (9.96, "10 s"),
        (99.4, "99 s"),
        (7140, "119 min"),
        (7200, "2 h"),
        (7500, "2 h 5 min"),
        (300_000, "3 d 11 h"),
        (None, NONE),
        (float("nan"), NONE),
    ],
)
def test_durations(seconds, want):
    assert span(seconds) == want


@given(st.floats(-1e12, 1e12, allow_nan=False).filter(lambda x: abs(x) > 1e-9))
def test_figures_are_right_to_three_digits(value):
    text = figure(value)
    assert float(text.replace(",", "")) == pytest.approx(value, rel=0.006)


@given(st.lists(st.floats(0, 1e6), max_size=60))
def test_every_value_is_in_one_bin(values):
    bins = duration_bins()
    for value in values:
        bins.add(value)
    shown_bins = bins.trimmed()
    assert sum(count for _, count in shown_bins) == bins.total == len(values)
    assert len(shown_bins) == 0 or len(shown_bins) >= 6


def test_the_edges_of_bins_belong_to_the_right():
    bins = duration_bins()
    for value in (0.99, 1, 3599.9, 3600, 1e9):
        bins.add(value)
    assert dict(bins.trimmed()) == {
        **dict.fromkeys(bins.labels, 0),
        **{"0": 1, "1 s": 1, "15 m": 1, "1 h": 2},
    }
