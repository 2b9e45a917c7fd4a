"""How are counts of each step drawn? As inline SVG without a script or a style in it, so that a strict policy lets it stand.

Torch-free.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT = 960, 180
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 8, 12, 24
_MOST_BARS = 240


def bars(title: str, series: Sequence[tuple[str, str, Sequence[int]]], *, stacked: bool) -> str:
    """A bar chart of whole numbers by step.

    Args:
        title: what it shows, for who cannot see it.
        series: name, CSS class and one number a step of each; they may differ in length.
        stacked: whether the numbers of a step are put on one another, or side by side.

    Returns:
        An ``<svg>`` element. Beyond 240 steps a bar stands for several, and shows the largest of them.

    Example:
        >>> bars("compiles", [("forward", "f", (3, 0))], stacked=True).count("<rect")
        1
    """
    steps = max((len(values) for _, _, values in series), default=0)
    each = max(-(-steps // _MOST_BARS), 1)
    columns = [_largest(series, start, min(start + each, steps), stacked) for start in range(0, steps, each)]
    highest = max((sum(column) if stacked else max(column) for column in columns), default=0) or 1
    width = (WIDTH - _LEFT - _RIGHT) / max(len(columns), 1)
    scale = (HEIGHT - _TOP - _BOTTOM) / highest
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}" class="chart">',
        *_axes(highest, steps, each),
    ]
    for index, column in enumerate(columns):
        first, last = index * each, min(index * each + each, steps) - 1
        when = f"step {first}" if first == last else f"steps {first} to {last}, the most of one"
        parts += _column(column, series, when, _LEFT + index * width, width * 0.84, scale, stacked)
    return "".join(parts) + "</svg>"


def _largest(series: Sequence[tuple[str, str, Sequence[int]]], start: int, stop: int, stacked: bool) -> list[int]:
    rows = [[values[step] if step < len(values) else 0 for _, _, values in series] for step in range(start, stop)]
    return max(rows, key=sum) if stacked else [max(column) for column in zip(*rows, strict=True)]


def _column(
    column: Sequence[int],
    series: Sequence[tuple[str, str, Sequence[int]]],
    when: str,
    left: float,
    width: float,
    scale: float,
    stacked: bool,
) -> list[str]:
    found = []
    floor = float(HEIGHT - _BOTTOM)
    thin = width if stacked else width / len(column)
    for order, (value, (name, look, _)) in enumerate(zip(column, series, strict=True)):
        if not value:
            continue
        tall = max(value * scale, 0.5)
        x = left if stacked else left + order * thin
        top = floor - tall
        found.append(
            f'<rect class="{escape(look)}" x="{x:.2f}" y="{top:.2f}" width="{max(thin, 0.5):.2f}" height="{tall:.2f}">'
            f"<title>{when}: {value:,} {escape(name)}</title></rect>"
        )
        if stacked:
            floor = top
    return found


def _axes(highest: int, steps: int, each: int) -> list[str]:
    floor = HEIGHT - _BOTTOM
    lines = [f'<line class="axis" x1="{_LEFT}" y1="{floor}" x2="{WIDTH - _RIGHT}" y2="{floor}"/>']
    for value, y in ((highest, _TOP), (0, floor)):
        lines.append(f'<text class="tick" x="{_LEFT - 6}" y="{y + 4}" text-anchor="end">{value:,}</text>')
    if steps:
        lines.append(f'<text class="tick" x="{_LEFT}" y="{HEIGHT - 6}">step 0</text>')
    if steps > 1:
        lines.append(f'<text class="tick" x="{WIDTH - _RIGHT}" y="{HEIGHT - 6}" text-anchor="end">step {steps - 1}</text>')
    return lines
