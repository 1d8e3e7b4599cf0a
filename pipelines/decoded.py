"""Images of a data set, decoded and brought to one geometry, as batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tcc_fast.cores import default_workers
from tcc_fast.datasets import Dataset
from tcc_fast.pipelines.damage import Damage
from tcc_fast.views.augment import whole_view

CHUNK = 256
"""Images decoded at a time: bounds the memory beyond the result."""

Moments = tuple[Sequence[float], Sequence[float]]
"""Mean and standard deviation of the three channels, pixels in 0..1."""


def common_geometry(dataset: Dataset, image_size: int) -> tuple[int, int]:
    """Height and width at which images are kept in memory.

    The stored geometry when it is the same for all. Otherwise a square to which each image is squeezed, with
    the stored short side (crops are then drawn in an image's own geometry, so nothing is cut off and the
    views have the right aspect); 1.15 times the view when images were stored at their original sizes.
    """
    geometry = dataset.manifest.geometry
    if geometry.uniform_size is not None:
        return geometry.uniform_size
    side = geometry.short_side or -(-image_size * 115 // 100)
    return side, side


def decode(
    dataset: Dataset,
    indices: Sequence[int],
    geometry: tuple[int, int],
    device: torch.device | str = "cpu",
    damage: Damage | None = None,
) -> Tensor:
    """Decode images in threads: (n, H, W, 3) uint8 on the device.

    Images that cannot be decoded are noted in ``damage`` (None: in one of their own) and stay black.
    """
    result = torch.empty(len(indices), *geometry, 3, dtype=torch.uint8, device=device)
    decode_into(result, dataset, indices, damage or Damage(dataset))
    return result


def decode_into(out: Tensor, dataset: Dataset, indices: Sequence[int], damage: Damage) -> None:
    """Decode images into ``out``, (n, H, W, 3) uint8 on any device; the host holds a chunk at a time."""
    height, width = geometry = tuple(out.shape[1:3])

    def one(index: int) -> np.ndarray | str:
        try:
            pixels = dataset.decode(index)
        except ValueError as error:
            return str(error)
        if pixels.shape[:2] != geometry:
            resized = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
            pixels = np.asarray(resized)
        return pixels

    with ThreadPoolExecutor(max_workers=default_workers()) as threads:
        for start in range(0, len(indices), CHUNK):
            some = indices[start : start + CHUNK]
            chunk = np.zeros((len(some), height, width, 3), dtype=np.uint8)
            for place, (index, pixels) in enumerate(zip(some, threads.map(one, some), strict=True)):
                if isinstance(pixels, str):
                    damage.note(index, pixels)
                else:
                    chunk[place] = pixels
            out[start : start + len(some)] = torch.from_numpy(chunk)


def whole_views(
    dataset: Dataset,
    indices: Sequence[int],
    image_size: int,
    batch_size: int,
    device: torch.device,
    moments: Moments | None = None,
    damage: Damage | None = None,
) -> Iterator[Tensor]:
    """Un-augmented views of the images, in order: batches of (at most ``batch_size``, 3, S, S).

    They are normalised by ``moments``; None: by the data set's own. Undecodable images are black, and noted in
    ``damage`` (None: in one of their own).
    """
    mean, std = moment_tensors(moments, device) if moments else channel_moments(dataset, device)
    geometry = common_geometry(dataset, image_size)
    damage = damage or Damage(dataset)
    for start in range(0, len(indices), batch_size):
        images = decode(dataset, indices[start : start + batch_size], geometry, device, damage)
        yield whole_view(images.permute(0, 3, 1, 2), image_size, mean, std)


def channel_moments(dataset: Dataset, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """The data set's :func:`moment_tensors`."""
    return moment_tensors((dataset.manifest.mean, dataset.manifest.std), device)


def moment_tensors(moments: Moments, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per channel, (3,) each, for normalisation; a constant channel gets 1."""
    mean, std = (torch.tensor(part, device=device) for part in moments)
    return mean, torch.where(std < 1e-3, 1.0, std)
