"""Who makes the views: threads with a compiled pass on a CPU, batched tensor work anywhere else.

Both give the same views, up to rounding; `tcc_fast.augment` is the reference of both.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from tcc_fast.augment import ViewParameters, apply, draw, finish
from tcc_fast.config import AugmentConfig
from tcc_fast.draws import keys


class ViewMaker(Protocol):
    """Makes views of S × S pixels, normalised, channels-last, in one dtype on one device."""

    def stored(self, pictures: Tensor, sizes: Tensor, index: Tensor, bases: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Both views of B pictures out of N in memory.

        Args:
            pictures: (N, H, W, 3) uint8 on the device.
            sizes: (N, 2) int64 on the device, own height and width, in which crops are drawn.
            index: (B,) int64 on the device.
            bases: for each view, `tcc_fast.draws.scalar_key` of all but the image.

        Returns:
            (B, 3, S, S) each.
        """

    def finished(self, crops: Tensor, parameters: ViewParameters) -> Tensor:
        """Views of crops that were made elsewhere: jitter, grey, blur, normalise.

        Args:
            crops: (B, S, S, 3) uint8 on the device.
            parameters: of B views, on the CPU or the device.

        Returns:
            (B, 3, S, S).
        """

    def close(self) -> None:
        """End what works in the background."""


def view_maker(
    recipe: AugmentConfig,
    image_size: int,
    mean: Tensor,
    std: Tensor,
    device: torch.device,
    dtype: torch.dtype,
    threads: int | None = None,
) -> ViewMaker:
    """The one for the device. `mean` and `std`: (3,) of the data set; `threads`: on a CPU, None is one a core."""
    if device.type == "cpu":
        from tcc_fast.pipelines.cpu.maker import CpuViews

        return CpuViews(recipe, image_size, mean, std, dtype, threads)
    return TensorViews(recipe, image_size, mean, std, device, dtype, compiled=device.type == "cuda")


class TensorViews:
    """`ViewMaker` by batched tensor work; `compiled`: fused by torch.compile, which pays on CUDA only."""

    def __init__(
        self,
        recipe: AugmentConfig,
        image_size: int,
        mean: Tensor,
        std: Tensor,
        device: torch.device,
        dtype: torch.dtype,
        compiled: bool = False,
    ) -> None:
        self.recipe, self.image_size, self.dtype, self.device = recipe, image_size, dtype, device
        self.mean, self.std = mean.to(device), std.to(device)
        self._make, self._end = self._make_view, self._finish_view
        if compiled:
            self._make = torch.compile(self._make_view, fullgraph=True, dynamic=False)
            self._end = torch.compile(self._finish_view, fullgraph=True, dynamic=False)

    @torch.no_grad()
    def stored(self, pictures: Tensor, sizes: Tensor, index: Tensor, bases: tuple[int, int]) -> tuple[Tensor, Tensor]:
        chosen, geometry = pictures[index].permute(0, 3, 1, 2), sizes[index]
        view_1, view_2 = (self._make(chosen, geometry, index, self._key(base)) for base in bases)
        return view_1, view_2

    def _key(self, base: int) -> Tensor:
        """A tensor, since a number would be compiled in; filled on the device, so that nothing waits for a copy."""
        return torch.full((), base, dtype=torch.int64, device=self.device)

    @torch.no_grad()
    def finished(self, crops: Tensor, parameters: ViewParameters) -> Tensor:
        return self._end(crops, parameters.to(self.device))

    def close(self) -> None:
        """Nothing works in the background."""

    def _make_view(self, chosen: Tensor, geometry: Tensor, index: Tensor, key: Tensor) -> Tensor:
        heights, widths = geometry.unbind(1)
        parameters = draw(self.recipe, keys(key, index), heights, widths)
        views = apply(chosen, parameters, self.recipe, self.image_size, self.mean, self.std, (heights, widths))
        return views.to(self.dtype)

    def _finish_view(self, crops: Tensor, parameters: ViewParameters) -> Tensor:
        images = crops.permute(0, 3, 1, 2).to(torch.float32) / 255.0
        return finish(images, parameters, self.recipe, self.mean, self.std).to(self.dtype)
