"""Features and assignments of whole, un-augmented pictures: the inference of TCC. No queue, twin or draw."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tcc_fast.datasets import Dataset
from tcc_fast.model import TCC
from tcc_fast.pipelines.pictures import Moments, whole_views


@torch.no_grad()
def embed(
    model: TCC,
    dataset: Dataset,
    indices: Sequence[int],
    image_size: int,
    device: torch.device,
    batch_size: int = 512,
    bf16: bool = False,
    moments: Moments | None = None,
) -> tuple[Tensor, Tensor]:
    """Encode pictures with the model in evaluation mode; its mode afterwards is what it was.

    Args:
        model: θ, on ``device``.
        dataset: where the pictures are.
        indices: which of them.
        image_size: S, as in training.
        device: where to compute.
        batch_size: pictures at a time.
        bf16: run the encoder in bf16; views and assignments are always made in full precision.
        moments: mean and std that the model was trained with; None: the data set's own.

    Returns:
        f (n, d) and π (n, K), float32 on the CPU, in the order of ``indices``.
    """
    was_training = model.training
    model.eval()
    features, assignments = [], []
    for views in whole_views(dataset, indices, image_size, batch_size, device, moments):
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            f = model.features(views)
        features.append(f.float().cpu())
        assignments.append(model.log_assignment(f).exp().float().cpu())
    model.train(was_training)
    return torch.cat(features), torch.cat(assignments)
