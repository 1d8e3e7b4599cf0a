"""`resident`: views of stored, maybe squeezed, images are those of the originals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as reference

from tcc_fast.datasets import Dataset, open_dataset
from tcc_fast.draws import STREAM_AUGMENT, keys, scalar_key
from tcc_fast.pipelines.decoded import channel_moments
from tcc_fast.settings import AugmentConfig
from tcc_fast.views.view_parameters import ViewParameters, draw

ONLY_CROP: dict[str, Any] = {"rotation": 0, "shear": 0, "zoom": (1, 1), "jitter": 0, "grey": 0, "blur": 0}
SEED = 3


def parameters_of(index: Tensor, view: int, sizes: Tensor) -> ViewParameters:
    key = keys(scalar_key(STREAM_AUGMENT, SEED, 0, view), index)
    return draw(AugmentConfig(**ONLY_CROP), key, *sizes[index].unbind(1))


def cropped(dataset: Dataset, index: int, box: Tensor, flip: bool, size: int) -> Tensor:
    """The real image, cropped by torchvision."""
    image = torch.from_numpy(dataset.decode(index)).permute(2, 0, 1).float() / 255.0
    view = reference.resized_crop(image, *box.int().tolist(), size=[size, size], antialias=True)
    return reference.horizontal_flip(view) if flip else view


@pytest.mark.parametrize("image_size", [16, 32])
def test_views_of_equal_images_are_crops_of_them(pipeline: Any, frames: Path, image_size: int) -> None:
    dataset = open_dataset(frames)
    assert errors(pipeline, dataset, image_size).max() < 1e-5


@pytest.mark.parametrize("image_size", [16, 32])
def test_views_of_unequal_images_are_crops_of_them_at_the_right_aspect(
    pipeline: Any, photos: Path, image_size: int
) -> None:
    """Stored at 48 x 48, they have lost some detail but no proportions."""
    dataset = open_dataset(photos)
    found = errors(pipeline, dataset, image_size)
    assert found.mean() < 0.015
    assert found.max() < 0.05
    # Were boxes taken to be in stored pixels, or height for width, it would show.
    sizes = torch.from_numpy(dataset.sizes())
    square = errors(pipeline, dataset, image_size, torch.full_like(sizes, 48))
    assert square.mean() > 5 * found.mean()


def errors(pipeline: Any, dataset: Dataset, image_size: int, drawn_in: Tensor | None = None) -> Tensor:
    """Mean absolute error of each view of an epoch, pixels in 0..1; boxes drawn in the images' own sizes."""
    made = pipeline(dataset, "resident", image_size=image_size, seed=SEED, augment=ONLY_CROP)
    mean, std = (moment.view(3, 1, 1) for moment in channel_moments(dataset))
    sizes = torch.from_numpy(dataset.sizes()) if drawn_in is None else drawn_in
    found = []
    for batch in made:
        for number, views in ((1, batch.view_1), (2, batch.view_2)):
            parameters = parameters_of(batch.index, number, sizes)
            for i, view in enumerate(views):
                expected = cropped(
                    dataset, int(batch.index[i]), parameters.box[i], bool(parameters.flip[i]), image_size
                )
                found.append((view * std + mean - expected).abs().mean())
    return torch.stack(found)


def test_views_leave_the_stored_images_as_they_are(pipeline: Any, frames: Path) -> None:
    made = pipeline(frames, "resident")
    before = made.images.clone()
    list(made)
    assert torch.equal(made.images, before)
