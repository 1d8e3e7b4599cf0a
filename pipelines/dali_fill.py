"""Fills the `resident` pipeline's memory by DALI, which decodes on the GPU: what the tar files hold, in order."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tcc_fast.datasets import Dataset
from tcc_fast.datasets.pool import default_workers
from tcc_fast.pipelines.dali_graph import look_first, outputs
from tcc_fast.pipelines.order import SINGLE, Shard

BATCH = 256
"""Images decoded at a time."""


def fill_by_dali(out: Tensor, dataset: Dataset, shard: Shard = SINGLE) -> None:
    """A rank's share of all images, decoded and squeezed to one geometry.

    Args:
        out: (n, H, W, 3) uint8, for the images from N r // W to N (r + 1) // W of rank r of W. On a GPU they are
            decoded there; the CPU gives the same pixels as `decoded.decode` where nothing is squeezed.
        dataset: with DALI's index of its tar files (`dataset.manifest.indexes`).
        shard: this rank.

    Raises:
        RuntimeError: DALI cannot decode an image; which one, it does not say.
    """
    graph = _build(out, dataset, shard)
    done = 0
    while done < len(out):
        graph.schedule_run()
        (images,) = outputs(graph, out.device)
        images = images[: len(out) - done]  # DALI goes on to the next share
        out[done : done + len(images)] = images
        done += len(images)


def _build(out: Tensor, dataset: Dataset, shard: Shard) -> Any:
    from nvidia.dali import Pipeline, fn, types

    manifest, device = dataset.manifest, out.device
    on_gpu = device.type == "cuda"
    device_id = (torch.cuda.current_device() if device.index is None else device.index) if on_gpu else None
    graph = Pipeline(min(BATCH, len(out)), default_workers(), device_id, prefetch_queue_depth=1, exec_dynamic=True)
    with graph:
        encoded = fn.readers.webdataset(
            paths=[str(dataset.path / name) for name in manifest.shards],
            index_paths=[str(dataset.path / name) for name in manifest.indexes],
            ext=["jpg;png"],
            shard_id=shard.rank,
            num_shards=shard.world_size,
        )
        images = fn.decoders.image(
            look_first(encoded),
            device="mixed" if on_gpu else "cpu",
            output_type=types.RGB,
            adjust_orientation=False,
            jpeg_fancy_upsampling=True,
            affine=False,
        )
        if manifest.geometry.uniform_size != tuple(out.shape[1:3]):
            images = fn.resize(images, size=list(out.shape[1:3]), interp_type=types.INTERP_LINEAR, antialias=True)
        graph.set_outputs(images)
    graph.build()
    return graph
