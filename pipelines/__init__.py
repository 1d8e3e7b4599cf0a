"""Pipelines: packed pictures in, batches of two augmented views out.

`open_pipeline` chooses among them; each backend is one file and is imported only when it is used.
"""

from __future__ import annotations

import os

import numpy as np
import torch

from tcc_fast.batch import Pipeline
from tcc_fast.config import Config
from tcc_fast.datasets import Dataset
from tcc_fast.pipelines.order import SINGLE, EpochOrder, Shard
from tcc_fast.pipelines.pictures import channel_moments, common_geometry, decode

__all__ = ["Shard", "free_memory", "open_pipeline"]

RESIDENT_SHARE = 0.5
"""Part of the free memory that the resident pictures may take; the rest is the model's."""


def open_pipeline(
    dataset: Dataset,
    config: Config,
    device: torch.device,
    shard: Shard = SINGLE,
    dtype: torch.dtype = torch.float32,
) -> tuple[Pipeline, str]:
    """The pipeline that ``config.data.pipeline`` names, and a sentence that says which it is and why.

    Raises:
        ValueError: the batch does not fit the data set or the ranks, or `resident` does not fit into memory.
    """
    order = EpochOrder(len(dataset), config.train.batch_size, config.seed, shard)
    choice = config.data.pipeline
    image_size = config.data.image_size
    geometry = common_geometry(dataset, image_size)
    needed = len(dataset) * 3 * geometry[0] * geometry[1]
    free = free_memory(device)
    fits = needed <= RESIDENT_SHARE * free
    size = f"{needed / 2**20:,.0f} MiB of {free / 2**20:,.0f} MiB free on {device}"
    if choice == "resident" and not fits:
        raise ValueError(
            f"data.pipeline=resident needs {size}, more than the {RESIDENT_SHARE:.0%} it may take: "
            "choose data.pipeline=torch, or convert with a smaller --short-side"
        )
    if choice == "resident" or (choice == "auto" and fits):
        from tcc_fast.pipelines.resident import ResidentPipeline

        pictures = decode(dataset, range(len(dataset)), geometry, device)
        sizes = torch.from_numpy(dataset.sizes().astype(np.int64))
        mean, std = channel_moments(dataset)
        resident = ResidentPipeline(pictures, sizes, mean, std, config.augment, image_size, order, dtype)
        return resident, f"pipeline resident: all {len(dataset):,} pictures decoded once, {size}"

    from tcc_fast.pipelines.torch_views import TorchPipeline

    reason = "as asked" if choice == "torch" else f"resident would need {size}"
    pipeline = TorchPipeline(dataset, config.augment, image_size, order, device, config.data.workers, dtype)
    return pipeline, f"pipeline torch (DataLoader): {reason}"


def free_memory(device: torch.device) -> int:
    """Bytes that can still be taken on the device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    with open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
