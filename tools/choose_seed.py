"""What choosing a seed without labels gains: the best of a setting's seeds by each quantity, beside the average seed.

    python tools/choose_seed.py docs/records/*.jsonl

Reads results of tools/study.py. Every setting with two seeds or more counts once, whatever its number of seeds.
Intervals (95 %, Student's t) take settings for independent; those that share a seed are not quite.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from study_tables import interval

QUANTITIES = {
    "silhouette": 1,
    "confidence": 1,
    "balance": 1,
    "agreement": 1,
    "loss": -1,
    "loss_instance": -1,
    "entropy": -1,
}
"""+1: more is better."""

Line = dict[str, Any]


def settings(lines: Iterable[Line]) -> list[list[Line]]:
    """Runs that differ by their seed alone; of a run that is there twice, the later one."""
    latest = {(line["data"], line["overrides"], line["seed"]): line for line in lines if "label_free" in line}
    groups: dict[tuple[str, str], list[Line]] = {}
    for (data, overrides, _), line in latest.items():
        groups.setdefault((data, overrides), []).append(line)
    return [group for group in groups.values() if len(group) > 1]


def gain(group: list[Line], quantity: str) -> float | None:
    """ACC, in points, of the run that the quantity chooses, less the mean of all; None where one does not have it."""
    values = [line["label_free"].get(quantity) for line in group]
    if any(value is None for value in values):
        return None
    chosen = max(group, key=lambda line: QUANTITIES[quantity] * line["label_free"][quantity])
    return 100 * (chosen["acc"] - statistics.mean(line["acc"] for line in group))


def table(groups: list[list[Line]]) -> str:
    """Markdown: a row for each quantity, and one for a choice by the labels, which nothing can exceed."""
    kinds = {"with a start": False, "without": True}
    split = {
        name: [g for g in groups if ("start.method=none" in g[0]["overrides"]) == bare] for name, bare in kinds.items()
    }
    head = " | ".join(f"{name} ({len(chosen)} settings)" for name, chosen in split.items())
    text = [f"| chosen by | {head} |", "| --- | --- | --- |"]
    for quantity in QUANTITIES:
        gains = [[gain(group, quantity) for group in chosen] for chosen in split.values()]
        text.append(f"| {quantity} | {' | '.join(interval([g for g in each if g is not None]) for each in gains)} |")
    accuracies = [[[line["acc"] for line in group] for group in chosen] for chosen in split.values()]
    best = [[100 * (max(group) - statistics.mean(group)) for group in each] for each in accuracies]
    return "\n".join([*text, f"| the labels | {' | '.join(interval(each) for each in best)} |"])


if __name__ == "__main__":
    from plainly import plainly

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+")
    files = parser.parse_args().results
    with plainly():
        lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
        print(table(settings(json.loads(line) for line in lines)))
