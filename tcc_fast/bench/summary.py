"""From turns to figures: medians, spreads, and ratios within a round."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any

Figure = dict[str, float]
"""``median``, ``min`` and ``max``."""

NO_DECODING = "resident"
"""It has decoded everything before it begins."""


def summarise(turns: Iterable[dict[str, Any]], baseline: str | None, ceiling: str | None) -> dict[str, dict[str, Any]]:
    """Each contender's figures, fastest first.

    Args:
        turns: as `Turn.to_json` gives them; those that are not kept are left out.
        baseline: the contender that the others are compared with, if there is one.
        ceiling: likewise, of which those that decode reach a share.

    Returns:
        For each contender ``img_per_s``, ``ratio`` (to the baseline, within each round) and ``of_ceiling`` (likewise)
        as `Figure`, or None if there is no round with both, and ``disturbed``: how many of its kept turns were.
    """
    rates: dict[str, dict[int, float]] = {}
    disturbed: dict[str, int] = {}
    for turn in turns:
        if turn["kept"]:
            name = turn["contender"]
            rates.setdefault(name, {})[turn["round"]] = turn["img_per_s"]
            disturbed[name] = disturbed.get(name, 0) + bool(turn["disturbed"])

    def within(name: str, other: str | None) -> Figure | None:
        others = rates.get(other or "", {})
        shared = [rate / others[number] for number, rate in rates[name].items() if number in others]
        return figure(shared) if shared else None

    found: dict[str, dict[str, Any]] = {
        name: {
            "img_per_s": figure(list(by_round.values())),
            "ratio": within(name, baseline),
            "of_ceiling": None if name == NO_DECODING else within(name, ceiling),
            "disturbed": disturbed[name],
        }
        for name, by_round in rates.items()
    }
    return dict(sorted(found.items(), key=lambda item: -item[1]["img_per_s"]["median"]))


def figure(values: list[float]) -> Figure:
    """Median and spread of numbers."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}
