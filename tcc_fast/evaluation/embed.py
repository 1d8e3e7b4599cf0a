"""Features and assignments of whole, un-augmented images: the inference of TCC. No queue, twin or draw."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tcc_fast.datasets import Dataset
from tcc_fast.distributed import gather, rank, world_size
from tcc_fast.method.model import TCC
from tcc_fast.pipelines.damage import Damage
from tcc_fast.pipelines.decoded import Moments, whole_views
from tcc_fast.precision import Precision


@torch.no_grad()
def embed(
    model: TCC,
    dataset: Dataset,
    indices: Sequence[int],
    image_size: int,
    device: torch.device,
    batch_size: int = 512,
    precision: Precision = Precision.FP32,
    moments: Moments | None = None,
    damage: Damage | None = None,
) -> tuple[Tensor, Tensor]:
    """Encode images with the model in evaluation mode; its mode afterwards is what it was.

    The ranks share the images, and each gets the whole result.

    Args:
        model: θ, on ``device``.
        dataset: where the images are.
        indices: which of them.
        image_size: S, as in training.
        device: where to compute.
        batch_size: images at a time.
        precision: of the encoder; views and assignments are always made in full precision.
        moments: mean and std that the model was trained with; None: the data set's own.
        damage: gets those of this rank's images that cannot be decoded.

    Raises:
        ValueError: there are fewer images than ranks.

    Returns:
        f (n, d) and π (n, K), float32 on the CPU, in the order of ``indices``.
    """
    was_training = model.training
    model.eval()
    features, assignments = [], []
    own = indices[rank() :: world_size()]
    if len(indices) < world_size():
        raise ValueError(f"{len(indices)} images cannot be shared by {world_size()} processes: launch fewer")
    for views in whole_views(dataset, own, image_size, batch_size, device, moments, damage):
        f, pi = encode(model, views, precision)
        features.append(f)
        assignments.append(pi)
    model.train(was_training)
    total = len(indices)
    return _all_ranks(torch.cat(features), total, device), _all_ranks(torch.cat(assignments), total, device)


@torch.no_grad()
def encode(model: TCC, views: Tensor, precision: Precision) -> tuple[Tensor, Tensor]:
    """f (B, d) and π (B, K) of views (B, 3, S, S), float32 on the CPU; the model is in evaluation mode."""
    with precision.autocast(views.device):
        f = model.features(views)
    return f.float().cpu(), model.log_assignment(f).exp().float().cpu()


def _all_ranks(own: Tensor, total: int, device: torch.device) -> Tensor:
    """Rows 0 .. total from the ranks' shares, of which rank r has r, r + W, and so on."""
    ranks = world_size()
    if ranks == 1:
        return own
    share = -(-total // ranks)
    padded = torch.zeros(share, *own.shape[1:], device=device)  # every rank sends equally much
    padded[: len(own)] = own.to(device)
    everything = gather(padded).cpu()
    row = torch.arange(total)
    return everything[row % ranks * share + row // ranks]
