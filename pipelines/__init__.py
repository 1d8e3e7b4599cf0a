"""Pipelines: packed pictures in, batches of two augmented views out.

`open_pipeline` chooses among them; each backend is one file and is imported only when it is used.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass

import numpy as np
import torch

from tcc_fast.batch import Pipeline
from tcc_fast.config import Config
from tcc_fast.datasets import Dataset
from tcc_fast.pipelines.damage import Damage
from tcc_fast.pipelines.order import SINGLE, EpochOrder, Shard
from tcc_fast.pipelines.pictures import channel_moments, common_geometry, decode

__all__ = ["Shard", "choose_pipeline", "free_memory", "open_backend", "open_pipeline"]

RESIDENT_SHARE = 0.5
"""Part of the free memory that the resident pictures may take; the rest is the model's."""


@dataclass(frozen=True)
class Choice:
    """A backend, and why."""

    name: str
    reason: str


def choose_pipeline(dataset: Dataset, config: Config, device: torch.device) -> Choice:
    """The backend that ``config.data.pipeline`` names; for `auto` the fastest that this machine and data set allow.

    Raises:
        ValueError: `resident` was asked for and does not fit; says what to do.
    """
    asked = config.data.pipeline
    if asked not in ("auto", "resident"):
        return Choice(asked, "as asked")
    height, width = common_geometry(dataset, config.data.image_size)
    needed, free = len(dataset) * 3 * height * width, free_memory(device)
    size = f"{needed / 2**20:,.0f} MiB of {free / 2**20:,.0f} MiB free on {device}"
    if needed <= RESIDENT_SHARE * free:
        return Choice("resident", f"all {len(dataset):,} pictures decoded once, {size}")
    if asked == "resident":
        raise ValueError(
            f"data.pipeline=resident needs {size}, more than the {RESIDENT_SHARE:.0%} it may take: "
            "choose data.pipeline=auto, or convert with a smaller --short-side"
        )
    reason = f"resident would need {size}"
    if dataset.manifest.beton is not None and installed("ffcv"):
        return Choice("ffcv", reason)
    lacking = "no beton" if dataset.manifest.beton is None else "FFCV is not installed"
    if installed("nvidia.dali"):
        return Choice("dali", f"{reason}; {lacking}")
    return Choice("torch", f"{reason}; {lacking}, and DALI is not installed: both are many times faster")


def open_pipeline(
    dataset: Dataset,
    config: Config,
    device: torch.device,
    shard: Shard = SINGLE,
    dtype: torch.dtype = torch.float32,
) -> tuple[Pipeline, str]:
    """The pipeline that ``config.data.pipeline`` names, and a sentence that says which it is and why.

    Raises:
        ValueError: the batch does not fit the data set or the ranks, `resident` does not fit into memory, or what
            the backend needs is not installed or not converted.
    """
    order = EpochOrder(len(dataset), config.train.batch_size, config.seed, shard)
    choice = choose_pipeline(dataset, config, device)
    return open_backend(choice.name, dataset, config, device, order, dtype), f"pipeline {choice.name}: {choice.reason}"


def open_backend(
    name: str, dataset: Dataset, config: Config, device: torch.device, order: EpochOrder, dtype: torch.dtype
) -> Pipeline:
    """The backend of this name, as `choose_pipeline` gives it, with its images in ``order``."""
    recipe, size, workers = config.augment, config.data.image_size, config.data.workers
    if name == "resident":
        from tcc_fast.pipelines.resident import ResidentPipeline

        damage = Damage(dataset)
        pictures = _load(dataset, common_geometry(dataset, size), device, damage)
        sizes = torch.from_numpy(dataset.sizes().astype(np.int64))
        mean, std = channel_moments(dataset)
        return ResidentPipeline(pictures, sizes, mean, std, recipe, size, order, dtype, damage.indices, workers)
    if name == "ffcv":
        from tcc_fast.pipelines.ffcv_views import FfcvPipeline

        os_cache = config.data.ffcv_cache == "os"
        return FfcvPipeline(dataset, recipe, size, order, device, workers, dtype, os_cache)
    if name == "dali":
        from tcc_fast.pipelines.dali_views import DaliPipeline

        return DaliPipeline(dataset, recipe, size, order, device, workers, dtype)
    from tcc_fast.pipelines.torch_views import TorchPipeline

    return TorchPipeline(dataset, recipe, size, order, device, workers, dtype)


def _load(dataset: Dataset, geometry: tuple[int, int], device: torch.device, damage: Damage) -> torch.Tensor:
    """Every picture, (N, H, W, 3) uint8 on the device: decoded there if it is a GPU and DALI is installed."""
    if device.type == "cuda" and dataset.manifest.indexes and installed("nvidia.dali"):
        from tcc_fast.pipelines.dali_fill import fill_by_dali

        try:
            return fill_by_dali(dataset, geometry, device)
        except RuntimeError:
            pass  # it does not say which picture it was: the other way does
    return decode(dataset, range(len(dataset)), geometry, device, damage)


def installed(module: str) -> bool:
    """Whether a package is there; nothing is imported but what it lies in."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def free_memory(device: torch.device) -> int:
    """Bytes that can still be taken on the device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    with open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
