"""`tcc_fast.views.augment.finish` for a whole batch, by Triton."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from tcc_fast.pipelines.cuda.blur import blur, tiling
from tcc_fast.pipelines.cuda.colour import change_colours
from tcc_fast.settings import AugmentConfig
from tcc_fast.views.resample import blur_kernel_size

BLOCK = 1024
"""Pixels whose colours a program changes at a time."""
FEW = 1000
"""Views: of fewer, each is shared by more threads, or most of a large GPU would have nothing to do."""
LARGEST = 499
"""Side of the largest views: the blur of larger ones would share more memory in a program than every GPU has."""


class Finish:
    """Jitter, grey, blur, normalise.

    Args:
        recipe: only whether there is a blur is read from it.
        image_size: S.
        mean: (3,) of the data set, pixels in 0..1.
        std: (3,).
        products: what the blur is multiplied in.
        dtype: of the views.
    """

    def __init__(
        self,
        recipe: AugmentConfig,
        image_size: int,
        mean: Tensor,
        std: Tensor,
        products: torch.dtype,
        dtype: torch.dtype,
    ) -> None:
        self.blurs, self.size, self.products, self.dtype = recipe.blur > 0, image_size, products, dtype
        self.moments = torch.stack([mean, std]).float()

    def __call__(self, levels: Tensor, rows: Tensor) -> Tensor:
        """Make the views.

        Args:
            levels: (V, B, 3, S, S) in 0..255, of any dtype and with any strides, on the GPU.
            rows: (V B, NUM_PARAMETERS) float32, `ViewParameters.pack`, the first view of every image first.

        Returns:
            (V B, 3, S, S), normalised, channels-last.
        """
        count, size, device = len(rows), self.size, levels.device
        views = torch.empty(count, size, size, 3, dtype=self.dtype, device=device)
        planes = torch.empty(count if self.blurs else 0, 3, size, size, dtype=self.products, device=device)
        with torch.cuda.device_of(levels):  # Triton's own choice is the thread's current one
            change_colours[count,](
                levels,
                rows,
                self.moments,
                planes,
                views,
                levels.shape[1],
                *levels.stride(),
                SIZE=size,
                BLURS=self.blurs,
                BLOCK=BLOCK,
                num_warps=8 if count < FEW else 4,
            )
            if self.blurs:
                half = blur_kernel_size(size) // 2
                tile, window = tiling(half)
                side = triton.cdiv(size, tile)
                blur[count, side, side](
                    planes,
                    rows,
                    self.moments,
                    views,
                    SIZE=size,
                    HALF=half,
                    TILE=tile,
                    WINDOW=window,
                    num_warps=window // 8,
                )
        return views.permute(0, 3, 1, 2)
