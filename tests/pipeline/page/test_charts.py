"""Charts are well-formed, say what they show, and let no text become markup."""

import xml.etree.ElementTree as ET

import pytest

from pipeline.page.charts import channels, columns, stack

EVIL = '"><script>alert(1)</script>'


def parse(svg):
    return ET.fromstring(str(svg))


def test_a_bar_has_its_parts_in_proportion():
    rects = parse(stack([("ok", 3), ("skipped", 0), ("failed", 1)], 4)).findall("rect")
    assert [r.get("class") for r in rects] == ["ok", "failed"]
    assert [float(r.get("width")) for r in rects] == [75, 25]
    assert [float(r.get("x")) for r in rects] == [0, 75]
    assert parse(stack([("ok", 0)], 0)).findall("rect") == []


@pytest.mark.parametrize("ticks", ["edges", "centres"])
def test_columns_are_as_high_as_their_counts_and_told_in_words(ticks):
    chart = parse(columns([("a", 10), ("b", 5), (EVIL, 0), ("c", 10)], "Sources:", ticks=ticks))
    heights = [float(bar.get("height")) for bar in chart.iter("rect")]
    assert heights[1] == pytest.approx(heights[0] / 2)
    assert heights[2] == 0
    assert "a: 10, b: 5" in chart.get("aria-label")
    assert [t.text for t in chart.iter("text") if t.get("class") == "value"] == ["10"]
    assert chart.get("role") == "img"


def test_channels_stand_where_their_numbers_are():
    chart = parse(channels([0.0, 2.0], [1.0, 0.5], [-3.0, 1.0], [3.0, 4.0], EVIL))
    dots = [float(dot.get("cy")) for dot in chart.iter("circle")]
    assert dots[1] < dots[0]  # upwards
    bars = [float(bar.get("height")) for bar in chart.iter("rect")]
    assert bars[0] == pytest.approx(2 * bars[1], rel=0.01)
    assert chart.get("aria-label") == EVIL


def test_constant_latents_have_a_chart():
    parse(channels([0.0] * 64, [0.0] * 64, [0.0] * 64, [0.0] * 64, "nothing"))


def test_text_stays_text():
    svgs = [columns([(EVIL, 1)], EVIL, ticks="edges"), stack([(EVIL, 1)], 1)]
    assert all("<script" not in str(svg) for svg in svgs)
