"""A comparison as a bar chart in SVG."""

from __future__ import annotations

from typing import Any
from xml.sax.saxutils import escape

from tcc_fast.bench.show import count, heading, times

WIDTH, LEFT, RIGHT, ROW, TOP = 720, 110, 190, 30, 64
"""Pixels: of the image, left of the bars, right of the longest one, of a row, above the first one."""


def comparison_svg(result: dict[str, Any]) -> str:
    """Median img/s of each contender as a bar, slowest to fastest round as a line across its end."""
    results = result["results"]
    scale = (WIDTH - LEFT - RIGHT) / max(figures["img_per_s"]["max"] for figures in results.values())
    height = TOP + ROW * len(results) + 12
    lines = heading(result)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        _text(10, 20, "Images a second, two views of each: median, slowest and fastest round", weight="bold"),
        _text(10, 38, lines[2], size=11),
        _text(10, 54, lines[0], size=11),
    ]
    for row, (name, figures) in enumerate(results.items()):
        top = TOP + ROW * row
        middle = top + ROW / 2
        low, median, high = (LEFT + scale * figures["img_per_s"][part] for part in ("min", "median", "max"))
        colour = "#9aa0a6" if name not in ("resident", "ffcv", "dali") else "#3b78c3"
        ratio = f"  ({times(figures['ratio']['median'])} x {result['baseline']})" if figures["ratio"] else ""
        parts += [
            _text(LEFT - 8, middle + 4, name, anchor="end"),
            f'<rect x="{LEFT}" y="{top + 5}" width="{median - LEFT:.1f}" height="{ROW - 10}" fill="{colour}"/>',
            f'<path d="M{low:.1f} {middle}H{high:.1f}M{low:.1f} {middle - 5}v10M{high:.1f} {middle - 5}v10" '
            'stroke="black" fill="none"/>',
            _text(high + 8, middle + 4, f"{count(figures['img_per_s']['median'])}{ratio}"),
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _text(x: float, y: float, text: str, size: int = 13, anchor: str = "start", weight: str = "normal") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" font-weight="{weight}">'
        f"{escape(text)}</text>"
    )
