"""Starts of the prototypes: what they find among features whose clusters are known."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_info
from torch import Tensor

from tcc_fast.method.neighbour_graph import COPIES, distinct
from tcc_fast.method.start import (
    EIGENVECTORS,
    WEAK_EDGES,
    evenly_spread,
    find_centres,
    kmeans_centres,
    spectral_centres,
)
from tcc_fast.settings import StartConfig

Start = Callable[[Tensor, int, int, int], Tensor]
STARTS: dict[str, Start] = {"kmeans": kmeans_centres, "spectral": spectral_centres}


def clouds(count: int = 40) -> tuple[Tensor, Tensor]:
    """Four narrow clouds in eight dimensions: points (n, 8) and their centres (4, 8)."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.eye(4, 8)
    points = centres.repeat(count, 1) + 0.02 * torch.randn(4 * count, 8, generator=generator)
    return points, centres


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS.keys())
def test_one_prototype_lands_in_every_cloud_and_the_seed_decides_where(start: Start) -> None:
    points, centres = clouds()
    found = start(points, 4, 5, 0)
    assert found.shape == (4, 8)
    assert found.dtype == torch.float32
    assert sorted(torch.cdist(found, centres).argmin(dim=1).tolist()) == [0, 1, 2, 3]
    assert torch.cdist(found, centres).min(dim=1).values.max() < 0.2
    assert torch.equal(found, start(points, 4, 5, 0))


def test_spectral_clusters_are_those_of_a_dense_transcription() -> None:
    """Regularised normalised cuts written out with full matrices; more clusters than clouds, so that cuts matter."""
    generator = torch.Generator().manual_seed(2)
    points = torch.eye(4, 16).repeat(60, 1) + 0.3 * torch.randn(240, 16, generator=generator)
    unit = points.double().numpy() / np.linalg.norm(points.double().numpy(), axis=1, keepdims=True)
    edges = np.zeros((240, 240))
    np.put_along_axis(edges, np.argsort(-unit @ unit.T, axis=1)[:, :12], 1, axis=1)
    edges = (edges + edges.T) / 2
    edges += WEAK_EDGES * edges.sum(axis=1).mean() / 240
    degrees = edges.sum(axis=1)
    vectors = np.linalg.eigh(edges / np.sqrt(np.outer(degrees, degrees)))[1][:, -math.ceil(EIGENVECTORS * 4) :]
    rows = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cluster = KMeans(4, n_init=20, random_state=1).fit(rows).labels_
    expected = np.stack([unit[cluster == k].mean(axis=0) for k in range(4)])
    found = spectral_centres(points, 4, 20, 0, neighbours=12).numpy()
    nearest = np.linalg.norm(expected[:, None] - found, axis=2)
    assert sorted(nearest.argmin(axis=1)) == [0, 1, 2, 3]
    assert nearest.min(axis=1).max() < 1e-6


def test_spectral_clusters_may_be_chains() -> None:
    """Two circles of latitude: a k-means halves them, normalised cuts tell one from the other."""
    angle = torch.linspace(0, 2 * math.pi, 61)[:60]  # near ones would be copies
    north, middle = math.radians(55), math.radians(20)
    circles = [
        torch.stack([math.cos(a) * angle.cos(), math.cos(a) * angle.sin(), torch.full_like(angle, math.sin(a))], dim=1)
        for a in (north, middle)
    ]
    points = torch.cat(circles)
    found = spectral_centres(points, 2, 10, 0, neighbours=8)
    expected = torch.tensor([[0, 0, math.sin(middle)], [0, 0, math.sin(north)]])
    torch.testing.assert_close(found[found[:, 2].argsort()], expected, atol=1e-3, rtol=0)
    halved = kmeans_centres(points, 2, 10, 0)
    assert halved[:, :2].norm(dim=1).min() > 0.3


def test_copies_of_images_have_no_say_in_spectral_clusters() -> None:
    """Without that, each of 60 images with 25 copies would be a component of the graph, where four clusters are."""
    generator = torch.Generator().manual_seed(2)
    points = torch.eye(4, 16).repeat(60, 1) + 0.3 * torch.randn(240, 16, generator=generator)
    copies = points[:60].repeat(25, 1)
    copies = torch.cat([copies[:700], copies[700:] + 1e-3 * torch.randn(800, 16, generator=generator)])
    assert torch.equal(spectral_centres(torch.cat([points, copies]), 4, 5, 0), spectral_centres(points, 4, 5, 0))


