"""Plots as SVG by hand: bars, and lines over a logarithmic scale. Readable on light and on dark.

Nothing but text goes in, so the same figures give the same file, byte for byte.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

import msgspec

WIDTH = 760
_LABELS = 270  # where bars begin
_VALUES = 90  # room for the text behind the longest bar
_STEP = 26
_BAR = 16
_TOP = 62
_STYLE = """
text { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #1f2328; }
.title { font-weight: 600; font-size: 15px; }
.quiet { fill: #59636e; font-size: 12px; }
.bar { fill: #afb8c1; }
.ours { fill: #0969da; }
.first { fill: #1f2328; opacity: 0.55; }
.grid { stroke: #d1d9e0; stroke-width: 1; }
.line { fill: none; stroke-width: 2; stroke: #818b98; }
.line.ours { stroke: #0969da; stroke-width: 3; fill: none; }
.dot { fill: #818b98; }
.dot.ours { fill: #0969da; }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc; }
  .quiet { fill: #9198a1; }
  .bar { fill: #59636e; }
  .ours, .dot.ours { fill: #4493f8; }
  .first { fill: #f0f6fc; }
  .grid { stroke: #3d444d; }
  .line { stroke: #9198a1; }
  .line.ours { stroke: #4493f8; }
  .dot { fill: #9198a1; }
}
"""


class Bar(msgspec.Struct, frozen=True):
    """One row. `first` is a mark on the bar, as far along as its value; without a `value` the row
    says `text` only."""

    label: str
    value: float | None
    text: str
    ours: bool = False
    first: float | None = None


class Line(msgspec.Struct, frozen=True):
    """Points (x, y), both above zero."""

    label: str
    points: Sequence[tuple[float, float]]
    ours: bool = False


def bars(title: str, note: str, rows: Sequence[Bar]) -> str:
    """Horizontal bars from zero, in the order given."""
    longest = max((row.value for row in rows if row.value is not None), default=1.0) or 1.0
    room = WIDTH - _LABELS - _VALUES
    parts = []
    for at, row in enumerate(rows):
        y = _TOP + at * _STEP
        middle = y + _BAR - 4
        parts.append(_text(_LABELS - 10, middle, row.label, anchor="end"))
        if row.value is None:
            parts.append(_text(_LABELS, middle, row.text, kind="quiet"))
            continue
        width = max(1.0, room * row.value / longest)
        kind = "bar ours" if row.ours else "bar"
        parts.append(_box(_LABELS, y, width, kind))
        if row.first is not None:
            mark = _LABELS + max(0.0, room * row.first / longest - 1.5)
            parts.append(_box(mark, y, 3, "first"))
        parts.append(_text(_LABELS + width + 6, middle, row.text))
    return _page(title, note, _TOP + len(rows) * _STEP + 6, parts)


def lines(
    title: str,
    note: str,
    series: Sequence[Line],
    xticks: Sequence[tuple[float, str]],
    yticks: Sequence[tuple[float, str]],
) -> str:
    """Both scales logarithmic, from the first tick to the last; labels at the lines' ends."""
    left, right, top, bottom = 70.0, WIDTH - 250.0, _TOP + 4.0, _TOP + 300.0

    def across(x: float) -> float:
        return left + (right - left) * _along(x, xticks)

    def down(y: float) -> float:
        return bottom - (bottom - top) * _along(y, yticks)

    parts = []
    for value, text in yticks:
        y = down(value)
        parts += [_rule(left, y, right, y), _text(left - 8, y + 4, text, "quiet", "end")]
    for value, text in xticks:
        x = across(value)
        parts += [_rule(x, top, x, bottom), _text(x, bottom + 20, text, "quiet", "middle")]
    ends = _apart([down(line.points[-1][1]) for line in series])
    for line, end in zip(series, ends, strict=True):
        points = [(across(x), down(y)) for x, y in line.points]
        kind = " ours" if line.ours else ""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline class="line{kind}" points="{path}"/>')
        parts += [
            f'<circle class="dot{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in points
        ]
        parts.append(_text(points[-1][0] + 12, end + 4, line.label))
    return _page(title, note, bottom + 36, parts)


def _along(value: float, ticks: Sequence[tuple[float, str]]) -> float:
    low, high = math.log(ticks[0][0]), math.log(ticks[-1][0])
    return (math.log(value) - low) / (high - low)


def _apart(places: Sequence[float], least: float = 17.0) -> list[float]:
    """The same places, moved as little as it takes for labels not to lie on each other: those that
    would are spread around their middle."""
    order = sorted(range(len(places)), key=lambda each: places[each])
    groups: list[list[int]] = []
    for at in order:
        groups.append([at])
        while len(groups) > 1 and _bottom(groups[-2], places, least) + least > _top(
            groups[-1], places, least
        ):
            last = groups.pop()
            groups[-1] += last
    moved = [0.0] * len(places)
    for group in groups:
        top = _top(group, places, least)
        for number, at in enumerate(group):
            moved[at] = top + number * least
    return moved


def _top(group: Sequence[int], places: Sequence[float], least: float) -> float:
    middle = sum(places[at] for at in group) / len(group)
    return middle - (len(group) - 1) * least / 2


def _bottom(group: Sequence[int], places: Sequence[float], least: float) -> float:
    return _top(group, places, least) + (len(group) - 1) * least


def _page(title: str, note: str, height: float, parts: Sequence[str]) -> str:
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" '
        f'width="{WIDTH}" height="{height:.0f}" role="img" aria-label="{_quoted(title)}">',
        f"<style>{_STYLE}</style>",
        _text(10, 22, title, kind="title"),
        _text(10, 42, note, kind="quiet"),
    ]
    return "\n".join([*head, *parts, "</svg>"]) + "\n"


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    styled = f' class="{kind}"' if kind else ""
    return (
        f'<text{styled} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(str(text))}</text>'
    )


def _box(x: float, y: float, width: float, kind: str) -> str:
    return f'<rect class="{kind}" x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_BAR}" rx="2"/>'


def _rule(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="grid" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _quoted(text: str) -> str:
    return escape(text, {'"': "&quot;"})
