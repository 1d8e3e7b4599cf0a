"""Agreement of a clustering with classes: ACC, NMI, ARI, as the field reports them (here 0 to 1)."""

from __future__ import annotations

from typing import TypedDict

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix

Integers = np.ndarray  # (N,) int64


class Scores(TypedDict):
    """Agreement of N predictions with N labels."""

    acc: float
    nmi: float
    ari: float


def clustering_accuracy(labels: Integers, predictions: Integers) -> float:
    """ACC: the best one-to-one match of clusters to classes, as a share of all N images.

    The Hungarian algorithm runs on the rectangular contingency matrix; the images of clusters (or classes)
    that are left without a partner count as errors.
    """
    table = contingency_matrix(labels, predictions)
    rows, columns = linear_sum_assignment(table, maximize=True)
    return float(table[rows, columns].sum() / len(labels))


def majority_accuracy(labels: Integers, predictions: Integers) -> float:
    """Each cluster answers with its most frequent class: customary when there are more clusters than classes.

    Never below :func:`clustering_accuracy`, and 1 when every image is a cluster of its own: not comparable to it.
    """
    return float(contingency_matrix(labels, predictions).max(axis=0).sum() / len(labels))


def score(labels: Integers, predictions: Integers) -> Scores:
    """ACC, NMI (arithmetic mean of the entropies) and ARI of (N,) integer labels and predictions."""
    return {
        "acc": clustering_accuracy(labels, predictions),
        "nmi": float(normalized_mutual_info_score(labels, predictions, average_method="arithmetic")),
        "ari": float(adjusted_rand_score(labels, predictions)),
    }
