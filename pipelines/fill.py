"""Fills the `resident` pipeline's memory: every image that is trained on, decoded once, by all ranks together."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from tcc_fast.datasets import Dataset
from tcc_fast.distributed import from_rank_, gather_objects, world_size
from tcc_fast.notice import Notice
from tcc_fast.pipelines import installed
from tcc_fast.pipelines.damage import Damage
from tcc_fast.pipelines.decoded import decode_into
from tcc_fast.pipelines.order import SINGLE, Shard


def fill(
    dataset: Dataset, images: range, geometry: tuple[int, int], device: torch.device, shard: Shard, damage: Damage
) -> Tensor:
    """The images, decoded and squeezed to one geometry: (n, H, W, 3) uint8 on the device.

    Where ranks train together each decodes a share and sends it to the others.

    Args:
        dataset: where they are.
        images: indices of n images.
        geometry: H and W.
        device: of this rank.
        shard: this rank among those that do the same.
        damage: gets what no rank can decode; it stays black.

    Raises:
        ValueError: too many cannot be decoded.
    """
    result = torch.zeros(len(images), *geometry, 3, dtype=torch.uint8, device=device)
    if shard.world_size == 1 or world_size() == 1:  # nobody would send the rest
        _fill_share(result, dataset, images, SINGLE, damage)
        return result
    shares = [share(len(images), Shard(rank, shard.world_size)) for rank in range(shard.world_size)]
    own = shares[shard.rank]
    _fill_share(result[own], dataset, images, shard, damage)
    for rank, part in enumerate(shares):
        from_rank_(result[part], rank)
    for reasons in gather_objects(damage.reasons):
        for index, why in reasons.items():
            damage.note(index, why)
    return result


def share(total: int, shard: Shard) -> slice:
    """Which of ``total`` images a rank decodes; DALI's reader deals them out in the same way."""
    return slice(total * shard.rank // shard.world_size, total * (shard.rank + 1) // shard.world_size)


def _fill_share(out: Tensor, dataset: Dataset, images: range, shard: Shard, damage: Damage) -> None:
    """A rank's share: decoded on the device if it is a GPU, and DALI is installed and has an index to read by."""
    whole = len(images) == len(dataset)
    if out.device.type == "cuda" and whole and dataset.manifest.indexes and installed("nvidia.dali"):
        from tcc_fast.pipelines.dali_fill import fill_by_dali

        try:
            return fill_by_dali(out, dataset, shard)
        except (RuntimeError, ImportError) as error:  # Pillow tells which image it is, if it is one
            said = str(error).partition("\n")[0]
            warnings.warn(f"DALI could not decode the images ({said}); Pillow does", Notice, stacklevel=2)
    decode_into(out, dataset, images[share(len(images), shard)], damage)
