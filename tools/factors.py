"""Studies of many switches at once: which settings each run gets, and what each switch is worth. For tools/study.py.

One run a switch says little where seeds differ by as much as settings do. Here every run draws a level of every switch,
balanced and as uncorrelated as can be, and every run tells something of all switches: with 36 runs, each of three
levels has 12, where one switch at a time would have spent them on three seeds of twelve cells. A linear model without
interactions says what each level adds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import t

DRAWS = 3_000
"""Random balanced designs among which the one that estimates best is taken."""

Factors = Mapping[str, Mapping[str, tuple[str, ...]]]
"""By name, the levels; by their labels, the settings that each changes. The first is what others are compared with."""


class Effect(NamedTuple):
    """What a level adds to the score, beside the factor's first level."""

    difference: float
    half: float
    """Half of the 95 % confidence interval."""


def design(sizes: Sequence[int], runs: int) -> np.ndarray:
    """Level of every factor in every run, (runs, factors), always the same for the same question.

    Each level comes up equally often, as far as numbers allow; among `DRAWS` random such designs, the one with the
    largest determinant of the information matrix (D-optimality) is taken.

    Raises:
        ValueError: too few runs to tell the factors apart.
    """
    needed = 1 + sum(size - 1 for size in sizes)
    if runs <= needed:
        raise ValueError(f"{needed} numbers are asked of {runs} runs: take more runs, or fewer factors or levels")
    rng = np.random.default_rng(0)
    balanced = [np.arange(runs) % size for size in sizes]
    plans = [np.stack([rng.permutation(column) for column in balanced], axis=1) for _ in range(DRAWS)]
    codes = [_coded(plan, sizes) for plan in plans]
    return plans[int(np.argmax([np.linalg.slogdet(code.T @ code)[1] for code in codes]))]


def plan(factors: Factors, runs: int) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """For every run, the labels of its levels and the settings that they change. Errors as of :func:`design`."""
    levels = [list(factor.items()) for factor in factors.values()]
    chosen = [[levels[f][level] for f, level in enumerate(row)] for row in design([len(each) for each in levels], runs)]
    return [(tuple(label for label, _ in run), sum((settings for _, settings in run), ())) for run in chosen]


def effects(levels: np.ndarray, sizes: Sequence[int], scores: np.ndarray) -> list[list[Effect]]:
    """Least squares of scores (n,) on the levels (n, factors): for every factor, its levels beside the first.

    Empty where n runs cannot tell the factors apart.
    """
    code = _coded(levels, sizes)
    runs, columns = code.shape
    if runs <= columns or np.linalg.matrix_rank(code) < columns:
        return []
    found, squares, *_ = np.linalg.lstsq(code, scores, rcond=None)
    variance = float(squares[0]) / (runs - columns) * np.diag(np.linalg.inv(code.T @ code))
    halves = t.ppf(0.975, runs - columns) * np.sqrt(variance)
    result, column = [], 1
    for size in sizes:
        result.append([Effect(found[column + i], halves[column + i]) for i in range(size - 1)])
        column += size - 1
    return result


def table(factors: Factors, found: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> str:
    """A Markdown table: a row for each level, a column for each data set.

    Args:
        factors: as given to :func:`plan`.
        found: by data set, the levels (n, factors) and ACC in percent (n,) of its runs.
    """
    sizes = [len(levels) for levels in factors.values()]
    by_data = {data: effects(levels, sizes, acc) for data, (levels, acc) in found.items()}
    heads = [f"{data} ({len(acc)} runs, mean {acc.mean():.1f})" for data, (_, acc) in found.items()]
    text = [f"| switch | level | {' | '.join(heads)} |", f"|{' --- |' * (2 + len(heads))}"]
    for f, (name, levels) in enumerate(factors.items()):
        for i, label in enumerate(levels):
            cells = [_cell(every[f], i) if every else "too few runs" for every in by_data.values()]
            text.append(f"| {'' if i else name} | {label} | {' | '.join(cells)} |")
    return "\n".join(text) + "\n"


def _cell(effects: Sequence[Effect], level: int) -> str:
    if level == 0:
        return "0"
    effect = effects[level - 1]
    low, high = effect.difference - effect.half, effect.difference + effect.half
    text = f"{effect.difference:+.1f} [{low:+.1f}, {high:+.1f}]"
    return f"**{text}**" if low > 0 or high < 0 else text


def _coded(levels: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """A column of ones, then one for every level of a factor but its first."""
    columns = [np.ones(len(levels))]
    columns += [levels[:, f] == level for f, size in enumerate(sizes) for level in range(1, size)]
    return np.stack(columns, axis=1).astype(float)
