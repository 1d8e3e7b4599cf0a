"""Starts of the prototypes: what they find among features whose clusters are known."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tcc_fast.start import STARTS, distant_features, evenly_spread, kmeans_centres

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
