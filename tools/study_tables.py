"""What came of a study, as Markdown. For tools/study.py."""

from __future__ import annotations

import statistics
from typing import Any

import factors as factorial
from scipy.stats import spearmanr, t
from study_plan import Study

BEST = 5
"""Runs of a factorial study that are shown one by one, of each data set."""

Line = dict[str, Any]
"""A run's results, as `run_cell` of tools/study.py gives them."""


def tabulate(study: Study, lines: list[Line]) -> str:
    """The tables of all results that belong to a study; of a cell that is there twice, the later one."""
    latest = {(line["data"], line["overrides"], line["seed"]): line for line in lines}
    found = _of_factors(study, latest) if study.factors else _of_variants(study, latest)
    text = _factorial(study, found) if study.factors else f"{table(found)}\n{together(found)}"
    return f"{text}\n{correlations(found)}\n{commands(study)}"


def _of_variants(study: Study, latest: dict[Any, Line]) -> list[Line]:
    """In the order of the variants, called as they are today."""
    cells = sorted(study.cells(), key=lambda cell: list(study.variants).index(cell.variant))
    return [latest[cell.key()] | {"variant": cell.variant} for cell in cells if cell.key() in latest]


def _of_factors(study: Study, latest: dict[Any, Line]) -> list[Line]:
    """Also runs of an earlier design, as long as it had the same switches."""
    names = [set(levels) for levels in study.factors.values()]
    known = {folder.name for folder in study.data}

    def belongs(line: Line) -> bool:
        levels = line.get("levels", ())
        fits = len(levels) == len(names) and all(level in each for level, each in zip(levels, names, strict=True))
        return line["data"] in known and fits

    return [line for line in latest.values() if belongs(line)]


def _factorial(study: Study, found: list[Line]) -> str:
    by_data = {folder.name: [line for line in found if line["data"] == folder.name] for folder in study.data}
    scores = {
        data: ([tuple(line["levels"]) for line in lines], [100 * line["acc"] for line in lines])
        for data, lines in by_data.items()
        if lines
    }
    best = [line for lines in by_data.values() for line in sorted(lines, key=lambda line: -line["acc"])[:BEST]]
    return (
        f"{factorial.table(study.factors, scores, study.runs)}\nThe best runs, of many, so their ACC flatters them:\n\n"
        f"{table(best)}"
    )


def table(lines: list[Line]) -> str:
    """A Markdown table: one row for each data set and variant, in the order of the first result.

    The difference is to the data set's first variant, over the seeds that both have, with its 95 % interval (Student's
    t of the paired differences).
    """
    rows: dict[tuple[str, str], dict[int, Line]] = {}
    for line in lines:
        rows.setdefault((line["data"], line["variant"]), {})[line["seed"]] = line
    text = [
        "| data | variant | ACC of argmax π | every seed | difference | k-means on f | spectral, on f | s a run |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    first: dict[str, dict[int, Line]] = {}
    for (data, variant), cells in sorted(rows.items(), key=lambda item: item[0][0]):
        reference = first.setdefault(data, cells)
        cells = dict(sorted(cells.items()))
        acc = [100 * cell["acc"] for cell in cells.values()]
        features = [100 * cell["kmeans_features"]["acc"] for cell in cells.values()]
        cut = [100 * cell["spectral_features"]["acc"] for cell in cells.values() if "spectral_features" in cell]
        seconds = statistics.mean(cell["seconds"] for cell in cells.values())
        each = " ".join(f"{value:.1f}" for value in acc)
        pairs = [100 * (cells[seed]["acc"] - reference[seed]["acc"]) for seed in cells.keys() & reference.keys()]
        gap = "" if cells.keys() == reference.keys() and reference is rows[data, variant] else interval(pairs)
        row = [data, variant, spread(acc), each, gap, spread(features), spread(cut) if cut else "", f"{seconds:.0f}"]
        text.append(f"| {' | '.join(row)} |")
    return "\n".join(text) + "\n"


def together(lines: list[Line]) -> str:
    """The difference to the first variant, over all pairs of runs of the same data set and seed, as a Markdown table.

    Nothing when there is one data set or one variant.
    """
    acc = {(line["variant"], line["data"], line["seed"]): 100 * line["acc"] for line in lines}
    variants = list(dict.fromkeys(line["variant"] for line in lines))
    if len(variants) < 2 or len({line["data"] for line in lines}) < 2:
        return ""
    text = ["| variant | pairs | difference, all data together |", "| --- | --- | --- |"]
    for variant in variants[1:]:
        own = {key[1:]: value for key, value in acc.items() if key[0] == variant}
        pairs = [value - acc[variants[0], *place] for place, value in own.items() if (variants[0], *place) in acc]
        text.append(f"| {variant} | {len(pairs)} | {interval(pairs)} |")
    return "\n".join(text) + "\n"


def spread(values: list[float]) -> str:
    """Mean ± standard deviation."""
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation}"


def interval(differences: list[float]) -> str:
    """Mean and 95 % interval of paired differences; the interval needs two or more."""
    if not differences:
        return ""
    mean = statistics.mean(differences)
    if len(differences) < 2:
        return f"{mean:+.1f}"
    half = t.ppf(0.975, len(differences) - 1) * statistics.stdev(differences) / len(differences) ** 0.5
    return f"{mean:+.1f} [{mean - half:+.1f}, {mean + half:+.1f}]"


def correlations(lines: list[Line]) -> str:
    """How each label-free quantity follows ACC over all runs of a data set: Spearman's ρ, as a Markdown table."""
    names = list(dict.fromkeys(name for line in lines for name in line.get("label_free", {})))
    if not names:
        return ""
    text = [f"| data | runs | {' | '.join(names)} |", f"|{' --- |' * (len(names) + 2)}"]
    for data in sorted({line["data"] for line in lines}):
        runs = [line for line in lines if line["data"] == data and "label_free" in line]
        cells = []
        for name in names:
            known = [(run["label_free"][name], run["acc"]) for run in runs if run["label_free"].get(name) is not None]
            values, acc = {value for value, _ in known}, {score for _, score in known}
            constant = len(values) < 2 or len(acc) < 2
            cells.append("" if constant else f"{spearmanr(*zip(*known, strict=True)).statistic:+.2f}")
        text.append(f"| {data} | {len(runs)} | {' | '.join(cells)} |")
    return "\n".join(text) + "\n"


def commands(study: Study) -> str:
    """What makes a cell: its own command stands in the results."""
    intro = (
        "A run is `tcc-fast train --data DATA seed=SEED`, then `tcc-fast eval --agreement --spectral-features`, "
        "with these settings:"
    )
    named = {f"all of {data}": settings for data, settings in study.base.items()} | study.variants
    for name, levels in study.factors.items():
        named |= {f"{name}, {label}": settings for label, settings in levels.items()}
    return "\n".join([intro, "", *(f"- {name}: `{' '.join(each) or 'none'}`" for name, each in named.items())]) + "\n"
