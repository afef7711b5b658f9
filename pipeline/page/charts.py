"""Charts as inline SVG: plain shapes with classes, coloured by the page's style sheet.

All text is escaped. Shapes that stand beside text of the page carry none of their own and stretch;
charts with axes keep their proportions, and are described for those who do not see them.
"""

import math
from collections.abc import Sequence
from typing import Literal

from markupsafe import Markup, escape

from pipeline.page.wording import count, figure

_WIDTH = 360
_HEIGHT = 170
_FOOT = 28
_TOP = 22


def stack(parts: Sequence[tuple[str, float]], whole: float) -> Markup:
    """One bar of parts beside each other: (class, amount); ``whole`` is its full length.

    It says nothing that the text beside it does not, and is hidden from readers of the screen.
    """
    shapes, at = [], 0.0
    for kind, amount in parts:
        width = 100 * amount / whole if whole > 0 else 0.0
        if width > 0:
            shapes.append(
                Markup('<rect class="{}" x="{:.3f}" width="{:.3f}" height="1"/>').format(
                    kind, at, max(width, 0.4)
                )
            )
            at += width
    return Markup(
        '<svg class="stack" viewBox="0 0 100 1" preserveAspectRatio="none" aria-hidden="true" '
        'focusable="false">{}</svg>'
    ).format(Markup("").join(shapes))


def columns(
    bars: Sequence[tuple[str, int]], name: str, *, ticks: Literal["edges", "centres"]
) -> Markup:
    """A histogram: upright bars with counts as tool tips, the highest labelled.

    Args:
        bars: (label, count) of each; with ``edges`` a label names the left edge of its bar.
        name: what the chart shows, in a sentence; the counts are told after it.
        ticks: where the labels stand.
    """
    most = max((amount for _, amount in bars), default=0)
    highest = next((place for place, (_, amount) in enumerate(bars) if amount == most), None)
    step = _WIDTH / max(len(bars), 1)
    base = _HEIGHT - _FOOT
    shapes = []
    for place, (label, amount) in enumerate(bars):
        height = (base - _TOP) * amount / most if most else 0.0
        height = max(height, 2.0) if amount else 0.0
        left, width = place * step + step * 0.08, step * 0.84
        shapes.append(
            Markup(
                '<g><title>{}: {}</title><rect class="bar" x="{:.2f}" y="{:.2f}" width="{:.2f}" '
                'height="{:.2f}" rx="2"/></g>'
            ).format(label, count(amount), left, base - height, width, height)
        )
        if place == highest:
            x = min(max(left + width / 2, 24), _WIDTH - 24)
            shapes.append(_text(x, base - height - 6, count(amount), "value"))
    every = -(-len(bars) // 10)
    for place, (label, _) in enumerate(bars):
        if place % every == 0:
            edge = ticks == "edges"
            x = place * step + (1 if edge else step / 2)
            shapes.append(_text(x, _HEIGHT - 8, label, "tick", "start" if edge else "middle"))
    told = ", ".join(f"{label}: {count(amount)}" for label, amount in bars)
    return _framed(_WIDTH, _HEIGHT, f"{name} {told}.", shapes, base)


def channels(
    mean: Sequence[float],
    std: Sequence[float],
    least: Sequence[float],
    most: Sequence[float],
    name: str,
) -> Markup:
    """A dot for each channel's mean, a bar of a standard deviation each way, a line of its range.

    Args:
        mean, std, least, most: of each channel.
        name: what the chart shows, in a sentence.
    """
    width, height, left = 760.0, 260.0, 44.0
    low, high = min(*least, 0.0), max(*most, 0.0)
    room = (high - low) or 1.0
    low, high = low - 0.04 * room, high + 0.04 * room

    def y(value: float) -> float:
        return 10 + (height - _FOOT - 10) * (high - value) / (high - low)

    step = (width - left) / max(len(mean), 1)
    shapes = []
    for value in _round_values(low, high):
        shapes.append(
            Markup('<line class="grid" x1="{:.1f}" x2="{:.1f}" y1="{y:.2f}" y2="{y:.2f}"/>').format(
                left, width, y=y(value)
            )
        )
        shapes.append(_text(left - 8, y(value) + 4, f"{value:g}", "tick", "end"))
    every = next(n for n in (1, 2, 4, 8, 16, 32, 64, 10**9) if len(mean) / n <= 16)
    for k, (m, s, a, b) in enumerate(zip(mean, std, least, most, strict=True)):
        x = left + (k + 0.5) * step
        bar = min(step * 0.6, 14.0)
        shapes.append(
            Markup(
                "<g><title>channel {}: mean {}, standard deviation {}, from {} to {}</title>"
                '<line class="range" x1="{x:.2f}" x2="{x:.2f}" y1="{:.2f}" y2="{:.2f}"/>'
                '<rect class="bar soft" x="{:.2f}" y="{:.2f}" width="{:.2f}" height="{:.2f}"/>'
                '<circle class="dot" cx="{x:.2f}" cy="{:.2f}" r="{:.2f}"/></g>'
            ).format(
                *(k, figure(m), figure(s), figure(a), figure(b), y(b), y(a)),
                *(x - bar / 2, y(m + s), bar, max(y(m - s) - y(m + s), 1.0), y(m)),
                min(3.0, 0.4 * step),
                x=x,
            )
        )
        if k % every == 0:
            shapes.append(_text(x, height - 8, str(k), "tick"))
    return _framed(width, height, name, shapes, None)


def _round_values(low: float, high: float) -> list[float]:
    """Four to nine round values between two numbers."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(n * power for n in (1, 2, 5, 10) if n * power >= rough * 0.999)
    first = -(-low // step)
    return [round((first + k) * step, 10) for k in range(12) if (first + k) * step <= high]


def _text(x: float, y: float, text: str, kind: str, anchor: str = "middle") -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(
        kind, x, y, anchor, text
    )


def _framed(
    width: float, height: float, name: str, shapes: Sequence[Markup], base: float | None
) -> Markup:
    axis, kind = Markup(""), "chart wide"
    if base is not None:
        kind = "chart"
        axis = Markup('<line class="axis" x1="0" x2="{:.0f}" y1="{y}" y2="{y}"/>').format(
            width, y=base + 0.5
        )
    return Markup(
        '<svg class="{}" viewBox="0 0 {:.0f} {:.0f}" role="img" aria-label="{}">{}{}</svg>'
    ).format(kind, width, height, escape(name), axis, Markup("").join(shapes))
