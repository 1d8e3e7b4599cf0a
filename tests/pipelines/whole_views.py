"""Views of stored images as on a GPU but for the compiler: what moves pixels in tensors, the rest by our kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from tcc_fast.pipelines.cuda.finish import Finish
from tcc_fast.pipelines.view_maker import TensorViews
from tcc_fast.settings import AugmentConfig


def whole_views(maker: TensorViews, images: Tensor, sizes: Tensor, index: Tensor) -> Tensor:
    """Both views of each image, by kernels in the place of plain tensor work."""
    maker._finish = Finish(maker.recipe, maker.image_size, maker.mean, maker.std, maker.products, maker.dtype)
    return torch.cat(maker.views_of_stored(images, sizes, index, (11, 22)))


def settings(recipe: AugmentConfig, dtype: torch.dtype) -> TensorViews:
    """Of 21 px."""
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.3])
    return TensorViews(recipe, 21, mean, std, torch.device("cpu"), dtype)
