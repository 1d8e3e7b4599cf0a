"""Fills the `resident` pipeline's memory by DALI, which decodes on the GPU: what the tar files hold, in order."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tcc_fast.cores import default_workers
from tcc_fast.datasets import Dataset
from tcc_fast.pipelines.dali_graph import decoded, device_number, outputs
from tcc_fast.pipelines.order import RankShare

BATCH = 256
"""Images decoded at a time."""


def fill_by_dali(out: Tensor, dataset: Dataset, rank_share: RankShare) -> None:
    """A rank's share of all images, decoded and squeezed to one geometry.

    Args:
        out: (n, H, W, 3) uint8, for the images from N r // W to N (r + 1) // W of rank r of W. On a GPU they are
            decoded there; the CPU gives the same pixels as `decoded.decode` where nothing is squeezed.
        dataset: with DALI's index of its tar files (`dataset.manifest.indexes`).
        rank_share: this rank.

    Raises:
        RuntimeError: DALI cannot decode an image; which one, it does not say.
    """
    graph = _build(out, dataset, rank_share)
    done = 0
    while done < len(out):
        graph.schedule_run()
        (images,) = outputs(graph, out.device)
        images = images[: len(out) - done]  # DALI repeats the last one, so that the batch is full
        out[done : done + len(images)] = images
        done += len(images)


def _build(out: Tensor, dataset: Dataset, rank_share: RankShare) -> Any:
    from nvidia.dali import Pipeline, fn, types

    manifest, device = dataset.manifest, out.device
    size, number = min(BATCH, len(out)), device_number(device)
    graph = Pipeline(size, default_workers(), number, prefetch_queue_depth=1, exec_dynamic=True)
    with graph:
        encoded = fn.readers.webdataset(
            paths=[str(dataset.path / name) for name in manifest.shards],
            index_paths=[str(dataset.path / name) for name in manifest.indexes],
            ext=["jpg;png"],
            shard_id=rank_share.rank,
            num_shards=rank_share.world_size,
            stick_to_shard=True,
            pad_last_batch=True,
        )
        images = decoded(encoded, device)
        if manifest.geometry.uniform_size != tuple(out.shape[1:3]):
            images = fn.resize(images, size=list(out.shape[1:3]), interp_type=types.INTERP_LINEAR, antialias=True)
        graph.set_outputs(images)
    graph.build()
    return graph
