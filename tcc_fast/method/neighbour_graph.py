"""The graph of nearest neighbours that a spectral start cuts, without near-duplicates that would tear it apart.

Where an image is there many times, or in a burst, its nearest neighbours are its copies. They make a connected
component of the graph by themselves, which has an eigenvector before a cluster has one.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tcc_fast.notice import Notice

COPIES = (0.999, 0.99, 0.97, 0.94, 0.9)
"""Cosines of two features from which their images are near-duplicates: the first knows the same image again, the others
are tried where it leaves small components. Ours: it leaves none in the graphs of digits, mnist5k and glyphs."""
SMALL = 0.1
"""Of the images of an average cluster; a component of the graph that has fewer is no cluster, but some images alike.
Ours."""


class Graph(NamedTuple):
    """Points and which of them are neighbours."""

    points: np.ndarray
    """(m, d), unit vectors."""
    adjacency: Any
    """(m, m), sparse and symmetric: 1 where each is a neighbour of the other, 1/2 where one is."""
    small_components: int
    """Connected components that are much smaller than a cluster."""


def build_graph(points: np.ndarray, num_clusters: int, neighbours: int) -> Graph:
    """The graph of unit vectors, (m, d), and their nearest ``neighbours``, themselves among them."""
    from scipy.sparse.csgraph import connected_components
    from sklearn.neighbors import kneighbors_graph

    nearest = kneighbors_graph(points, min(neighbours, len(points)), include_self=True)
    _, component = connected_components(nearest, directed=False)
    small = np.bincount(component) < SMALL * len(points) / num_clusters
    return Graph(points, (nearest + nearest.T) / 2, int(small.sum()))


def graph_of_distinct(
    points: np.ndarray, num_clusters: int, neighbours: int, copies: Sequence[float] = COPIES
) -> Graph:
    """The graph of those points that are no near-duplicates of others.

    They differ by the first of ``copies``; while there are small components, by the next. If none of them helps, it is
    the graph of the first.

    Args:
        points: (n, d), unit vectors.
        num_clusters: K.
        neighbours: of a point, itself among them.
        copies: falling cosines, from which two points are near-duplicates.
    """
    first = graph = build_graph(points[distinct(points, copies[0])], num_clusters, neighbours)
    for cosine in copies[1:]:
        if graph.small_components == 0:
            break
        graph = build_graph(points[distinct(points, cosine)], num_clusters, neighbours)
    if graph.small_components:
        return first
    if graph is not first:
        warnings.warn(
            f"many images are nearly the same: {len(graph.points):,} of {len(points):,} that differ by more had a say "
            "in where the prototypes start",
            Notice,
            stacklevel=2,
        )
    return graph


def distinct(points: np.ndarray, cosine: float, block: int = 512) -> np.ndarray:
    """Which unit vectors, (n, d), are no near-duplicate of an earlier one that is none itself: (n,) bool."""
    points = points.astype(np.float32)
    found = np.zeros(len(points), dtype=bool)
    for first in range(0, len(points), block):
        some = points[first : first + block]
        new = (some @ points[:first][found[:first]].T).max(axis=1, initial=-1.0) < cosine
        copies = np.tril(some @ some.T >= cosine, -1)  # of an earlier one in the block
        for row in np.flatnonzero(new & copies.any(axis=1)):
            new[row] = not (copies[row] & new).any()
        found[first : first + block] = new
    return found
