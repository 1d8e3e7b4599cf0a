"""What a step takes, as tables for people."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from tcc_fast.bench.show import count, footing, heading, percent, times, with_spread
from tcc_fast.bench.stepping import FED, PLAIN


def show_step(result: dict[str, Any], console: Console) -> None:
    """Print what `tcc_fast.bench.step.bench_step` returned."""
    for line in heading(result):
        console.print(line, soft_wrap=True, markup=False)
    for head, rows in ((CONTENDERS, contender_rows(result)), (PARTS_HEAD, part_rows(result))):
        table = Table(*head)
        for column in table.columns[1:]:
            column.justify = "right"
        for row in rows:
            table.add_row(*row)
        console.print(table)
    for line in [*remarks(result), *footing(result)]:
        console.print(line, soft_wrap=True, markup=False)


CONTENDERS = ("whole step", "img/s", f"x {PLAIN}", "of fixed batch")
PARTS_HEAD = ("part of the step", "ms", "share", "floor, ms", "set by", "peak, GiB")


def contender_rows(result: dict[str, Any]) -> list[list[str]]:
    """One row for each way to train, fastest first but for the recorded step, which has its rounds later."""
    rows = []
    for name, figures in result["results"].items():
        ratio = "" if figures["ratio"] is None or name == PLAIN else with_spread(figures["ratio"], times)
        fed = name.startswith(FED) and figures["of_ceiling"] is not None
        share = with_spread(figures["of_ceiling"], percent) if fed else ""
        star = " *" if figures["disturbed"] else ""
        rows.append([name + star, with_spread(figures["img_per_s"], count), ratio, share])
    return rows


def part_rows(result: dict[str, Any]) -> list[list[str]]:
    """One row for each part of a step, in their order."""
    rows = []
    for name, part in result["parts"].items():
        peak = "" if part["peak_bytes"] is None else f"{part['peak_bytes'] / 2**30:.2f}"
        ms = with_spread(part["ms"], milliseconds)
        rows.append([name, ms, percent(part["share"]), milliseconds(part["floor_ms"]), part["bound"], peak])
    return rows


def remarks(result: dict[str, Any]) -> list[str]:
    """What the tables leave out."""
    rates, whole = result["rates"], result["whole"]
    pieces = sum(part["ms"]["median"] for part in result["parts"].values())
    lines = [
        f"device, measured: {rates['flops'] / 1e12:.3g} TFLOP/s of matrix products in {result['dtype']}, "
        f"{rates['bytes'] / 1e9:.3g} GB/s copied (read and written)",
        f"in pieces {milliseconds(pieces)} ms, of which no version needs less than {milliseconds(whole['floor_ms'])}",
    ]
    for name in result["results"]:
        if name in whole:
            ms, share = whole[name]["ms"], whole[name]["utilisation"]
            lines.append(f"{name}: {milliseconds(ms)} ms a step, {percent(share)} of the measured matrix rate")
    if "idle" in whole:  # else the measurement ended before
        unknown = "of a CPU" if result["device"] == "cpu" else "since torch's profiler saw nothing of the GPU"
        idle = whole["idle"]
        lines.append(f"idle: not known {unknown}" if idle is None else f"idle: {100 * idle:.1f} % of the time")
    return lines


def milliseconds(value: float) -> str:
    """Milliseconds as text, in three digits."""
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3}f}"
