"""The contract between data and training: what a batch is, and what a pipeline must do.

Shapes: B images on this rank, S the image size in pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Two independently augmented views of the same images. There is no label: training never sees one."""

    view_1: Tensor
    """(B, 3, S, S), normalised, channels-last, on the training device."""
    view_2: Tensor
    """As ``view_1``, with draws of its own."""
    index: Tensor
    """(B,) int64: each image's identity, its index in the data set's manifest."""


class Pipeline(Protocol):
    """An endless supply of epochs of equal length, split among ranks.

    The order of images and every augmentation draw is a function of (seed, epoch, index, view): iterating twice,
    with other workers, on another number of ranks, or after a resume gives the same global batches.
    """

    batches_per_epoch: int
    """Batches in every epoch; the ragged tail (fewer than the global batch) is dropped, another one each epoch."""

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of ``epoch``."""

    def __iter__(self) -> Iterator[Batch]:
        """Iterate over the rest of the current epoch."""

    def state_dict(self) -> dict[str, int]:
        """Where the next batch will come from: ``{"epoch": e, "batch": b}``."""

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue exactly where ``state`` was taken."""

    def close(self) -> None:
        """Free threads, processes and memory. Safe to call twice."""
