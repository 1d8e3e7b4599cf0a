"""Results as tables for people."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from tcc_fast.evaluate import Evaluation
from tcc_fast.metrics import Scores


def show_evaluation(result: Evaluation, console: Console) -> None:
    """Print an evaluation: what was measured on, scores beside k-means, cluster sizes."""
    console.print(
        f"{result.dataset}: {result.n:,} images at {result.image_size} px, split {result.split}, "
        f"{result.checkpoint} (step {result.step})",
        soft_wrap=True,
    )
    if result.scores is None:
        console.print("The data set has no labels, so there is nothing to score against; the clusters' sizes:")
    else:
        table = Table("", "ACC", "NMI", "ARI", title_justify="left")
        table.add_row("TCC (argmax π)", *_percent(result.scores))
        if result.kmeans_features:
            table.add_row("k-means on TCC's features", *_percent(result.kmeans_features))
        if result.kmeans_pixels:
            table.add_row("k-means on pixels", *_percent(result.kmeans_pixels))
        console.print(table)
        seen = "the images it was trained on, without their labels" if result.same_data else "other images"
        console.print(f"in percent, measured on {seen}; ACC is the best one-to-one match of clusters to classes")
    sizes = ", ".join(f"{size:,}" for size in result.cluster_sizes)
    console.print(f"{result.clusters_used} of {result.num_clusters} clusters used; sizes: {sizes}", soft_wrap=True)
    if result.num_classes is not None and result.num_classes != result.num_clusters:
        console.print(
            f"K is {result.num_clusters} and there are {result.num_classes} classes: "
            "images of unmatched clusters or classes count as errors in ACC"
        )


def _percent(scores: Scores) -> tuple[str, str, str]:
    return f"{100 * scores['acc']:.1f}", f"{100 * scores['nmi']:.1f}", f"{100 * scores['ari']:.1f}"
