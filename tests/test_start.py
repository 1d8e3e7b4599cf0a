"""Starts of the prototypes: what they find among features whose clusters are known."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from tcc_fast.start import STARTS, average_neighbours, distant_features, evenly_spread, kmeans_centres

Start = Callable[[Tensor, int, int, int], Tensor]


def clouds(count: int = 40) -> tuple[Tensor, Tensor]:
    """Four narrow clouds in eight dimensions: points (n, 8) and their centres (4, 8)."""
    generator = torch.Generator().manual_seed(0)
    centres = 5 * torch.eye(4, 8)
    points = centres.repeat(count, 1) + 0.1 * torch.randn(4 * count, 8, generator=generator)
    return points, centres


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS.keys())
def test_one_prototype_lands_in_every_cloud_and_the_seed_decides_where(start: Start) -> None:
    points, centres = clouds()
    found = start(points, 4, 5, 0)
    assert found.shape == (4, 8)
    assert found.dtype == torch.float32
    assert sorted(torch.cdist(found, centres).argmin(dim=1).tolist()) == [0, 1, 2, 3]
    assert torch.cdist(found, centres).min(dim=1).values.max() < 1
    assert torch.equal(found, start(points, 4, 5, 0))


def test_distant_features_are_features_and_more_draws_lie_no_worse() -> None:
    points = torch.randn(300, 8, generator=torch.Generator().manual_seed(1))

    def inertia(centres: Tensor) -> float:
        return torch.cdist(points, centres).min(dim=1).values.square().sum().item()

    one, many = distant_features(points, 6, 1, 3), distant_features(points, 6, 40, 3)
    for centres in (one, many):
        assert torch.cdist(centres, points).min(dim=1).values.max() < 1e-3
    assert inertia(many) < inertia(one)
    assert inertia(kmeans_centres(points, 6, 10, 3)) < inertia(many)  # no k-means was run


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS.keys())
def test_what_cannot_be_clustered_is_refused(start: Start) -> None:
    with pytest.raises(ValueError, match="5 clusters need at least as many images, the data set has 3"):
        start(torch.randn(3, 8), 5, 1, 0)
    with pytest.raises(ValueError, match="not finite"):
        start(torch.full((30, 8), math.nan), 5, 1, 0)


def test_a_limit_takes_evenly_spread_images() -> None:
    assert evenly_spread(5, 10) == [0, 1, 2, 3, 4]
    assert evenly_spread(10, 4) == [0, 2, 5, 7]


def test_neighbours_are_averaged_as_a_transcription_does() -> None:
    points = torch.randn(50, 6, generator=torch.Generator().manual_seed(2))
    expected = points.double().numpy() / np.linalg.norm(points.double().numpy(), axis=1, keepdims=True)
    nearest = np.argsort(-expected @ expected.T, axis=1)[:, :7]
    for _ in range(3):
        expected = expected[nearest].mean(axis=1)
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(average_neighbours(points, 7, rounds=3).numpy(), expected, atol=1e-6)


def test_averaged_neighbours_lie_closer_to_their_own_cloud_and_no_closer_to_others() -> None:
    generator = torch.Generator().manual_seed(0)
    cloud = torch.arange(4).repeat(100)
    points = torch.eye(4, 16)[cloud] + 0.25 * torch.randn(400, 16, generator=generator)

    def similarity(x: Tensor) -> tuple[float, float]:
        x = torch.nn.functional.normalize(x, dim=1)
        same = cloud.unsqueeze(0) == cloud.unsqueeze(1)
        return (x @ x.T)[same].mean().item(), (x @ x.T)[~same].mean().item()

    before, after = similarity(points), similarity(average_neighbours(points, 20))
    assert after[0] > 0.95 > before[0]
    assert after[1] < before[1] + 0.1


def test_more_neighbours_than_points_are_all_points() -> None:
    points = torch.randn(5, 3, generator=torch.Generator().manual_seed(3))
    assert torch.equal(average_neighbours(points, 20), average_neighbours(points, 5))
