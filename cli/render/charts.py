"""A telling series as inline SVG: no library, no script, readable by screen readers, coloured by the page's style."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from html import escape

from cli.render import words
from wardround.models.document import Chart, Document

WIDTH, HEIGHT = 640, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 84, 12, 12, 24
_MOST_POINTS = 600

Point = tuple[float, float | int | None]
Scale = Callable[[float], float]


def chart_svg(chart: Chart, document: Document) -> str:
    """Return the chart as an ``<svg>`` element; the observed window is shaded, the onset marked. Empty if no value."""
    points = _thin(list(zip(chart.seconds, chart.values, strict=True)))
    seen = [value for _, value in points if value is not None]
    if not seen:
        return ""
    low, high = _bounds(seen)
    last = max(chart.seconds) or 1.0

    def x(second: float) -> float:
        return _LEFT + min(1.0, max(0.0, second / last)) * (WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return HEIGHT - _BOTTOM - (value - low) / (high - low) * (HEIGHT - _TOP - _BOTTOM)

    start = (document.window.start - chart.start).total_seconds()
    end = (document.window.end - chart.start).total_seconds()
    label = (
        f"{words.plain(chart.title)}: from {words.quantity(min(seen), chart.unit)} "
        f"to {words.quantity(max(seen), chart.unit)}"
    )
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">',
        _shade(x(start), x(end)),
        *(_level(y(value), words.quantity(value, chart.unit)) for value in (low, (low + high) / 2, high)),
        *_onset(chart, document, x, last),
        *(_path(stretch) for stretch in _stretches(points, x, y)),
        *(_point(x(t), y(v), f"{words.quantity(v, chart.unit)} after {t:g} s") for t, v in points if v is not None),
        f'<text class="axis" x="{_LEFT}" y="{HEIGHT - 7}">{words.clock(chart.start)}</text>',
        f'<text class="axis end" x="{WIDTH - _RIGHT}" y="{HEIGHT - 7}">+ {words.duration(last)}</text>',
        "</svg>",
    ]
    return "".join(parts)


def _shade(left: float, right: float) -> str:
    size = f'width="{max(0.0, right - left):.1f}" height="{HEIGHT - _TOP - _BOTTOM}"'
    return f'<rect class="window" x="{left:.1f}" y="{_TOP}" {size}/>'


def _bounds(seen: list[float | int]) -> tuple[float, float]:
    """Return the axis' ends, zero included, so that a small change does not look like a cliff."""
    low, high = float(min(seen)), float(max(seen))
    low = min(0.0, low)
    return (low, high) if high > low else (low, low + 1.0)


def _thin(points: list[Point]) -> list[Point]:
    step = math.ceil(len(points) / _MOST_POINTS)
    return points[::step] if step > 1 else points


def _level(height: float, text: str) -> str:
    return (
        f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{height:.1f}" y2="{height:.1f}"/>'
        f'<text class="axis end" x="{_LEFT - 6}" y="{height + 4:.1f}">{escape(text)}</text>'
    )


def _point(x: float, y: float, text: str) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{escape(text)}</title></circle>'


def _onset(chart: Chart, document: Document, x: Scale, last: float) -> Iterator[str]:
    for hypothesis in words.found(document):
        if hypothesis.onset is None or chart.evidence not in hypothesis.supporting:
            continue
        second = (hypothesis.onset - chart.start).total_seconds()
        if 0 <= second <= last:
            yield (
                f'<line class="onset" x1="{x(second):.1f}" x2="{x(second):.1f}" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}"/>'
                f'<text class="axis" x="{x(second) + 4:.1f}" y="{_TOP + 10}">onset</text>'
            )


def _stretches(points: list[Point], x: Scale, y: Scale) -> Iterator[list[tuple[float, float]]]:
    """Yield the runs of values without a gap, in pixels."""
    run: list[tuple[float, float]] = []
    for second, value in points:
        if value is None:
            if run:
                yield run
            run = []
        else:
            run.append((x(second), y(value)))
    if run:
        yield run


def _path(stretch: list[tuple[float, float]]) -> str:
    return '<polyline points="' + " ".join(f"{a:.1f},{b:.1f}" for a, b in stretch) + '"/>'
