"""The `resident` pipeline: every image decoded once into device memory, both views made there as a batch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from tcc_fast.batch import Batch
from tcc_fast.pipelines.order import EpochOrder, Position
from tcc_fast.pipelines.view_maker import to_device, view_maker
from tcc_fast.settings import AugmentConfig


class ResidentPipeline(Position):
    """Index, crop, flip, jitter, grey, blur and normalise in one go, with nothing to wait for.

    On a GPU the work is queued behind the step that runs. On a CPU it is done when a batch is asked for: the cores
    that would prepare it meanwhile are the ones that the step needs.

    Args:
        images: (n, H, W, 3) uint8, on the training device: those that ``order`` is of.
        sizes: (n, 2) int64, each image's own height and width. Images of unequal shape are stored squeezed
            to H × W, and crops are drawn in their own geometry.
        mean: (3,) of the data set, pixels in 0..1.
        std: (3,).
        recipe: the augmentation.
        image_size: S, the side of a view.
        order: which images come when.
        dtype: of the views.
        blank: indices of images that could not be decoded; their views are all zeros.
        threads: on a CPU; None: one a core.
        compiled: on a GPU: use torch.compile.
    """

    def __init__(
        self,
        images: Tensor,
        sizes: Tensor,
        mean: Tensor,
        std: Tensor,
        recipe: AugmentConfig,
        image_size: int,
        order: EpochOrder,
        dtype: torch.dtype = torch.float32,
        blank: set[int] | None = None,
        threads: int | None = None,
        compiled: bool = False,
    ) -> None:
        super().__init__(order.batches_per_epoch)
        device = images.device
        self.images, self.sizes, self.order = images, sizes.to(device), order
        self._maker = view_maker(recipe, image_size, mean, std, device, dtype, threads, compiled)
        self._blank: Tensor | None = None
        if blank:
            self._blank = torch.zeros(order.images.stop, dtype=torch.bool, device=device)
            self._blank[torch.tensor(sorted(blank), device=device)] = True

    def __iter__(self) -> Iterator[Batch]:
        while self.batch < self.batches_per_epoch:
            assert len(self.images), "the pipeline is closed"
            index = to_device(self.order.indices(self.epoch, self.batch), self.images.device)
            bases, first = self.order.view_keys(self.epoch), self.order.images.start
            view_1, view_2 = self._maker.views_of_stored(self.images, self.sizes, index, bases, first)
            if self._blank is not None:
                blank = self._blank[index].view(-1, 1, 1, 1)
                view_1.masked_fill_(blank, 0.0)
                view_2.masked_fill_(blank, 0.0)
            self.batch += 1
            yield Batch(view_1, view_2, index)
        self.set_epoch(self.epoch + 1)

    def close(self) -> None:
        """Let go of the stored images, and end the threads."""
        self.images = torch.empty(0, *self.images.shape[1:], dtype=torch.uint8)
        self._maker.close()
