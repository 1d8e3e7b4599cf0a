"""DALI fills the resident images with what is decoded without it."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tcc_fast import pipelines
from tcc_fast.datasets import open_dataset
from tcc_fast.pipelines import dali_fill
from tcc_fast.pipelines.dali_fill import fill_by_dali
from tcc_fast.pipelines.damage import Damage
from tcc_fast.pipelines.decoded import decode

pytest.importorskip("nvidia.dali")

CPU = torch.device("cpu")


@pytest.mark.parametrize("batch", [5, 8, 24, 256])
def test_images_that_are_not_squeezed_are_the_same_in_the_same_order(
    frames: Path, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dali_fill, "BATCH", batch)  # 24 images: in parts that fit, or do not
    dataset = open_dataset(frames)
    found = fill_by_dali(dataset, (40, 56), CPU)
    assert found.dtype == torch.uint8
    assert torch.equal(found, decode(dataset, range(24), (40, 56)))


def test_squeezed_images_differ_by_what_two_resizes_differ(photos: Path) -> None:
    dataset = open_dataset(photos)
    found, expected = fill_by_dali(dataset, (48, 48), CPU), decode(dataset, range(46), (48, 48))
    assert found.shape == expected.shape == (46, 48, 48, 3)
    difference = (found.float() - expected.float()).abs()
    assert difference.flatten(1).mean(1).max() < 1.5
    others = (found.float() - expected.roll(1, 0).float()).abs()
    assert others.flatten(1).mean(1).min() > 10


def test_an_image_that_cannot_be_decoded_is_an_error(photos: Path, damaged: Any) -> None:
    dataset = damaged(photos, {int(np.flatnonzero(~open_dataset(photos).is_png())[2]): b""})
    for _ in range(20):  # DALI by itself brings the process down, more often than not
        with pytest.raises(RuntimeError):
            fill_by_dali(dataset, (48, 48), CPU)


@pytest.mark.parametrize("fails", [False, True])
def test_it_is_used_for_a_gpu_and_what_it_refuses_is_decoded_without_it(
    frames: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    dataset, asked = open_dataset(frames), []

    def fill(*arguments: Any) -> torch.Tensor:
        asked.append(arguments)
        if fails:
            raise RuntimeError("cannot be decoded")
        return torch.ones(1)

    monkeypatch.setattr(dali_fill, "fill_by_dali", fill)
    monkeypatch.setattr(pipelines, "installed", lambda module: True)
    monkeypatch.setattr(pipelines, "decode", lambda *arguments: torch.zeros(1))
    cuda = torch.device("cuda")
    said = (
        pytest.warns(RuntimeWarning, match=r"DALI could not decode the images \(cannot be") if fails else nullcontext()
    )
    with said:
        assert pipelines._load(dataset, (40, 56), cuda, Damage(dataset)).item() == (0 if fails else 1)
    assert asked == [(dataset, (40, 56), cuda)]
    assert pipelines._load(dataset, (40, 56), CPU, Damage(dataset)).item() == 0
    assert len(asked) == 1
