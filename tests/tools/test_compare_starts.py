"""The comparison of starts: what each method finds where the clusters are known, and a whole small comparison."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tcc_fast.config import load_config
from tests.conftest import TINY, load_study, load_tool


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    load_study()
    return load_tool("compare_starts")


@pytest.mark.filterwarnings("ignore:the number of connected components")  # Ward joins clouds that lie so far apart
def test_every_method_but_chance_finds_clusters_that_lie_apart(tool: ModuleType) -> None:
    generator = torch.Generator().manual_seed(0)
    clouds = torch.eye(4, 16).repeat(60, 1) + 0.1 * torch.randn(240, 16, generator=generator)
    features = F.normalize(clouds, dim=1)
    for name, method in tool.METHODS.items():
        centres = F.normalize(method(features, 4, 1), dim=1)
        assert centres.shape == (4, 16), name
        if name != "random images":
            nearest = (features @ centres.T).argmax(dim=1).reshape(60, 4)
            assert (nearest == nearest[0]).all(), name
            assert len(nearest[0].unique()) == 4, name


def test_copies_are_of_few_images_and_nearly_alike(tool: ModuleType) -> None:
    features = F.normalize(torch.randn(600, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    found = tool.copied(features, 3, 0.02, 1)
    assert found.shape == (1500, 16)
    nearest = features @ found.T
    assert (nearest.amax(dim=1) > 0.999).sum() == 500
    assert (nearest > 0.999).sum() == 1500
    assert nearest.max() < 0.99999


def test_an_empty_cluster_has_no_mean(tool: ModuleType) -> None:
    found = tool.means(torch.eye(3), np.array([0, 2, 2]))
    assert torch.equal(found, torch.tensor([[1.0, 0, 0], [0, 0.5, 0.5]]))


def test_a_comparison_trains_to_the_start_and_scores_every_kind_of_features(
    tool: ModuleType,
    digits: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def tiny(name: str, overrides: list[str]) -> object:
        return load_config(name, [*TINY, "start.at=0.5", *overrides])

    monkeypatch.setattr(tool, "load_config", tiny)
    monkeypatch.setattr(tool, "VIEW_EPOCHS", 1)
    file = tmp_path / "starts.json"
    monkeypatch.setattr(sys, "argv", ["compare_starts.py", str(digits), "--seeds", "3", "--json", str(file)])
    tool.main()
    scores = json.loads(file.read_text())["digits"]
    assert scores.keys() == {"online", "twin", "online, 2 views"}
    for kind in scores.values():
        assert kind.keys() == tool.METHODS.keys()
        assert all(10 <= acc <= 100 for (acc,) in kind.values())
    assert scores["online"] != scores["twin"]
    assert "| spectral | " in capsys.readouterr().out
