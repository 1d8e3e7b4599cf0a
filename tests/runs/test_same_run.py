"""Which settings may differ between a run and its continuation: exactly those that touch nothing that is computed."""

from __future__ import annotations

from typing import Any

import pytest

from tcc_fast.config import all_keys, config_from_tree
from tcc_fast.runs.same_run import _CHANGEABLE_KEYS, differing_settings
from tcc_fast.settings import Config

FREE = {
    "data.workers",
    "data.ffcv_cache",
    "train.log_every",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.tensorboard",
}
OTHER: dict[str, Any] = {
    "data.pipeline": "torch",
    "data.split": "train",
    "data.ffcv_cache": "process",
    "model.backbone": "resnet18",
    "model.stem": "7x7",
    "model.prototype_init": "normal",
    "model.width": 24,
    "start.method": "kmeans",
    "optim.name": "sgd",
    "optim.schedule": "cosine",
    "optim.milestones": [0.5],
    "train.precision": "bf16",
    "train.compile": "on",
    "train.init": "runs/before",
    "augment.zoom": [0.5, 1.0],
    "augment.crop_area": [0.3, 1.0],
    "augment.crop_aspect": [0.5, 2.0],
    "momentum.decay": 0.5,
}
SMALL = {"model": {"backbone": "resnet_small", "num_clusters": 7}, "data": {"workers": 3}}


def changed(key: str) -> Config:
    """Another value of one setting."""
    tree = config_from_tree(SMALL).model_dump(mode="json")
    section, _, name = key.rpartition(".")
    node = tree[section] if section else tree
    was = node[name]
    if key in OTHER:
        node[name] = OTHER[key]
    elif isinstance(was, bool):
        node[name] = not was
    else:
        node[name] = 0.125 if was is None or isinstance(was, float) else was + 3
    return config_from_tree(tree)


@pytest.mark.parametrize("key", all_keys())
def test_a_setting_that_is_computed_with_may_not_change_unnoticed(key: str) -> None:
    assert differing_settings(config_from_tree(SMALL), changed(key)) == ([] if key in FREE else [key])


def test_few_settings_may_be_changed_on_purpose() -> None:
    assert set(_CHANGEABLE_KEYS) == {"optim.lr", "train.precision", "train.compile"}
