"""Features and assignments of whole, un-augmented pictures: the inference of TCC. No queue, twin or draw."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from tcc_fast.datasets import Dataset
from tcc_fast.model import TCC
from tcc_fast.pipelines.pictures import whole_views


@torch.no_grad()
def embed(
    model: TCC,
    dataset: Dataset,
    indices: Sequence[int],
    image_size: int,
    device: torch.device,
    batch_size: int = 512,
    autocast: AbstractContextManager[object] | None = None,
) -> tuple[Tensor, Tensor]:
    """Encode pictures with the model in evaluation mode; its mode afterwards is what it was.

    Returns:
        f (n, d) and π (n, K), float32 on the CPU, in the order of ``indices``.
    """
    was_training = model.training
    model.eval()
    features, assignments = [], []
    with autocast or nullcontext():
        for views in whole_views(dataset, indices, image_size, batch_size, device):
            f = model.features(views)
            features.append(f.float().cpu())
            assignments.append(model.log_assignment(f).exp().float().cpu())
    model.train(was_training)
    return torch.cat(features), torch.cat(assignments)
