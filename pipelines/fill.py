"""Fills the `resident` pipeline's memory: every image that is trained on, decoded once, by all ranks together."""

from __future__ import annotations

import warnings
from typing import TypeVar

import torch
from torch import Tensor

from tcc_fast.datasets import Dataset
from tcc_fast.distributed import RaisedOnMain, from_rank_, gather_objects, rank, world_size
from tcc_fast.notice import Notice
from tcc_fast.pipelines.damage import Damage
from tcc_fast.pipelines.decoded import decode_into
from tcc_fast.pipelines.installed import installed
from tcc_fast.pipelines.order import SINGLE, RankShare

Answer = TypeVar("Answer")


def fill(
    dataset: Dataset,
    images: range,
    geometry: tuple[int, int],
    device: torch.device,
    rank_share: RankShare,
    damage: Damage,
) -> Tensor:
    """The images, decoded and squeezed to one geometry: (n, H, W, 3) uint8 on the device.

    Where ranks train together each decodes a share and sends it to the others.

    Args:
        dataset: where they are.
        images: indices of n images.
        geometry: H and W.
        device: of this rank.
        rank_share: this rank among those that do the same.
        damage: gets what no rank can decode; it stays black.

    Raises:
        ValueError: too many cannot be decoded; on all ranks, whichever met them.
    """
    if world_size() == 1:
        rank_share = SINGLE  # nobody would send the rest
    out = torch.empty(len(images), *geometry, 3, dtype=torch.uint8, device=device)
    own = share(len(images), rank_share)
    whole = len(images) == len(dataset)
    by_dali = device.type == "cuda" and whole and bool(dataset.manifest.indexes) and installed("nvidia.dali")
    # All by one program: the other's pixels differ a little, and must not depend on the number of ranks.
    if not (all(_from_all(by_dali, rank_share)) and _fill_by_dali(out[own], dataset, rank_share)):
        _decode(out[own], dataset, images[own], rank_share, damage)
    if rank_share.world_size > 1:
        for source in range(rank_share.world_size):
            from_rank_(out[share(len(images), RankShare(source, rank_share.world_size))], source)
    return out


def share(total: int, rank_share: RankShare) -> slice:
    """Which of ``total`` images a rank decodes; DALI's reader deals them out in the same way."""
    rank, ranks = rank_share.rank, rank_share.world_size
    return slice(total * rank // ranks, total * (rank + 1) // ranks)


def _from_all(own: Answer, rank_share: RankShare) -> list[Answer]:
    return gather_objects(own) if rank_share.world_size > 1 else [own]


def _fill_by_dali(out: Tensor, dataset: Dataset, rank_share: RankShare) -> bool:
    """Whether all ranks could decode their shares by DALI."""
    from tcc_fast.pipelines.dali_fill import fill_by_dali

    trouble = None
    try:
        fill_by_dali(out, dataset, rank_share)
    except (RuntimeError, ImportError) as error:  # Pillow tells which image it is, if it is one
        trouble = str(error).partition("\n")[0]
    troubles = [said for said in _from_all(trouble, rank_share) if said is not None]
    if troubles:
        warnings.warn(f"DALI could not decode the images ({troubles[0]}); Pillow does", Notice, stacklevel=2)
    return not troubles


def _decode(out: Tensor, dataset: Dataset, images: range, rank_share: RankShare, damage: Damage) -> None:
    """This rank's share. All ranks get to know what any could not decode, and none goes on alone."""
    trouble = None
    try:
        decode_into(out, dataset, images, damage)
    except ValueError as error:
        trouble = str(error)
    answers = _from_all((trouble, damage.reasons), rank_share)
    for said, _ in answers:
        if said is not None:
            raise ValueError(said) if rank() == 0 else RaisedOnMain(said)
    for _, reasons in answers:
        for index, why in reasons.items():
            damage.note(index, why)
