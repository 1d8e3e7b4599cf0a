"""The k-means start of the prototypes: an addition to the paper, one initialisation after a warm-up."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

MAX_IMAGES = 50_000
"""k-means sees at most this many features, evenly spread over the data set."""


def evenly_spread(num_images: int, limit: int = MAX_IMAGES) -> list[int]:
    """At most ``limit`` indices, evenly spread over 0..num_images-1."""
    count = min(num_images, limit)
    return [i * num_images // count for i in range(count)]


def kmeans_centres(features: Tensor, num_clusters: int, restarts: int, seed: int) -> Tensor:
    """Centres of the best of ``restarts`` k-means runs: (n, d) float32 on the CPU to (K, d).

    Raises:
        ValueError: fewer features than clusters, or features that are not finite.
    """
    if len(features) < num_clusters:
        raise ValueError(f"{num_clusters} clusters need at least as many images, the data set has {len(features)}")
    if not torch.isfinite(features).all():
        raise ValueError("features are not finite at the k-means start: lower optim.lr")
    from sklearn.cluster import KMeans  # takes a second, and not every run comes here

    kmeans = KMeans(num_clusters, n_init=restarts, random_state=seed)
    kmeans.fit(features.numpy().astype(np.float64))
    return torch.from_numpy(kmeans.cluster_centers_).float()
