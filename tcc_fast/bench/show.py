"""A comparison as a table for people."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table

from tcc_fast.bench.summary import Figure


def show_comparison(result: dict[str, Any], console: Console) -> None:
    """Print what `tcc_fast.bench.compare` returned."""
    for line in heading(result):
        console.print(line, soft_wrap=True, markup=False)
    console.print(_table(result))
    for line in footing(result):
        console.print(line, soft_wrap=True, markup=False)


def heading(result: dict[str, Any]) -> list[str]:
    """What was measured on what: a few lines."""
    machine, data = result["machine"], result["data"]
    gpu = f", {machine['gpu']}" if machine["gpu"] else ""
    known = ", ".join(f"{name} {version}" for name, version in result["versions"].items() if version)
    pngs = "PNGs" if data["pngs"] == data["images"] else f"JPEGs, {data['pngs']} PNGs" if data["pngs"] else "JPEGs"
    return [
        f"{machine['cpu']}, {machine['cores']} cores{gpu}; views on {result['device']} as {result['dtype']}",
        known,
        f"{data['name']}: {data['images']:,} images of about {data['mean_width']:.0f} x {data['mean_height']:.0f} "
        f"({pngs}, {data['bytes_per_image'] / 1000:.1f} kB each), two views of {data['image_size']} px, "
        f"batches of {data['batch_size']}",
        f"recipe: {data['recipe']}",
        f"rounds: {result['rounds']}; seconds of a turn: {result['seconds']:g}; threads or processes of each: "
        f"{result['threads']}" + ("; epochs do not end" if result["long_epochs"] else ""),
    ]


def footing(result: dict[str, Any]) -> list[str]:
    """How to read the table, what decoded, what was disturbed, and what is not in it."""
    lines = [
        "img/s: images a second; all figures: median of the rounds, lowest–highest; ratios are taken within a round"
    ]
    lines += [f"{name}: {about['note']}" for name, about in result["contenders"].items() if about["note"] != "as asked"]
    disturbed = sum(figures["disturbed"] for figures in result["results"].values())
    if result["repeated"] or disturbed:
        lines.append(
            f"the machine was slow at times: {result['repeated']} turns were repeated, and {disturbed} of those that "
            "count (marked *) were disturbed nevertheless"
        )
    unrested = sum(turn["kept"] and not turn["rested"] for turn in result["turns"])
    if unrested:
        lines.append(f"{unrested} turns began while something in this program or its children was still at work")
    return lines + [f"{name}: left out: {why}" for name, why in result["skipped"].items()]


def _table(result: dict[str, Any]) -> Table:
    has_ratio = result["baseline"] is not None
    has_share = any(figures["of_ceiling"] for figures in result["results"].values())
    ratio = [f"x {result['baseline']}"] if has_ratio else []
    table = Table("pipeline", "img/s", *ratio, *(["of decoding"] if has_share else []), "first batch", show_lines=True)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, figures in result["results"].items():
        cells = [name + (" *" if figures["disturbed"] else ""), _cell(figures["img_per_s"], count)]
        cells += [_cell(figures["ratio"], times)] if has_ratio else []
        cells += [_cell(figures["of_ceiling"], percent)] if has_share else []
        table.add_row(*cells, f"{result['contenders'][name]['first_batch_seconds']:.1f} s")
    return table


def _cell(figure: Figure | None, form: Callable[[float], str]) -> str:
    return "" if figure is None else "\n".join(spread(figure, form))


def spread(figure: Figure, form: Callable[[float], str]) -> list[str]:
    """The median as text, and ``min–max`` if they differ."""
    median, low, high = (form(figure[part]) for part in ("median", "min", "max"))
    return [median] if low == high else [median, f"{low}–{high}"]


def with_spread(figure: dict[str, float], form: Callable[[float], str], sign: str = "") -> str:
    """A figure as ``median (min–max)``."""
    median, *rest = spread(figure, form)
    return f"{median}{sign} ({rest[0]})" if rest else f"{median}{sign}"


def count(value: float) -> str:
    """Images a second as text."""
    return f"{value:,.0f}"


def times(value: float) -> str:
    """A ratio as text, in three digits."""
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def percent(value: float) -> str:
    """A share as text, in percent."""
    return f"{100 * value:.0f} %"


def say_on_stderr(sentence: str) -> None:
    """Show what goes on: on a terminal in one line that is written anew. Nothing live, which would take CPU time."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{sentence}", end="", file=sys.stderr, flush=True)
    else:
        print(sentence, file=sys.stderr, flush=True)


def end_saying() -> None:
    """Remove the line of `say_on_stderr`."""
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
