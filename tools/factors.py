"""Studies of many switches at once: which settings each run gets, and what each switch is worth. For tools/study.py.

One run a switch says little where seeds differ by as much as settings do. Here every run draws a level of every switch,
balanced and nearly uncorrelated, and every run tells something of all switches: with 36 runs, each of three levels has
12, where one switch at a time would have spent them on three seeds of twelve cells. A linear model says what each level
adds. It has no interactions: a level that ruins runs hides what others do for them, and what a switch is worth beside
one certain setting of the others is a question for a study of variants.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import t

Factors = Mapping[str, Mapping[str, tuple[str, ...]]]
"""By name, the levels; by their labels, the settings that each changes. The first is what others are compared with."""

LEGEND = """ACC beside the first level, all other switches averaged over, with its 95 % interval; bold where 0 is also
outside of the interval for all effects of a column together (Bonferroni). Main effects only."""


class Effect(NamedTuple):
    """What a level adds to the score, beside the factor's first level."""

    difference: float
    half: float
    """Half of the 95 % confidence interval."""
    sure: bool
    """Whether 0 is also outside of the interval that is wide enough for all effects of the table together
    (Bonferroni)."""


def design(sizes: Sequence[int], runs: int) -> np.ndarray:
    """Level of every factor in every run, (runs, factors), always the same for the same question.

    Each level comes up equally often, as far as numbers allow. From a random such design, two entries of a column are
    swapped as long as that makes the determinant of the information matrix larger (D-optimality).

    Raises:
        ValueError: too few runs to tell the factors apart.
    """
    needed = 1 + sum(size - 1 for size in sizes)
    if runs <= needed:
        raise ValueError(f"{needed} numbers are asked of {runs} runs: take more runs, or fewer factors or levels")
    rng = np.random.default_rng(0)
    levels = np.stack([rng.permutation(np.arange(runs) % size) for size in sizes], axis=1)
    best = _information(levels, sizes)
    improved = True
    while improved:
        improved = False
        for column in levels.T:
            for i in range(runs):
                for j in range(i):
                    if column[i] == column[j]:
                        continue
                    column[[i, j]] = column[[j, i]]
                    if (found := _information(levels, sizes)) > best + 1e-9:
                        best, improved = found, True
                    else:
                        column[[i, j]] = column[[j, i]]
    return levels


def plan(factors: Factors, runs: int) -> list[tuple[str, ...]]:
    """For every run, the labels of its levels. Errors as of :func:`design`."""
    labels = [list(levels) for levels in factors.values()]
    return [
        tuple(names[level] for names, level in zip(labels, row, strict=True))
        for row in design([len(names) for names in labels], runs)
    ]


def effects(
    levels: np.ndarray, sizes: Sequence[int], scores: np.ndarray, group: np.ndarray | None = None
) -> dict[tuple[int, int], Effect]:
    """Least squares of scores (n,) on the levels (n, factors): by factor and level, what it adds to the factor's first.

    Runs of different groups, (n,) from 0, may differ by a constant: data sets are not equally hard. A level without a
    run has no effect; none has where n runs cannot tell the factors apart.
    """
    group = np.zeros(len(scores), dtype=int) if group is None else group
    every = [(f, level) for f, size in enumerate(sizes) for level in range(1, size)]
    seen = [(f, level) for f, level in every if (levels[:, f] == level).any()]
    means = [group == each for each in np.unique(group)]
    code = np.column_stack([*means, _coded(levels, seen)[:, 1:]]).astype(float)
    runs, columns = code.shape
    if runs <= columns or np.linalg.matrix_rank(code) < columns:
        return {}
    found, squares, *_ = np.linalg.lstsq(code, scores, rcond=None)
    errors = np.sqrt(float(squares[0]) / (runs - columns) * np.diag(np.linalg.inv(code.T @ code)))
    one, together = t.ppf([0.975, 1 - 0.025 / max(1, len(seen))], runs - columns)
    return {
        key: Effect(value, one * error, bool(abs(value) > together * error))
        for key, value, error in zip(seen, found[len(means) :], errors[len(means) :], strict=True)
    }


def table(factors: Factors, found: Mapping[str, tuple[list[tuple[str, ...]], list[float]]], runs: int) -> str:
    """A Markdown table: a row for each level, a column for each data set and one for all together.

    Args:
        factors: as given to :func:`plan`.
        found: by data set, the labels of the levels of its runs and their ACC in percent.
        runs: how many there will be.
    """
    labels = [list(levels) for levels in factors.values()]
    sizes = [len(names) for names in labels]
    by_data, heads, everything = [], [], []
    for data, (drawn, acc) in found.items():
        levels = np.array([[names.index(label) for names, label in zip(labels, run, strict=True)] for run in drawn])
        by_data.append(effects(levels, sizes, np.array(acc)))
        count = f"{len(acc)} of {runs}" if len(acc) < runs else f"{len(acc)}"
        heads.append(f"{data} ({count} runs, mean {np.mean(acc):.1f})")
        everything.append((levels, acc, [len(everything)] * len(acc)))
    if len(found) > 1:
        levels, acc, group = (np.concatenate(part) for part in zip(*everything, strict=True))
        by_data.append(effects(levels, sizes, acc, group))
        heads.append("all together")
    text = [f"| switch | level | {' | '.join(heads)} |", f"|{' --- |' * (2 + len(heads))}"]
    for f, name in enumerate(factors):
        for level, label in enumerate(labels[f]):
            cells = ["0" if level == 0 else _cell(every.get((f, level))) for every in by_data]
            text.append(f"| {'' if level else name} | {label} | {' | '.join(cells)} |")
    text += ["", LEGEND]
    return "\n".join(text) + "\n"


def _cell(effect: Effect | None) -> str:
    if effect is None:
        return "too few runs"
    low, high = effect.difference - effect.half, effect.difference + effect.half
    text = f"{effect.difference:+.1f} [{low:+.1f}, {high:+.1f}]"
    return f"**{text}**" if effect.sure else text


def _coded(levels: np.ndarray, columns: Sequence[tuple[int, int]]) -> np.ndarray:
    """A column of ones, then one for each (factor, level)."""
    ones = [np.ones(len(levels))]
    return np.stack(ones + [levels[:, f] == level for f, level in columns], axis=1).astype(float)


def _information(levels: np.ndarray, sizes: Sequence[int]) -> float:
    code = _coded(levels, [(f, level) for f, size in enumerate(sizes) for level in range(1, size)])
    return float(np.linalg.slogdet(code.T @ code)[1])
