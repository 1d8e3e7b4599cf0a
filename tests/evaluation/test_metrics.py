"""ACC, NMI and ARI against independent definitions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from tcc_fast.evaluation.metrics import clustering_accuracy, majority_accuracy, score


def brute_force_accuracy(labels: np.ndarray, predictions: np.ndarray) -> float:
    """The best of all one-to-one matches, by trying every one."""
    classes, clusters = sorted(set(labels)), sorted(set(predictions))
    size = max(len(classes), len(clusters))
    classes += [-1 - i for i in range(size - len(classes))]  # partners that match nothing
    best = 0
    for match in itertools.permutations(classes, len(clusters)):
        best = max(best, sum(((predictions == k) & (labels == c)).sum() for k, c in zip(clusters, match, strict=True)))
    return best / len(labels)


@pytest.mark.parametrize(("num_classes", "num_clusters"), [(4, 4), (3, 5), (5, 3), (4, 1), (1, 4)])
def test_accuracy_is_the_best_one_to_one_match(num_classes: int, num_clusters: int) -> None:
    random = np.random.default_rng(num_classes * 10 + num_clusters)
    for _ in range(20):
        labels = random.integers(num_classes, size=40)
        predictions = random.integers(num_clusters, size=40)
        assert clustering_accuracy(labels, predictions) == pytest.approx(brute_force_accuracy(labels, predictions))


def test_names_of_clusters_do_not_matter_and_dead_clusters_do_no_harm() -> None:
    labels = np.array([0, 0, 1, 1, 2, 2])
    predictions = np.array([7, 7, 3, 3, 9, 9])  # of K = 10; the others are dead
    assert score(labels, predictions) == {"acc": 1.0, "nmi": 1.0, "ari": 1.0}


def test_images_of_unmatched_clusters_are_errors() -> None:
    labels = np.array([0, 0, 0, 0])
    assert clustering_accuracy(labels, np.array([0, 0, 0, 1])) == 0.75
    assert clustering_accuracy(np.array([0, 1, 2, 3]), np.array([0, 0, 0, 0])) == 0.25


def test_nmi_is_the_arithmetic_one() -> None:
    random = np.random.default_rng(0)
    labels, predictions = random.integers(5, size=200), random.integers(3, size=200)
    found = score(labels, predictions)
    assert found["nmi"] == normalized_mutual_info_score(labels, predictions, average_method="arithmetic")
    assert found["nmi"] != normalized_mutual_info_score(labels, predictions, average_method="geometric")
    assert found["ari"] == adjusted_rand_score(labels, predictions)


def test_majority_vote_lets_several_clusters_share_a_class() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1])
    predictions = np.array([5, 5, 6, 6, 7, 5])
    assert majority_accuracy(labels, predictions) == pytest.approx(5 / 6)
    assert clustering_accuracy(labels, predictions) == pytest.approx(3 / 6)
    assert majority_accuracy(labels, np.arange(6)) == 1


def test_a_thousand_random_partitions_agree_with_scipy_and_scikit_learn() -> None:
    random = np.random.default_rng(1)
    for _ in range(1000):
        size, num_classes, num_clusters = random.integers((5, 1, 1), (60, 9, 9))
        labels, predictions = random.integers(num_classes, size=size), random.integers(num_clusters, size=size)
        table = np.zeros((num_clusters, num_classes))  # dead clusters and absent classes included
        np.add.at(table, (predictions, labels), 1)
        rows, columns = linear_sum_assignment(-table)
        found = score(labels, predictions)
        assert found["acc"] == pytest.approx(table[rows, columns].sum() / size)
        assert found["nmi"] == pytest.approx(normalized_mutual_info_score(labels, predictions))
        assert found["ari"] == pytest.approx(adjusted_rand_score(labels, predictions))
        assert found["acc"] <= majority_accuracy(labels, predictions) + 1e-12
