"""Results as tables for people."""

from __future__ import annotations

import itertools
import math
import statistics
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tcc_fast.evaluation.evaluate import Evaluation
from tcc_fast.evaluation.label_free import describe_scores
from tcc_fast.evaluation.metrics import Scores
from tcc_fast.evaluation.paper import RESULTS, Published
from tcc_fast.notice import Notice
from tcc_fast.runs.checkpoint_folder import are_of_one_run
from tcc_fast.runs.run_state import read_state
from tcc_fast.runs.same_run import differing_settings

METRICS = ("acc", "nmi", "ari")
BASELINE_NAMES = {
    "kmeans_features": "k-means on TCC's features",
    "spectral_features": "spectral clusters of TCC's features",
    "kmeans_pixels": "k-means on pixels",
}
SHORT_NAMES = {"kmeans_features": "k-means", "spectral_features": "spectral", "kmeans_pixels": "pixels"}
"""Of the same, where a run's course has a column for each."""


def show_evaluation(result: Evaluation, console: Console) -> None:
    """Print an evaluation: what was measured on, scores beside k-means and the paper, cluster sizes."""
    console.print(
        f"{result.title}: {result.n:,} images at {result.image_size} px, split {result.split}, "
        f"{result.checkpoint} (step {result.step})",
        soft_wrap=True,
        markup=False,
    )
    if result.scores is None:
        sentence = "These images have no labels, so there is nothing to score against; the clusters' sizes:"
        console.print(sentence, soft_wrap=True)
    else:
        console.print(_table(result))
        for sentence in _cautions(result):
            console.print(sentence, soft_wrap=True)
    sizes = ", ".join(f"{size:,}" for size in result.cluster_sizes)
    console.print(f"{result.clusters_used} of {result.num_clusters} clusters used; sizes: {sizes}", soft_wrap=True)
    if result.label_free:
        console.print(f"without labels: {describe_scores(result.label_free)}", soft_wrap=True)


def _table(result: Evaluation) -> Table:
    assert result.scores is not None
    table = Table("", "ACC", "NMI", "ARI")
    table.add_row("TCC (argmax π), best one-to-one match", *_percent(result.scores))
    if result.num_clusters != result.num_classes and result.acc_majority is not None:
        table.add_row("  each cluster by its majority class", f"{100 * result.acc_majority:.1f}", "", "")
    for name, scores in result.baselines.items():
        if scores:
            table.add_row(BASELINE_NAMES[name], *_percent(scores))
    if result.linear_probe is not None:
        table.add_row("linear probe on TCC's features (uses labels)", f"{100 * result.linear_probe:.1f}", "", "")
    for label, figures in _published_rows(result):
        table.add_row(label, *figures)
    return table


def _published_rows(result: Evaluation) -> Iterable[tuple[str, tuple[str, ...]]]:
    known = RESULTS.get(result.dataset)
    if known is None or result.scores is None:
        return
    if known.tcc is not None:
        yield "paper: TCC", _figures(known.tcc)
        yield "  this run minus the paper", _gap(dict(result.scores), known.tcc)
    yield f"published: {known.best.method}", _figures(known.best)


def _gap(scores: dict[str, Any], known: Published) -> tuple[str, ...]:
    return tuple(f"{100 * scores[name] - getattr(known, name):+.1f}" for name in METRICS)


def _figures(result: Published) -> tuple[str, ...]:
    """Published figures in percent; with an asterisk if not from the method's own paper, as far as we hold it."""
    marks = ("" if name in result.own else "*" for name in METRICS)
    return tuple(f"{getattr(result, name):.1f}{mark}" for name, mark in zip(METRICS, marks, strict=True))


def _cautions(result: Evaluation) -> Iterable[str]:
    """What must be known to read the table rightly."""
    if result.same_images:
        seen = "the images it was trained on, without their labels"
    elif result.same_data:
        seen = f"split {result.split} of the data set that it was trained on, by split {result.trained_split}"
    else:
        seen = "another data set than the one it was trained on"
    yield f"in percent, measured on {seen}; ACC is the best one-to-one match of clusters to classes"
    if partly := _partly(result):
        yield partly
    if result.num_classes != result.num_clusters:
        yield (
            f"K is {result.num_clusters} and there are {result.num_classes} classes: "
            "images of unmatched clusters or classes count as errors in ACC"
        )
    known = RESULTS.get(result.dataset)
    if known is not None:
        differing = []
        if (result.n_labelled, result.num_classes) != (known.images, known.classes):
            differing.append(f"{result.n_labelled:,} images here, {known.images:,} there")
        if result.image_size != known.image_size:
            differing.append(f"{result.image_size} px here, {known.image_size} px there")
        what = f" Not the same task: {'; '.join(differing)}." if differing else ""
        origin = "published figures are their authors' (*: as later papers quote them)"
        caution = f" {known.caution}" if known.caution else ""
        yield f"{origin}; this is one seed ({result.seed}).{what}{caution}"


def _partly(result: Evaluation) -> str | None:
    """Of how many images the scores are, if not of all."""
    known = 0 < result.n_labelled < result.n
    return f"scores are of the {result.n_labelled:,} images that have a label" if known else None


def _percent(scores: Scores) -> tuple[str, ...]:
    return tuple(f"{100 * scores[name]:.1f}" for name in METRICS)  # type: ignore[literal-required]


COMMON = ("dataset", "split", "n", "n_labelled", "num_clusters", "num_classes")
"""What the same images and the same K have in common."""


