"""Images that cannot be decoded: on every backend reported once, left blank, and borne while they are few."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tcc_fast.batch import Batch
from tcc_fast.datasets import open_dataset

every_backend = pytest.mark.parametrize(
    "backend",
    [("resident", 1), ("torch", 0), ("torch", 2), ("dali", 1), ("ffcv", 2), ("ffcv", 1, "process")],
    ids=lambda backend: "-".join(map(str, backend)),
)


def views_of(batches: list[Batch]) -> Iterator[tuple[int, Tensor]]:
    """(image, its two views)."""
    for batch in batches:
        for row, image in enumerate(batch.index.tolist()):
            yield image, torch.stack([batch.view_1[row], batch.view_2[row]])


def jpegs(folder: Path) -> list[int]:
    return np.flatnonzero(~open_dataset(folder, verify=False).is_png()).tolist()


@every_backend
@pytest.mark.parametrize("share", [0.0, 0.02], ids=["zeros", "start of a JPEG"])
def test_an_undecodable_image_is_reported_once_and_left_blank(
    pipeline: Any, photos: Path, damaged: Any, backend: tuple[Any, ...], share: float
) -> None:
    whole = pipeline(photos, *backend)
    expected = [list(whole) for _ in range(3)]
    in_order = [[image for image in batch.index.tolist() if image in jpegs(photos)] for batch in expected[0]]
    bad = [*in_order[1][:2], in_order[3][0]]  # two in one batch
    dataset = open_dataset(photos)
    contents = {image: (data := dataset.read(image))[: int(len(data) * share)] for image in bad}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made = pipeline(damaged(photos, contents), *backend)
        found = [list(made) for _ in range(3)]
    # From 3.12 on, Python deprecates forks beside threads, which DataLoader's workers are.
    messages = [str(warning.message) for warning in caught if not issubclass(warning.category, DeprecationWarning)]
    assert len(messages) == 3, messages
    for image in bad:
        assert sum(f"image {image} cannot be decoded and is left blank (" in message for message in messages) == 1
    if backend[0] != "resident":  # which knows it from the start
        assert made.damage.indices == set(bad)
    for epoch in range(3):
        assert [batch.index.tolist() for batch in found[epoch]] == [batch.index.tolist() for batch in expected[epoch]]
        for (image, views), (_, healthy) in zip(views_of(found[epoch]), views_of(expected[epoch]), strict=True):
            if image in bad:
                assert not views.any()
            else:
                assert torch.equal(views, healthy)


@every_backend
@pytest.mark.filterwarnings("ignore:.*is left blank")
def test_an_undecodable_image_of_a_split_is_left_blank(
    pipeline: Any, photos: Path, damaged: Any, backend: tuple[Any, ...]
) -> None:
    bad = max(image for image in jpegs(photos) if image < 44)
    dataset = damaged(photos, {bad: b""})
    dataset.manifest = dataclasses.replace(dataset.manifest, splits={"late": (20, 44), "all": (0, 46)})
    views = dict(views_of(list(pipeline(dataset, *backend, split="late"))))
    assert sorted(views) == list(range(20, 44))
    assert [image for image in views if not views[image].any()] == [bad]


@every_backend
@pytest.mark.filterwarnings("ignore:.*is left blank")
def test_too_many_undecodable_images_end_the_training(
    pipeline: Any, photos: Path, damaged: Any, backend: tuple[Any, ...]
) -> None:
    """46 images bear 10."""
    dataset = damaged(photos, dict.fromkeys(jpegs(photos)[:11], b""))
    with pytest.raises(ValueError, match="11 images cannot be decoded, where 10 are borne.*convert the data set again"):
        made = pipeline(dataset, *backend)
        for _ in range(6):
            list(made)
    bearable = damaged(photos, dict.fromkeys(jpegs(photos)[:10], b""))
    made = pipeline(bearable, *backend)
    assert [len(list(made)) for _ in range(4)] == [5] * 4
