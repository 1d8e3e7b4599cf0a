"""Fills the `resident` pipeline's memory by DALI, which decodes on the GPU: the tar shards, in order, once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tcc_fast.datasets import Dataset
from tcc_fast.datasets.pool import default_workers
from tcc_fast.pipelines.dali_graph import look_first, outputs

BATCH = 256
"""Images decoded at a time."""


def fill_by_dali(dataset: Dataset, geometry: tuple[int, int], device: torch.device) -> Tensor:
    """Every image, decoded and squeezed to one geometry: (N, H, W, 3) uint8 on the device.

    Args:
        dataset: with DALI's index of its shards (`dataset.manifest.indexes`).
        geometry: H and W.
        device: a GPU decodes there; the CPU gives the same pixels as `decoded.decode` where nothing is squeezed.

    Raises:
        RuntimeError: DALI cannot decode an image; which one, it does not say.
    """
    graph = _build(dataset, geometry, device, min(BATCH, len(dataset)))
    result = torch.empty(len(dataset), *geometry, 3, dtype=torch.uint8, device=device)
    done = 0
    while done < len(dataset):
        graph.schedule_run()
        (images,) = outputs(graph, device)
        images = images[: len(dataset) - done]  # DALI begins anew at the end
        result[done : done + len(images)] = images
        done += len(images)
    return result


def _build(dataset: Dataset, geometry: tuple[int, int], device: torch.device, batch_size: int) -> Any:
    from nvidia.dali import Pipeline, fn, types

    manifest = dataset.manifest
    on_gpu = device.type == "cuda"
    device_id = (torch.cuda.current_device() if device.index is None else device.index) if on_gpu else None
    graph = Pipeline(batch_size, default_workers(), device_id, prefetch_queue_depth=1, exec_dynamic=True)
    with graph:
        encoded = fn.readers.webdataset(
            paths=[str(dataset.path / name) for name in manifest.shards],
            index_paths=[str(dataset.path / name) for name in manifest.indexes],
            ext=["jpg;png"],
        )
        images = fn.decoders.image(
            look_first(encoded),
            device="mixed" if on_gpu else "cpu",
            output_type=types.RGB,
            adjust_orientation=False,
            jpeg_fancy_upsampling=True,
            affine=False,
        )
        if manifest.geometry.uniform_size != geometry:
            images = fn.resize(images, size=list(geometry), interp_type=types.INTERP_LINEAR, antialias=True)
        graph.set_outputs(images)
    graph.build()
    return graph
