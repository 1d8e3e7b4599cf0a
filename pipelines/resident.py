"""The `resident` pipeline: every picture decoded once into device memory, both views made there as a batch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from tcc_fast.augment import apply, draw
from tcc_fast.batch import Batch
from tcc_fast.config import AugmentConfig
from tcc_fast.draws import STREAM_AUGMENT, keys, scalar_key
from tcc_fast.pipelines.order import EpochOrder, Position


class ResidentPipeline(Position):
    """Index, crop, flip, jitter, grey, blur and normalise: a few batched operations, with nothing to wait for.

    Args:
        pictures: (N, 3, H, W) uint8, on the training device.
        sizes: (N, 2) int64, each picture's own height and width. Pictures of unequal shape are stored squeezed
            to H × W, and crops are drawn in their own geometry.
        mean: (3,) of the data set, pixels in 0..1.
        std: (3,).
        recipe: the augmentation.
        image_size: S, the side of a view.
        order: which images come when.
        dtype: of the views.
    """

    def __init__(
        self,
        pictures: Tensor,
        sizes: Tensor,
        mean: Tensor,
        std: Tensor,
        recipe: AugmentConfig,
        image_size: int,
        order: EpochOrder,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(order.batches_per_epoch)
        device = pictures.device
        self.pictures, self.sizes = pictures, sizes.to(device)
        self.mean, self.std = mean.to(device), std.to(device)
        self.recipe, self.image_size, self.order, self.dtype = recipe, image_size, order, dtype

    def __iter__(self) -> Iterator[Batch]:
        while self.batch < self.batches_per_epoch:
            index = self.order.indices(self.epoch, self.batch).to(self.pictures.device, non_blocking=True)
            views = [self._view(index, view) for view in (1, 2)]
            self.batch += 1
            yield Batch(views[0], views[1], index)
        self.set_epoch(self.epoch + 1)

    @torch.no_grad()
    def _view(self, index: Tensor, view: int) -> Tensor:
        key = keys(scalar_key(STREAM_AUGMENT, self.order.seed, self.epoch, view), index)
        heights, widths = self.sizes[index].unbind(1)
        parameters = draw(self.recipe, key, heights, widths)
        images = apply(
            self.pictures[index],
            parameters,
            self.recipe,
            self.image_size,
            self.mean,
            self.std,
            geometry=(heights, widths),
        )
        return images.to(self.dtype)

    def close(self) -> None:
        """Let go of the stored pictures."""
        self.pictures = self.pictures[:0]
