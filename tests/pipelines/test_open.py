"""`open_pipeline`: which backend, why, and when not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tcc_fast import pipelines
from tcc_fast.config import Config
from tcc_fast.datasets import open_dataset
from tcc_fast.pipelines import Shard, free_memory, open_pipeline
from tcc_fast.pipelines.resident import ResidentPipeline
from tcc_fast.pipelines.torch_views import TorchPipeline

CPU = torch.device("cpu")
NEEDED = 46 * 3 * 48 * 48
"""Bytes of the photos, stored at 48 x 48."""

Configure = Callable[..., Config]


def test_auto_takes_what_fits_into_half_of_the_free_memory(
    photos: Path, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = open_dataset(photos)
    monkeypatch.setattr(pipelines, "free_memory", lambda device: 2 * NEEDED)
    pipeline, why = open_pipeline(dataset, configure("auto"), CPU)
    assert isinstance(pipeline, ResidentPipeline)
    assert why == "pipeline resident: all 46 pictures decoded once, 0 MiB of 1 MiB free on cpu"
    assert pipeline.pictures.numel() == NEEDED
    pipeline.close()
    assert pipeline.pictures.numel() == 0

    monkeypatch.setattr(pipelines, "free_memory", lambda device: 2 * NEEDED - 1)
    pipeline, why = open_pipeline(dataset, configure("auto"), CPU)
    assert isinstance(pipeline, TorchPipeline)
    assert why == "pipeline torch (DataLoader): resident would need 0 MiB of 1 MiB free on cpu"
    pipeline.close()


def test_a_backend_that_is_asked_for_is_taken(photos: Path, configure: Configure) -> None:
    dataset = open_dataset(photos)
    pipeline, why = open_pipeline(dataset, configure("torch"), CPU)
    assert isinstance(pipeline, TorchPipeline)
    assert why == "pipeline torch (DataLoader): as asked"
    pipeline.close()
    pipeline, why = open_pipeline(dataset, configure("resident"), CPU)
    assert isinstance(pipeline, ResidentPipeline)
    assert why.startswith("pipeline resident: all 46 pictures")
    pipeline.close()


def test_resident_that_does_not_fit_says_what_to_choose(
    photos: Path, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipelines, "free_memory", lambda device: NEEDED)
    dataset = open_dataset(photos)
    with pytest.raises(ValueError, match=r"needs 0 MiB of 0 MiB free on cpu.*50%.*data.pipeline=torch.*--short-side"):
        open_pipeline(dataset, configure("resident"), CPU)


@pytest.mark.parametrize("backend", ["auto", "resident", "torch"])
def test_batches_that_cannot_be_made_are_refused_before_anything_is_decoded(
    photos: Path, configure: Configure, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(*arguments: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(pipelines, "decode", decode)
    dataset = open_dataset(photos)
    with pytest.raises(ValueError, match=r"batch_size is 47, but the data set has 46 images: set train.batch_size=8 "):
        open_pipeline(dataset, configure(backend, batch_size=47), CPU)
    with pytest.raises(ValueError, match=r"batch_size is 8, which 3 processes .*: set train.batch_size=6$"):
        open_pipeline(dataset, configure(backend, batch_size=8), CPU, Shard(0, 3))


def test_free_memory_is_a_number_of_bytes() -> None:
    with open("/proc/meminfo", encoding="ascii") as file:
        total = next(int(line.split()[1]) for line in file if line.startswith("MemTotal:")) * 1024
    assert 2**20 < free_memory(CPU) <= total
