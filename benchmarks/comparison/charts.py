"""Bars as SVG, readable on a light and on a dark page."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from html import escape

from comparison.report import figure
from comparison.results import Score
from comparison.rows import CONTENDERS, Row

__all__ = ["chart"]

WIDTH, LEFT, RIGHT = 760, 250, 90
"""Pixels: of all, for the names, and for the figures behind the bars."""
TOP, BAR, GAP = 44, 18, 8
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328; }
  .title { font-weight: 600; }
  .ours { fill: #1a7f37; } .earlier { fill: #8cc79b; } .peer { fill: #5b7fb5; } .part { fill: #b9c4d4; }
  .range { stroke: #1f2328; stroke-width: 1.5; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    .ours { fill: #3fb950; } .earlier { fill: #2b5d37; } .peer { fill: #6f9be0; } .part { fill: #4a5a70; }
    .range { stroke: #e6edf3; }
  }
"""


def chart(row: Row, scores: Sequence[Score]) -> str:
    """Return a chart of one row: medians as bars, and ranges as lines upon them."""
    shown = [score for score in scores if score.values and not score.failure]
    most = max((max(_figures(row, score)) for score in shown), default=1.0)
    height = TOP + len(shown) * (BAR + GAP)
    bars = [_bar(row, score, TOP + number * (BAR + GAP), most) for number, score in enumerate(shown)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
            f'role="img" aria-label="{escape(row.title)}">',
            f"<style>{STYLE}</style>",
            f'<text class="title" x="0" y="16">{escape(row.title)}</text>',
            f'<text x="0" y="34">{escape(_axis(row))}</text>',
            *bars,
            "</svg>\n",
        ]
    )


def _axis(row: Row) -> str:
    if row.in_ms:
        return "milliseconds, less is better"
    return f"{row.unit}s per second over the raw limit ({row.calibration}), more is better"


def _figures(row: Row, score: Score) -> list[float]:
    return score.values if row.in_ms else score.ratios


def _bar(row: Row, score: Score, y: int, most: float) -> str:
    figures = _figures(row, score)
    contender = CONTENDERS[score.contender]
    least_x, median_x, most_x = (_x(one, most) for one in (min(figures), statistics.median(figures), max(figures)))
    middle, base = y + BAR / 2, y + BAR - 5
    return "\n".join(
        [
            f'<text x="{LEFT - 8}" y="{base}" text-anchor="end">{escape(contender.title.replace("`", ""))}</text>',
            f'<rect class="{_kind(score.contender)}" x="{LEFT}" y="{y}" width="{median_x - LEFT:.1f}" height="{BAR}"/>',
            f'<line class="range" x1="{least_x:.1f}" x2="{most_x:.1f}" y1="{middle}" y2="{middle}"/>',
            f'<text x="{most_x + 8:.1f}" y="{base}">{figure(statistics.median(figures))}</text>',
        ]
    )


def _x(value: float, most: float) -> float:
    return LEFT + value / most * (WIDTH - LEFT - RIGHT)


def _kind(name: str) -> str:
    contender = CONTENDERS[name]
    if contender.is_ours:
        return "earlier" if contender.environment == "before" else "ours"
    return "peer" if contender.is_whole else "part"
