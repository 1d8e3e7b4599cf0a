"""Starts of the prototypes from features: additions to the paper, one initialisation after a warm-up."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

MAX_IMAGES = 50_000
"""A start sees at most this many features, evenly spread over the data set."""


def evenly_spread(num_images: int, limit: int = MAX_IMAGES) -> list[int]:
    """At most ``limit`` indices, evenly spread over 0..num_images-1."""
    count = min(num_images, limit)
    return [i * num_images // count for i in range(count)]


def average_neighbours(features: Tensor, neighbours: int, rounds: int = 5) -> Tensor:
    """Move every feature to the mean of its nearest neighbours, itself among them, several times.

    A blurring mean shift on the sphere (Fukunaga & Hostetler 1975) whose neighbours, the nearest by cosine, stay those
    of the first round. What is dense together falls together; what lies between falls to one side.

    Args:
        features: (n, d).
        neighbours: how many, at most n are taken.
        rounds: how often.

    Returns:
        (n, d), unit norm.
    """
    points = F.normalize(features, dim=1)
    count = min(neighbours, len(points))
    nearest = torch.cat([(rows @ points.T).topk(count, dim=1).indices for rows in points.split(1024)])
    for _ in range(rounds):
        points = F.normalize(F.embedding_bag(nearest, points, mode="mean"), dim=1)
    return points


def kmeans_centres(features: Tensor, num_clusters: int, restarts: int, seed: int) -> Tensor:
    """Centres of the best of ``restarts`` k-means runs: (n, d) float32 on the CPU to (K, d).

    Raises:
        ValueError: fewer features than clusters, or features that are not finite.
    """
    from sklearn.cluster import KMeans  # takes a second, and not every run comes here

    points = _points(features, num_clusters)
    kmeans = KMeans(num_clusters, n_init=restarts, random_state=seed).fit(points)
    return torch.from_numpy(kmeans.cluster_centers_).float()


def distant_features(features: Tensor, num_clusters: int, restarts: int, seed: int) -> Tensor:
    """K of the features, drawn far apart as k-means++ does (Arthur & Vassilvitskii 2007), and nothing after it.

    Of ``restarts`` draws the one whose features have the smallest sum of squared distances to the nearest of the K.
    Shapes and errors as of `kmeans_centres`.
    """
    from sklearn.cluster import kmeans_plusplus
    from sklearn.metrics import pairwise_distances_argmin_min

    points = _points(features, num_clusters)
    best, lowest = points[:num_clusters], np.inf
    for attempt in range(restarts):
        drawn, _ = kmeans_plusplus(points, num_clusters, random_state=seed + attempt)
        inertia = np.square(pairwise_distances_argmin_min(points, drawn)[1]).sum()
        if inertia < lowest:
            best, lowest = drawn, inertia
    return torch.from_numpy(best).float()


STARTS = {"kmeans": kmeans_centres, "seeds": distant_features}
"""By `start.method`."""


def _points(features: Tensor, num_clusters: int) -> np.ndarray:
    if len(features) < num_clusters:
        raise ValueError(f"{num_clusters} clusters need at least as many images, the data set has {len(features)}")
    if not torch.isfinite(features).all():
        raise ValueError("features are not finite at the start of the prototypes: lower optim.lr")
    points: np.ndarray = features.numpy().astype(np.float64)
    return points
