"""Pipelines: packed images in, batches of two augmented views out.

`open_pipeline` chooses among them; a backend is imported only when it is used.

`order.py` which images make up a batch · `resident.py`, its memory filled by `fill.py` (on a GPU by `dali_fill.py`) ·
`ffcv_views.py`, with what works in FFCV's loader (`ffcv_inside.py`) · `dali_views.py`, its graph (`dali_graph.py`) and
what the graph is given (`dali_feed.py`) · `torch_views.py` the reference · `view_maker.py` who makes the views, on a
CPU `cpu/`, on a GPU with the kernels of `cuda/` · `decoded.py` images without a pipeline · `damage.py` those that
cannot be decoded · `memory.py` and `installed.py` what the machine has.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tcc_fast.batch import Pipeline
from tcc_fast.datasets import Dataset
from tcc_fast.datasets.ffcv_import import import_ffcv
from tcc_fast.pipelines.damage import Damage
from tcc_fast.pipelines.decoded import channel_moments, common_geometry
from tcc_fast.pipelines.installed import installed
from tcc_fast.pipelines.memory import free_memory
from tcc_fast.pipelines.order import SINGLE, EpochOrder, RankShare
from tcc_fast.settings import Config

__all__ = ["Choice", "RankShare", "choose_pipeline", "open_backend", "open_pipeline"]

RESIDENT_SHARE = 0.5
"""Part of the free memory that the resident images may take; the rest is the model's."""


@dataclass(frozen=True)
class Choice:
    """A backend, and why."""

    name: str
    reason: str

    @property
    def sentence(self) -> str:
        """The choice as a sentence for people."""
        return f"pipeline {self.name}: {self.reason}"


def choose_pipeline(dataset: Dataset, config: Config, device: torch.device, sharing: int = 1) -> Choice:
    """The backend that ``config.data.pipeline`` names; for `auto` the fastest that this machine and data set allow.

    Args:
        dataset: the images.
        config: the run's settings.
        device: where views go.
        sharing: processes that share the device's memory.

    Raises:
        ValueError: `resident` was asked for and does not fit; says what to do.
    """
    asked = config.data.pipeline
    if asked not in ("auto", "resident"):
        return Choice(asked, "as asked")
    height, width = common_geometry(dataset, config.data.image_size)
    count = len(dataset.split(config.data.split))
    needed, free = count * 3 * height * width, free_memory(device) // sharing
    size = f"{needed / 2**20:,.0f} MiB of {free / 2**20:,.0f} MiB free on {device}"
    if needed <= RESIDENT_SHARE * free:
        return Choice("resident", f"all {count:,} images decoded once, {size}")
    if asked == "resident":
        raise ValueError(
            f"data.pipeline=resident needs {size}, more than the {RESIDENT_SHARE:.0%} it may take: "
            "choose data.pipeline=auto, or convert with a smaller --short-side"
        )
    reason = f"resident would need {size}"
    lacking = "no beton"
    if dataset.manifest.beton is not None:
        try:
            import_ffcv()
            return Choice("ffcv", reason)
        except ValueError as error:
            lacking = str(error)
    if installed("nvidia.dali"):
        return Choice("dali", f"{reason}; {lacking}")
    return Choice("torch", f"{reason}; {lacking}, and DALI is not installed: both are many times faster")


def open_pipeline(
    dataset: Dataset,
    config: Config,
    device: torch.device,
    rank_share: RankShare = SINGLE,
    dtype: torch.dtype = torch.float32,
    choice: Choice | None = None,
    compiled: bool = False,
) -> Pipeline:
    """The pipeline that ``config.data.pipeline`` names.

    Args:
        dataset: the images.
        config: the run's settings.
        device: where views go.
        rank_share: which part of every batch.
        dtype: of the views.
        choice: what was chosen before; None: choose.
        compiled: on a GPU: use torch.compile for the views.

    Raises:
        ValueError: the batch does not fit the data set or the ranks, there is no such split, `resident` does not fit
            into memory, or what the backend needs is not installed or not converted.
    """
    images = dataset.split(config.data.split)
    order = EpochOrder(images, config.train.batch_size, config.seed, rank_share)
    choice = choice or choose_pipeline(dataset, config, device)
    return open_backend(choice.name, dataset, config, device, order, dtype, compiled)


def open_backend(
    name: str,
    dataset: Dataset,
    config: Config,
    device: torch.device,
    order: EpochOrder,
    dtype: torch.dtype,
    compiled: bool = False,
) -> Pipeline:
    """The backend of this name, as `choose_pipeline` gives it, with its images in ``order``."""
    recipe, size, workers = config.augment, config.data.image_size, config.data.workers
    if name == "resident":
        from tcc_fast.pipelines.fill import fill
        from tcc_fast.pipelines.resident import ResidentPipeline

        damage = Damage(dataset)
        images = fill(dataset, order.images, common_geometry(dataset, size), device, order.rank_share, damage)
        sizes = torch.from_numpy(dataset.sizes()[order.images.start : order.images.stop])
        mean, std = channel_moments(dataset)
        return ResidentPipeline(images, sizes, mean, std, recipe, size, order, dtype, damage.indices, workers, compiled)
    if name == "ffcv":
        from tcc_fast.pipelines.ffcv_views import FfcvPipeline

        os_cache = config.data.ffcv_cache == "os"
        return FfcvPipeline(dataset, recipe, size, order, device, workers, dtype, os_cache, compiled)
    if name == "dali":
        from tcc_fast.pipelines.dali_views import DaliPipeline

        return DaliPipeline(dataset, recipe, size, order, device, workers, dtype, compiled)
    assert name == "torch", name
    from tcc_fast.pipelines.torch_views import TorchPipeline

    return TorchPipeline(dataset, recipe, size, order, device, workers, dtype)