DIFFERENT_IMAGES = "these checkpoints are of different images: give --data to use one data set for all"
DIFFERENT_K = "these checkpoints have different numbers of clusters ({}), which have no mean: evaluate each K by itself"


def check_mean(checkpoints: Iterable[Path], given: bool) -> None:
    """See, before any work, whether a mean of runs says anything; warns if they differ in settings.

    Raises:
        ValueError: they have different K or, unless one data set or split is ``given``, were trained on other images.
    """
    states = [read_state(checkpoint) for checkpoint in checkpoints]
    images = {(one.dataset["name"], one.dataset["num_images"], one.config.data.split) for one in states}
    if len(images) > 1 and not given:
        raise ValueError(DIFFERENT_IMAGES)
    refuse_different_k(one.config.model.num_clusters for one in states)
    changes = (differing_settings(states[0].config, one.config) for one in states[1:])
    if differing := sorted(set(itertools.chain(*changes)) - {"seed"}):
        warnings.warn(
            f"these runs differ in {', '.join(differing)}: their mean is of no one setting", Notice, stacklevel=2
        )


def refuse_different_k(numbers: Iterable[int | None]) -> None:
    """Raise `ValueError` if runs do not have the same number of clusters."""
    if len(found := set(numbers)) > 1:
        raise ValueError(DIFFERENT_K.format(", ".join(str(number) for number in sorted(filter(None, found)))))


def summarise_runs(results: list[Evaluation]) -> dict[str, Any]:
    """Evaluations of several runs as plain data: mean and sample standard deviation of each score, then each run.

    Raises:
        ValueError: they are not of the same images or K, or two are of the same run.
    """
    if len(results) > 1 and are_of_one_run(result.checkpoint for result in results):
        raise ValueError("these are moments of one run, whose mean and deviation would say nothing of others")
    if len({(result.dataset, result.split, result.n, result.n_labelled) for result in results}) > 1:
        raise ValueError(DIFFERENT_IMAGES)
    refuse_different_k(result.num_clusters for result in results)
    every = [result.to_json() for result in results]
    summary: dict[str, Any] = {name: every[0][name] for name in COMMON}
    for name in (*METRICS, "acc_majority"):
        values = [run[name] for run in every]
        known = None not in values
        summary[name] = statistics.mean(values) if known else None
        summary[f"{name}_std"] = statistics.stdev(values) if known else None
    return summary | {"runs": every}


def show_summary(results: list[Evaluation], console: Console) -> None:
    """Print mean and standard deviation over several checkpoints, and each one's ACC."""
    summary = summarise_runs(results)
    if summary["acc"] is None:
        console.print("no labels, so there are no scores to average")
        return
    table = Table(f"{len(results)} checkpoints", "ACC", "NMI", "ARI")
    table.add_row("mean", *(f"{100 * summary[name]:.1f}" for name in METRICS))
    table.add_row("standard deviation", *(f"{100 * summary[f'{name}_std']:.1f}" for name in METRICS))
    for name, result in zip(_names(results), results, strict=True):
        assert result.scores is not None
        table.add_row(name, *_percent(result.scores))
    known = RESULTS.get(results[0].dataset)
    if known and known.tcc:
        table.add_row("paper: TCC", *_figures(known.tcc))
        table.add_row("  mean minus the paper", *_gap(summary, known.tcc))
    console.print(table)
    console.print(f"mean and sample standard deviation over {len(results)} runs")
    if partly := _partly(results[0]):
        console.print(partly)


def _names(results: list[Evaluation]) -> list[str]:
    """What tells runs apart: their seeds, or else their folders."""
    seeds = [f"seed {result.seed}" for result in results]
    return seeds if len(set(seeds)) == len(seeds) else [str(result.checkpoint.parent.parent) for result in results]


def course(results: list[Evaluation]) -> dict[str, Any]:
    """Evaluations of one run's checkpoints as plain data: what they have in common, then each, by step."""
    every = [result.to_json() for result in sorted(results, key=lambda result: result.step)]
    return {name: every[0][name] for name in COMMON} | {"checkpoints": every}


def show_course(results: list[Evaluation], console: Console) -> None:
    """Print how a run's clusters became what they are: a line for each of its checkpoints."""
    lines = [_line_of_course(result) for result in sorted(results, key=lambda result: result.step)]
    rows = [list(lines[0]), *(list(line.values()) for line in lines)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:  # of any width: a rich table would cut figures
        cells = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        console.print("  ".join(cells), soft_wrap=True, markup=False)
    first = results[0]
    scores = f"; {_partly(first) or 'scores'}, in percent" if first.scores else ""
    what = f"{first.title}: {first.n:,} images, split {first.split}, seed {first.seed}{scores}"
    console.print(what, soft_wrap=True, markup=False)
    beside = [f"{short}: ACC of {BASELINE_NAMES[name]}" for name, short in SHORT_NAMES.items() if short in lines[0]]
    if beside:
        console.print("; ".join(beside), soft_wrap=True)


def _line_of_course(result: Evaluation) -> dict[str, str]:
    """The figures of one checkpoint: heading -> figure."""
    line = {"step": f"{result.step}"}
    if result.scores:
        line |= dict(zip((name.upper() for name in METRICS), _percent(result.scores), strict=True))
    for name, heading in SHORT_NAMES.items():
        if scores := result.baselines.get(name):
            line[heading] = f"{100 * scores['acc']:.1f}"
    if result.linear_probe is not None:
        line["probe"] = f"{100 * result.linear_probe:.1f}"
    line["used"] = f"{result.clusters_used}"
    return line | {name: "none" if math.isnan(value) else f"{value:.3f}" for name, value in result.label_free.items()}
