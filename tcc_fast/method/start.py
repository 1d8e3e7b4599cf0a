"""Starts of the prototypes from features: additions to the paper, one initialisation after a warm-up."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tcc_fast.notice import Notice
from tcc_fast.settings import StartConfig

MAX_IMAGES = 50_000
"""A start sees at most this many features, evenly spread over the data set."""
EIGENVECTORS = 1.2
"""Taken a cluster. Ours: of 1, 1.1, 1.2, 1.3 and 1.5 the one that never failed, on the features of 11 runs on three
image sets with K = 10."""
WEAK_EDGES = 0.03
"""Weight of all weak edges of an image together, as a fraction of the mean degree. Ours: 0 to 0.3 hardly differ."""

COPIES = (0.999, 0.99, 0.97, 0.94, 0.9)
"""Cosines of two features from which their images count as copies of each other: the first knows the same image again,
the others are tried where the graph still has stray parts. Ours: with the first no set here has any."""
STRAY = 0.1
"""Of the images of an average cluster; a part of the graph that has fewer is no cluster, but some images alike.
Ours."""


def evenly_spread(num_images: int, limit: int = MAX_IMAGES) -> list[int]:
    """At most ``limit`` indices, evenly spread over 0..num_images-1."""
    count = min(num_images, limit)
    return [i * num_images // count for i in range(count)]


def kmeans_centres(features: Tensor, num_clusters: int, restarts: int, seed: int) -> Tensor:
    """Centres of the best of ``restarts`` k-means runs: (n, d) float32 on the CPU, n at least K, to (K, d)."""
    from sklearn.cluster import KMeans  # takes a second, and not every run comes here

    kmeans = KMeans(num_clusters, n_init=restarts, random_state=seed).fit(features.numpy().astype(np.float64))
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
    has two before the last cluster has its first. Of images that are copies of each other one counts, see
    :func:`neighbour_graph`.

    Args:
        features: (n, d) float32 on the CPU, finite, n at least K.
        num_clusters: K.
        restarts: of the k-means among the eigenvectors' rows.
        seed: of that k-means and of the eigenvectors' iteration.
        neighbours: of an image in the graph, itself among them, by cosine; at most n are taken.
        copies: cosines from which two are copies, see `COPIES`; none: every image counts.

    Returns:
        (K, d), means of unit features; with a warning those of a k-means, if fewer clusters can be told apart, where
        many features are alike.
    """
    from scipy.sparse.linalg import LinearOperator, eigsh
    from sklearn.cluster import KMeans
    from sklearn.preprocessing import normalize

    points = normalize(features.numpy().astype(np.float64))
    points, graph, strays = neighbour_graph(points, num_clusters, neighbours, copies)
    n = len(points)
    if n <= num_clusters or strays >= num_clusters:
        few = f"{n} images only" if n <= num_clusters else f"{strays} parts of a few images each"
        return _kmeans_instead(few, features, num_clusters, restarts, seed)
    degrees = np.asarray(graph.sum(axis=1)).ravel()
    weak = WEAK_EDGES * degrees.mean()
    scale = (degrees + weak) ** -0.5

    def walk(vector: np.ndarray) -> np.ndarray:
        scaled = scale * vector.ravel()
        moved: np.ndarray = scale * (graph @ scaled + weak * scaled.mean())
        return moved

    count = min(math.ceil(EIGENVECTORS * num_clusters), n - 1)
    begin = np.random.default_rng(seed).normal(size=n)
    _, vectors = eigsh(LinearOperator((n, n), matvec=walk, dtype=np.float64), k=count, which="LA", tol=1e-6, v0=begin)
    cluster = KMeans(num_clusters, n_init=restarts, random_state=seed).fit(normalize(vectors)).labels_
    if (found := len(np.unique(cluster))) < num_clusters:
        return _kmeans_instead(f"{found} clusters only", features, num_clusters, restarts, seed)
    return torch.from_numpy(np.stack([points[cluster == k].mean(axis=0) for k in range(num_clusters)])).float()


def _kmeans_instead(what: str, features: Tensor, num_clusters: int, restarts: int, seed: int) -> Tensor:
    warnings.warn(
        f"the graph of neighbours falls into {what}, where many images are alike, so the prototypes start from a "
        "k-means",
        Notice,
        stacklevel=3,
    )
    return kmeans_centres(features, num_clusters, restarts, seed)


def neighbour_graph(
    points: np.ndarray, num_clusters: int, neighbours: int, copies: Sequence[float]
) -> tuple[np.ndarray, Any, int]:
    """The points that count, (m, d) of (n, d), the symmetric graph of their nearest neighbours, sparse (m, m), and how
    many stray parts it has.

    Where an image is there many times, or in a burst, its nearest neighbours are its copies: they make a part of the
    graph by themselves, which has an eigenvector before a cluster has. So copies are left out: those of the first
    cosine; and, while there are parts much smaller than a cluster, those of the next. If none of them helps, it is
    as with the first. With no cosines every point counts, and no part is stray.
    """
    from sklearn.neighbors import kneighbors_graph

    def of(left: np.ndarray) -> tuple[np.ndarray, Any, int]:
        graph = kneighbors_graph(left, min(neighbours, len(left)), include_self=True)
        return left, (graph + graph.T) / 2, _small_parts(graph, STRAY * len(left) / num_clusters)

    if not copies:
        return *of(points)[:2], 0
    first = chosen = of(points[distinct(points, copies[0])])
    for copy in copies[1:]:
        if chosen[2] == 0:
            break
        chosen = of(points[distinct(points, copy)])
    if chosen[2]:  # nothing has helped
        return first
    left = chosen[0]
    if len(left) < len(first[0]):
        warnings.warn(
            f"many images are nearly the same: {len(left):,} of {len(points):,} that differ by more had a say in where "
            "the prototypes start",
            Notice,
            stacklevel=3,
        )
    return chosen


def _small_parts(graph: Any, fewest: float) -> int:
    """Parts of the graph that have fewer nodes."""
    from scipy.sparse.csgraph import connected_components

    _, part = connected_components(graph, directed=False)
    return int((np.bincount(part) < fewest).sum())


def distinct(points: np.ndarray, copy: float, block: int = 512) -> np.ndarray:
    """Which unit vectors, (n, d), are no copy of an earlier one that is none itself: (n,) bool."""
    points = points.astype(np.float32)
    found = np.zeros(len(points), dtype=bool)
    for first in range(0, len(points), block):
        some = points[first : first + block]
        new = (some @ points[:first][found[:first]].T).max(axis=1, initial=-1.0) < copy
        copies = np.tril(some @ some.T >= copy, -1)  # of an earlier one in the block
        for row in np.flatnonzero(new & copies.any(axis=1)):
            new[row] = not (copies[row] & new).any()
        found[first : first + block] = new
    return found


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