@pytest.mark.parametrize(
    ("copies", "said"),
    [
        (COPIES, "many images are nearly the same: .* of 1,500"),
        ((0.999,), "into 60 parts of a few images each.* k-means"),
    ],
)
def test_bursts_are_thinned_and_where_that_is_not_enough_a_k_means_starts(copies: tuple[float, ...], said: str) -> None:
    """60 images, each 25 times with noise, so that the graph of 20 neighbours has 60 parts, where four clusters are."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.eye(4, 32)
    images = F.normalize(centres.repeat(15, 1) + 0.12 * torch.randn(60, 32, generator=generator), dim=1)
    bursts = images.repeat_interleave(25, 0)
    points = F.normalize(bursts + 0.1 * F.normalize(torch.randn(bursts.shape, generator=generator), dim=1), dim=1)
    with pytest.warns(RuntimeWarning, match=said):
        found = spectral_centres(points, 4, 5, 0, copies=copies)
    assert sorted(torch.cdist(found, centres).argmin(dim=1).tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize("block", [1, 7, 64, 1000])
def test_what_is_distinct_is_no_copy_of_what_is(block: int) -> None:
    """One image after the other, in double precision."""
    generator = torch.Generator().manual_seed(0)
    points = F.normalize(torch.randn(300, 3, generator=generator, dtype=torch.float64), dim=1).numpy()
    kept: list[int] = []
    for row in range(300):
        if all(points[row] @ points[other] < 0.999 for other in kept):
            kept.append(row)
    assert 50 < len(kept) < 290
    assert np.flatnonzero(distinct(points, 0.999, block)).tolist() == kept


def test_where_the_graph_has_too_few_clusters_a_k_means_starts_them() -> None:
    """A run that has come so far is not lost."""
    alike = torch.ones(2, 4)
    told = pytest.warns(RuntimeWarning, match="many images are alike: no more than 1 differ, so .* k-means")
    too_few = pytest.warns(RuntimeWarning, match=r"can tell 1 clusters apart, .* there is nothing to cluster")
    with too_few, told:
        found = spectral_centres(alike, 2, 1, 0)
    with too_few:
        assert torch.equal(found, kmeans_centres(alike, 2, 1, 0))


def test_more_threads_than_the_environment_says_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def counted(*arguments: object) -> int:
        return max(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "openmp")

    monkeypatch.setattr("tcc_fast.method.start.kmeans_centres", counted)
    points, start = torch.ones(4, 2), StartConfig(method="kmeans")
    assert find_centres(points, 2, start, 0) == 1  # as tests set it
    assert find_centres(points, 2, start, 0, threads=2) == 2
    assert find_centres(points, 2, start, 0) == 1


def test_a_limit_takes_evenly_spread_images() -> None:
    assert evenly_spread(5, 10) == [0, 1, 2, 3, 4]
    assert evenly_spread(10, 4) == [0, 2, 5, 7]


def test_the_method_is_the_configured_one() -> None:
    points = clouds()[0] + torch.randn(160, 8, generator=torch.Generator().manual_seed(4))
    spectral = StartConfig(method="spectral", restarts=5, neighbours=7)
    assert torch.equal(find_centres(points, 4, spectral, 3), spectral_centres(points, 4, 5, 3, 7))
    kmeans = StartConfig(method="kmeans", restarts=5)
    assert torch.equal(find_centres(points, 4, kmeans, 3), kmeans_centres(points, 4, 5, 3))


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS.keys())
def test_seed_and_restarts_reach_the_k_means(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []

    def k_means(num_clusters: int, n_init: int, random_state: int) -> KMeans:
        asked.append((n_init, random_state))
        return KMeans(num_clusters, n_init=n_init, random_state=random_state)

    monkeypatch.setattr("sklearn.cluster.KMeans", k_means)
    start(clouds()[0], 4, 7, 11)
    assert asked == [(7, 11)]
