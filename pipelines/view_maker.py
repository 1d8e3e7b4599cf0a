"""Who makes the views: threads with a compiled pass on a CPU, batched tensor work anywhere else.

Both give the same views, up to rounding; `tcc_fast.views.augment` is the reference of both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from tcc_fast.draws import fastest_bits, uniform_of_each
from tcc_fast.settings import AugmentConfig
from tcc_fast.views.augment import finish, place
from tcc_fast.views.numbers import NUM_DRAWS
from tcc_fast.views.view_parameters import ViewParameters, parameters_of


class ViewMaker(Protocol):
    """Makes views of S × S pixels, normalised, channels-last, in one dtype on one device."""

    def views_of_stored(
        self, images: Tensor, sizes: Tensor, index: Tensor, bases: tuple[int, int], first: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Both views of B images out of N in memory.

        Args:
            images: (N, H, W, 3) uint8 on the device.
            sizes: (N, 2) int64 on the device, own height and width, in which crops are drawn.
            index: (B,) int64 on the device.
            bases: for each view, `tcc_fast.draws.scalar_key` of all but the image.
            first: index of the first of the N images.

        Returns:
            (B, 3, S, S) each.
        """

    def views_of_crops(self, crops: Tensor, parameters: Tensor) -> Tensor:
        """Views of crops that were made elsewhere: jitter, grey, blur, normalise.

        Args:
            crops: (B, S, S, 3) uint8 on the device.
            parameters: `ViewParameters.pack` of B views, on the CPU.

        Returns:
            (B, 3, S, S).
        """

    def close(self) -> None:
        """End what works in the background."""


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy on the device, without waiting: from other memory than pinned one it would wait for the step under way."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def blank_(views: Tensor, rows: list[int]) -> None:
    """Make these rows of views, (B, ...), all zeros; nothing waits, unlike for ``views[rows] = 0``."""
    if rows:
        views.index_fill_(0, to_device(torch.tensor(rows), views.device), 0.0)


def view_maker(
    recipe: AugmentConfig,
    image_size: int,
    mean: Tensor,
    std: Tensor,
    device: torch.device,
    dtype: torch.dtype,
    threads: int | None = None,
    compiled: bool = False,
) -> ViewMaker:
    """The maker of views for the device.

    Args:
        recipe: the augmentation.
        image_size: S.
        mean: (3,) of the data set.
        std: (3,).
        device: where views are made.
        dtype: of the views.
        threads: on a CPU; None: one a core.
        compiled: elsewhere: use torch.compile.
    """
    if device.type == "cpu":
        from tcc_fast.pipelines.cpu.maker import CpuViews

        return CpuViews(recipe, image_size, mean, std, dtype, threads)
    return TensorViews(recipe, image_size, mean, std, device, dtype, compiled)


class TensorViews:
    """`ViewMaker` by batched tensor work, both views as one batch of 2 B, by half as many kernels.

    `compiled`: what moves pixels is fused by torch.compile, and what changes colours is done by kernels of our own
    (`tcc_fast.pipelines.cuda`), which pays on CUDA only.
    """

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
        self.products = torch.float32 if dtype == torch.float32 else torch.float16  # no coarser than the views will be
        self._bits = fastest_bits(device, compiled)
        self._place = self._place_views
        self._finish: Callable[[Tensor, Tensor], Tensor] = self._finish_views
        if compiled:
            self._place = torch.compile(self._place_views, fullgraph=True, dynamic=False)
            self._finish = self._compiled_finish()

    def _compiled_finish(self) -> Callable[[Tensor, Tensor], Tensor]:
        """How views are finished: by kernels of our own where they run, else by compiled tensor work."""
        if self.device.type == "cuda":
            from tcc_fast.pipelines.cuda.finish import LARGEST, Finish

            if self.image_size <= LARGEST:
                return Finish(self.recipe, self.image_size, self.mean, self.std, self.products, self.dtype)
        return torch.compile(self._finish_views, fullgraph=True, dynamic=False)

    @torch.no_grad()
    def views_of_stored(
        self, images: Tensor, sizes: Tensor, index: Tensor, bases: tuple[int, int], first: int = 0
    ) -> tuple[Tensor, Tensor]:
        # The hashing stays outside of what is compiled: Inductor would do parts of it in 32 bits.
        numbers = uniform_of_each(bases, index, NUM_DRAWS, self._bits).flatten(0, 1)
        levels, rows = self._place(images, sizes, index - first, numbers)
        view_1, view_2 = self._finish(levels, rows).chunk(2)
        return view_1, view_2

    @torch.no_grad()
    def views_of_crops(self, crops: Tensor, parameters: Tensor) -> Tensor:
        return self._finish(crops.permute(0, 3, 1, 2).unsqueeze(0), to_device(parameters.float(), self.device))

    def close(self) -> None:
        """End nothing: nothing works in the background."""

    def _place_views(self, images: Tensor, sizes: Tensor, row: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """(N, H, W, 3) uint8, (N, 2), (B,) and (2 B, NUM_DRAWS) to what :meth:`_finish_views` takes."""
        chosen = images[row].permute(0, 3, 1, 2)
        heights, widths = sizes[row].repeat(2, 1).unbind(1)
        parameters = parameters_of(self.recipe, numbers, heights, widths)
        levels = place(chosen, parameters, self.recipe, self.image_size, (heights, widths), self.products)
        return levels, parameters.pack(torch.float32)

    def _finish_views(self, levels: Tensor, rows: Tensor) -> Tensor:
        """(V, B, 3, S, S) in 0..255 and (V B, NUM_PARAMETERS) float32 to (V B, 3, S, S)."""
        parameters = ViewParameters.unpack(rows)
        return finish(levels.flatten(0, 1), parameters, self.recipe, self.mean, self.std, self.products).to(self.dtype)
