"""Quantities without labels, against cases that can be worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tcc_fast.batch import Batch
from tcc_fast.config import config_from_tree, load_config
from tcc_fast.evaluation.evaluate import evaluate
from tcc_fast.evaluation.label_free import SILHOUETTE_IMAGES, label_free_scores, view_agreement
from tcc_fast.method.model import TCC
from tcc_fast.train import train
from tests.conftest import TINY


def at_angles(degrees: list[float]) -> Tensor:
    """Unit vectors (n, 2)."""
    radians = torch.tensor(degrees).deg2rad()
    return torch.stack([radians.cos(), radians.sin()], dim=1)


def test_of_two_pairs() -> None:
    """Each image is 1 - cos 10° from its partner, and on average 1 - (cos 80° + 2 cos 90° + cos 100°) / 4 = 1 from
    the others."""
    features = at_angles([0, 10, 90, 100])
    assignment = torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.0, 1.0]])
    found = label_free_scores(features, assignment)
    near = 1 - math.cos(math.radians(10))
    far = [1 - (math.cos(math.radians(a)) + math.cos(math.radians(b))) / 2 for a, b in ((90, 100), (80, 90))]
    expected = sum((other - near) / other for other in far * 2) / 4
    assert found["silhouette"] == pytest.approx(expected, abs=1e-5)
    assert found["confidence"] == pytest.approx((0.9 + 0.7 + 0.8 + 1.0) / 4)
    assert found["balance"] == pytest.approx(1.0)


def test_of_a_single_cluster_there_is_no_silhouette_and_no_balance() -> None:
    found = label_free_scores(at_angles([0, 40, 90]), torch.tensor([[0.8, 0.2]] * 3))
    assert math.isnan(found["silhouette"])
    assert found["balance"] == 0


def test_of_many_images_some_from_everywhere_are_compared() -> None:
    """Clusters are right for the first half and mixed in the second: the sample must see both, and both classes."""
    count = 4 * SILHOUETTE_IMAGES
    place = torch.arange(count)
    features = at_angles((place % 2 * 90.0).tolist())
    chosen = torch.where(place < count // 2, place % 2, place // 2 % 2)
    found = label_free_scores(features, F.one_hot(chosen, 2).float())
    assert 0.2 < found["silhouette"] < 0.8


class Views:
    """Two batches of images whose mean brightness decides the cluster."""

    batches_per_epoch = 2

    def __iter__(self):  # type: ignore[no-untyped-def]
        for second in ([1.0, -1.0, 1.0, 1.0], [-1.0, -1.0, -1.0, 1.0]):
            first = torch.tensor([1.0, -1.0, -1.0, 1.0]).view(4, 1, 1, 1).expand(4, 3, 2, 2)
            other = torch.tensor(second).view(4, 1, 1, 1).expand(4, 3, 2, 2)
            yield Batch(first, other, torch.arange(4))


def test_views_that_get_the_same_cluster_are_counted() -> None:
    config = config_from_tree({"model": {"num_clusters": 2, "feature_dim": 3}})
    model = TCC(config.model, config.loss, torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()))
    model.set_prototypes(torch.tensor([[1.0, 1.0, 1.0], [-1.0, -1.0, -1.0]]))
    model.encoder.append(torch.nn.Linear(3, 3))
    torch.nn.init.eye_(model.encoder[-1].weight)
    torch.nn.init.zeros_(model.encoder[-1].bias)
    modes: list[bool] = []

    def note(module: torch.nn.Module, views: object, features: Tensor) -> None:
        modes.append(module.training)
        assert not features.requires_grad

    model.encoder.register_forward_hook(note)
    assert view_agreement(model.train(), Views()) == 6 / 8  # type: ignore[arg-type]
    assert modes == [False] * 4  # else each image's cluster would depend on its batch
    assert model.training


def test_an_evaluation_reports_them(digits: Path, tmp_path: Path) -> None:
    train(load_config("digits", [*TINY, "start.method=none", "train.epochs=1"]), digits, tmp_path / "run")
    found = evaluate(tmp_path / "run", baselines=(), agreement=True).to_json()["label_free"]
    assert set(found) == {"silhouette", "confidence", "balance", "agreement"}
    assert -1 <= found["silhouette"] <= 1
    assert 0.1 <= found["confidence"] <= 1
    assert 0 <= found["agreement"] <= 1
