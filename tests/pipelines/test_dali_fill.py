"""DALI fills the resident images with what is decoded without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tcc_fast.datasets import Dataset, open_dataset
from tcc_fast.pipelines import dali_fill
from tcc_fast.pipelines.dali_fill import fill_by_dali
from tcc_fast.pipelines.decoded import decode
from tcc_fast.pipelines.fill import share
from tcc_fast.pipelines.order import SINGLE, RankShare

pytest.importorskip("nvidia.dali")


def filled(dataset: Dataset, count: int, height: int, width: int, rank_share: RankShare = SINGLE) -> torch.Tensor:
    out = torch.empty(count, height, width, 3, dtype=torch.uint8)
    fill_by_dali(out, dataset, rank_share)
    return out


@pytest.mark.parametrize("batch", [5, 8, 24, 256])
def test_images_that_are_not_squeezed_are_the_same_in_the_same_order(
    frames: Path, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dali_fill, "BATCH", batch)  # 24 images: in parts that fit, or do not
    dataset = open_dataset(frames)
    assert torch.equal(filled(dataset, 24, 40, 56), decode(dataset, range(24), (40, 56)))


@pytest.mark.parametrize("rank", range(5))
def test_a_rank_gets_its_share(frames: Path, rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dali_fill, "BATCH", 3)
    dataset, rank_share = open_dataset(frames), RankShare(rank, 5)
    images = range(24)[share(24, rank_share)]
    assert torch.equal(filled(dataset, len(images), 40, 56, rank_share), decode(dataset, images, (40, 56)))


def test_squeezed_images_differ_by_what_two_resizes_differ(photos: Path) -> None:
    dataset = open_dataset(photos)
    found, expected = filled(dataset, 46, 48, 48), decode(dataset, range(46), (48, 48))
    assert found.shape == expected.shape == (46, 48, 48, 3)
    difference = (found.float() - expected.float()).abs()
    assert difference.flatten(1).mean(1).max() < 1.5
    others = (found.float() - expected.roll(1, 0).float()).abs()
    assert others.flatten(1).mean(1).min() > 10


def test_an_image_that_cannot_be_decoded_is_an_error(photos: Path, damaged: Any) -> None:
    dataset = damaged(photos, {int(np.flatnonzero(~open_dataset(photos).is_png())[2]): b""})
    for _ in range(20):  # DALI by itself brings the process down, more often than not
        with pytest.raises(RuntimeError):
            filled(dataset, 46, 48, 48)


def test_what_cannot_be_decoded_in_another_share_is_no_trouble(photos: Path, damaged: Any) -> None:
    """A batch of 16 would reach beyond the 15 images of the second share, to those of the third."""
    dataset = damaged(photos, dict.fromkeys((image for image in range(30, 46) if image in jpegs(photos)), b""))
    found = filled(dataset, 15, 48, 48, RankShare(1, 3))
    assert (found.float() - decode(dataset, range(15, 30), (48, 48)).float()).abs().mean() < 1.5


def jpegs(photos: Path) -> list[int]:
    return np.flatnonzero(~open_dataset(photos).is_png()).tolist()
