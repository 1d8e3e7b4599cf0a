"""Fixtures that many tests share: a small real data set, and settings that train in a second."""

from __future__ import annotations

from pathlib import Path

import pytest

from tcc_fast.config import Config, load_config
from tcc_fast.datasets import convert

TINY = [
    "data.image_size=8",
    "model.backbone=resnet_small",
    "model.feature_dim=16",
    "queue.instance_length=100",
    "queue.cluster_multiple=2",
    "start.restarts=2",
    "train.batch_size=256",
    "train.epochs=2",
    "train.log_every=2",
    "train.precision=fp32",
]


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 1 797 handwritten digits, converted."""
    folder = tmp_path_factory.mktemp("data") / "digits"
    convert("digits", folder, progress=False)
    return folder


@pytest.fixture
def tiny() -> Config:
    """Settings that train digits in about a second."""
    return load_config("digits", TINY)
