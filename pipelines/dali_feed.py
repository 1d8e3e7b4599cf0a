"""What DALI is given for a batch: encoded images and, where it cuts the views, their crops."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tcc_fast.datasets import Dataset
from tcc_fast.draws import keys
from tcc_fast.pipelines.dali_graph import inverse_affine
from tcc_fast.pipelines.damage import Damage
from tcc_fast.pipelines.order import EpochOrder
from tcc_fast.settings import AugmentConfig
from tcc_fast.views.view_parameters import draw

BLANK_SIDE = 16
"""Pixels; the image that stands in for one that cannot be decoded."""

Inputs = dict[str, Any]
"""What DALI reads for one batch, by the name of its source: a list of B tensors, or one array of B rows."""


@dataclass(frozen=True)
class Feed:
    """One batch on its way through DALI."""

    position: tuple[int, int]
    """Epoch and batch."""
    index: Tensor
    """(B,) int64, on the CPU."""
    sizes: Tensor
    """(B, 2) heights and widths, in pixels, of what DALI is to decode."""
    bases: tuple[int, int]
    """`scalar_key` of each view without the image."""
    blank: list[int]
    """Rows whose image cannot be decoded."""
    inputs: Inputs
    parameters: list[Tensor] = field(default_factory=list)
    """`ViewParameters.pack` of view 1 and view 2, on the CPU, if DALI cuts them."""


class Feeder:
    """Reads batches.

    Args:
        dataset: the images.
        recipe: the augmentation.
        order: which images come when.
        damage: what cannot be read is reported there, and not read again.
        cuts: whether DALI cuts the views.
    """

    def __init__(self, dataset: Dataset, recipe: AugmentConfig, order: EpochOrder, damage: Damage, cuts: bool) -> None:
        self.dataset, self.recipe, self.order, self.damage, self.cuts = dataset, recipe, order, damage, cuts
        self.sizes = torch.from_numpy(dataset.sizes())

    def prepare(self, epoch: int, batch: int) -> Feed:
        """Prepare everything for one batch."""
        from nvidia.dali.backend import TensorCPU

        index = self.order.indices(epoch, batch)
        encoded, blank = [], []
        for row, image in enumerate(index.tolist()):
            data = self._read(image)
            if data is None:
                blank.append(row)
            encoded.append(blank_image() if data is None else data)
        sizes = self.sizes[index]
        sizes[blank] = BLANK_SIDE
        # Wrapped here, in the reading thread: of arrays, the thread that trains would check each.
        inputs = {"encoded": [TensorCPU(data) for data in encoded]}
        feed = Feed((epoch, batch), index, sizes, self.order.view_keys(epoch), blank, inputs)
        if self.cuts:
            for view in (1, 2):
                self._add_crops(feed, view)
        return feed

    def _read(self, image: int) -> NDArray[np.uint8] | None:
        if image in self.damage.reasons:
            return None
        try:
            return np.frombuffer(self.dataset.read(image), dtype=np.uint8)
        except ValueError as error:
            self.damage.note(image, str(error))
            return None

    def _add_crops(self, feed: Feed, view: int) -> None:
        heights, widths = feed.sizes.unbind(1)
        drawn = draw(self.recipe, keys(feed.bases[view - 1], feed.index), heights, widths)
        start, shape = drawn.box.to(torch.int32).chunk(2, dim=1)
        feed.inputs[f"start_{view}"] = start.contiguous().numpy()
        feed.inputs[f"shape_{view}"] = shape.contiguous().numpy()
        feed.inputs[f"flip_{view}"] = drawn.flip.to(torch.int32).numpy()
        if self.recipe.has_affine:
            feed.inputs[f"matrix_{view}"] = inverse_affine(drawn, heights, widths).numpy()
        feed.parameters.append(drawn.pack())


def blank_image() -> NDArray[np.uint8]:
    """An encoded image of BLANK_SIDE x BLANK_SIDE pixels."""
    buffer = io.BytesIO()
    Image.new("RGB", (BLANK_SIDE, BLANK_SIDE)).save(buffer, "JPEG")
    return np.frombuffer(buffer.getvalue(), dtype=np.uint8)
