"""Starts of the prototypes from features: additions to the paper, one initialisation after a warm-up."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tcc_fast.method.neighbour_graph import COPIES, build_graph, graph_of_distinct
from tcc_fast.notice import Notice
from tcc_fast.settings import StartConfig

MAX_IMAGES = 50_000
"""A start sees at most this many features, evenly spread over the data set."""
EIGENVECTORS = 1.2
"""Eigenvectors that are computed for each cluster. Ours: of 1, 1.1, 1.2, 1.3 and 1.5 the one that never failed, on the
features of 11 runs on three image sets with K = 10."""
WEAK_EDGES = 0.03
"""Weight of all weak edges of an image together, as a fraction of the mean degree. Ours: 0 to 0.3 hardly differ."""


def evenly_spread(num_images: int, limit: int = MAX_IMAGES) -> list[int]:
    """At most ``limit`` indices, evenly spread over 0..num_images-1."""
    count = min(num_images, limit)
    return [i * num_images // count for i in range(count)]


def kmeans_centres(features: Tensor, num_clusters: int, restarts: int, seed: int) -> Tensor:
    """Centres of the best of ``restarts`` k-means runs: (n, d) float32 on the CPU, n at least K, to (K, d)."""
    from sklearn.cluster import KMeans  # takes a second, and not every run comes here
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # said below, in words of ours
        kmeans = KMeans(num_clusters, n_init=restarts, random_state=seed).fit(features.numpy().astype(np.float64))
    if (found := len(np.unique(kmeans.labels_))) < num_clusters:
        warnings.warn(
            f"a k-means can tell {found} clusters apart, where there are to be {num_clusters}: images are the same; "
            + (f"set model.num_clusters={found} or less" if found > 1 else "there is nothing to cluster"),
            Notice,
            stacklevel=2,
        )
    return torch.from_numpy(kmeans.cluster_centers_).float()


def spectral_centres(
    features: Tensor,
    num_clusters: int,
    restarts: int,
    seed: int,
    neighbours: int = 20,
    copies: Sequence[float] = COPIES,
) -> Tensor:
    """Means of the clusters that normalised cuts find in the graph of nearest neighbours (Ng, Jordan & Weiss 2001).

    A cluster may be any chain of near images, where one of k-means must be a ball: bold and light faces of a letter
    lie far apart with others between them. The graph is regularised (every two images are weakly joined; Amini et
    al. 2013), so that it is connected; and some more eigenvectors than clusters are taken, since a cluster sometimes
    has two before the last cluster has its first. Of near-duplicates one counts.

    Args:
        features: (n, d) float32 on the CPU, finite, n at least K.
        num_clusters: K.
        restarts: of the k-means among the eigenvectors' rows.
        seed: of that k-means and of the eigenvectors' iteration.
        neighbours: of an image in the graph, itself among them, by cosine; at most n are taken.
        copies: cosines from which two are near-duplicates, see `COPIES`; none: every image counts.

    Returns:
        (K, d), means of unit features; with a warning those of a k-means, if fewer clusters can be told apart, where
        many features are alike.
    """
    from scipy.sparse.linalg import LinearOperator, eigsh
    from sklearn.cluster import KMeans
    from sklearn.preprocessing import normalize

    points = normalize(features.numpy().astype(np.float64))
    graph = (
        graph_of_distinct(points, num_clusters, neighbours, copies)
        if copies
        else build_graph(points, num_clusters, neighbours)
    )
    points, n = graph.points, len(graph.points)
    if n <= num_clusters:
        alike = f"many images are alike: no more than {n} differ"
        few = alike if n < len(features) else "there are no more images than clusters"
        return _kmeans_instead(few, features, num_clusters, restarts, seed)
    if copies and graph.small_components >= num_clusters:
        parts = f"{graph.small_components} parts of a few images each"
        torn = f"many images are alike: the graph of their neighbours falls into {parts}"
        return _kmeans_instead(torn, features, num_clusters, restarts, seed)
    degrees = np.asarray(graph.adjacency.sum(axis=1)).ravel()
    weak = WEAK_EDGES * degrees.mean()
    scale = (degrees + weak) ** -0.5

    def walk(vector: np.ndarray) -> np.ndarray:
        scaled = scale * vector.ravel()
        moved: np.ndarray = scale * (graph.adjacency @ scaled + weak * scaled.mean())
        return moved

    count = min(math.ceil(EIGENVECTORS * num_clusters), n - 1)
    begin = np.random.default_rng(seed).normal(size=n)
    _, vectors = eigsh(LinearOperator((n, n), matvec=walk, dtype=np.float64), k=count, which="LA", tol=1e-6, v0=begin)
    cluster = KMeans(num_clusters, n_init=restarts, random_state=seed).fit(normalize(vectors)).labels_
    if (found := len(np.unique(cluster))) < num_clusters:
        few = f"many images are alike: the graph of their neighbours has {found} clusters only"
        return _kmeans_instead(few, features, num_clusters, restarts, seed)
    return torch.from_numpy(np.stack([points[cluster == k].mean(axis=0) for k in range(num_clusters)])).float()


def _kmeans_instead(why: str, features: Tensor, num_clusters: int, restarts: int, seed: int) -> Tensor:
    warnings.warn(f"{why}, so the prototypes start from a k-means", Notice, stacklevel=3)
    return kmeans_centres(features, num_clusters, restarts, seed)


def find_centres(
    features: Tensor, num_clusters: int, start: StartConfig, seed: int, threads: int | None = None
) -> Tensor:
    """Centres by the configured method: (n, d) float32 on the CPU to (K, d).

    ``threads``: how many may work, whatever OMP_NUM_THREADS says; None: as it says.
    """
    import sklearn.cluster  # noqa: F401  # its threads must be there to be counted
    from threadpoolctl import threadpool_limits

    with threadpool_limits(threads):
        if start.method == "spectral":
            return spectral_centres(features, num_clusters, start.restarts, seed, start.neighbours)
        return kmeans_centres(features, num_clusters, start.restarts, seed)
