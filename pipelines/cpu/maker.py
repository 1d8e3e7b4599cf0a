"""`ViewMaker` on a CPU."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tcc_fast.pipelines.cpu.buffers import Buffers
from tcc_fast.pipelines.cpu.threads import Threads
from tcc_fast.pipelines.cpu.views import decoded_views, finished_views, make_plan, stored_views
from tcc_fast.settings import AugmentConfig
from tcc_fast.views.numbers import NUM_PARAMETERS


class CpuViews:
    """Threads that share a batch; see `tcc_fast.pipelines.view_maker` for what the methods take and give.

    Args:
        recipe: the augmentation.
        image_size: S.
        mean: (3,) of the data set.
        std: (3,).
        dtype: of the views.
        threads: how many; None: one a core.
    """

    def __init__(
        self,
        recipe: AugmentConfig,
        image_size: int,
        mean: Tensor,
        std: Tensor,
        dtype: torch.dtype = torch.float32,
        threads: int | None = None,
    ) -> None:
        self.plan = make_plan(recipe, image_size, mean, std)
        self.image_size, self.dtype = image_size, dtype
        self.threads = Threads(threads)
        self._buffers = Buffers()

    def views_of_stored(
        self, images: Tensor, sizes: Tensor, index: Tensor, bases: tuple[int, int], first: int = 0
    ) -> tuple[Tensor, Tensor]:
        source, order = images.flatten(2).numpy(), index.numpy()
        own, base = sizes.numpy(), np.array(bases, dtype=np.int64)
        views = self.empty(len(index)), self.empty(len(index))
        flat = [view.flatten(1).numpy() for view in views]
        self.threads.parallel_for(
            lambda start, stop: stored_views(source, own, order, base, first, self.plan, start, stop, *flat), len(index)
        )
        return self.channels_last(views[0]), self.channels_last(views[1])

    def views_of_crops(self, crops: Tensor, parameters: Tensor) -> Tensor:
        source, rows, count = crops.flatten(1).numpy(), parameters.numpy(), len(crops)
        view = self.empty(count)
        flat = view.flatten(1).numpy()
        self.threads.parallel_for(lambda start, stop: finished_views(source, rows, self.plan, start, stop, flat), count)
        return self.channels_last(view)

    def views_of_decoded(
        self, images: Sequence[NDArray[np.uint8]], index: Tensor, bases: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Both views of images that have just been decoded, each at its own size.

        Args:
            images: B of them, (H, W, 3) each.
            index: (B,) int64.
            bases: as for `views_of_stored`.

        Returns:
            (B, 3, S, S) each.
        """
        count = len(images)
        order, base = index.numpy(), np.array(bases, dtype=np.int64)
        shapes = np.array([image.shape[:2] for image in images], dtype=np.int64)
        parameters, beginning = np.empty((2, count, NUM_PARAMETERS)), np.zeros(1, dtype=np.int64)
        views = self._buffers.take(2, count, self.image_size, self.image_size, 3)
        flat, no_crops = views.flatten(2).numpy(), np.empty((2, 0, 0), dtype=np.uint8)

        def work(start: int, stop: int) -> None:
            for row in range(start, stop):
                pixels = images[row].reshape(-1)
                decoded_views(
                    pixels, beginning, shapes, order, base, self.plan, row, row + 1, parameters, flat, no_crops
                )

        self.threads.parallel_for(work, count)
        return self.channels_last(views[0]), self.channels_last(views[1])

    def empty(self, count: int) -> Tensor:
        """Room for views: (count, S, S, 3) float32."""
        return self._buffers.take(count, self.image_size, self.image_size, 3)

    def channels_last(self, views: Tensor) -> Tensor:
        """(B, S, S, 3) float32 as (B, 3, S, S), channels-last, in the dtype of the views."""
        return views.permute(0, 3, 1, 2).to(self.dtype)

    def close(self) -> None:
        self.threads.close()
