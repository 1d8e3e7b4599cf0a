"""Every backend but `torch` shows what `augment.apply` makes of `draw` at the key (seed, epoch, view, image)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tcc_fast.batch import Batch
from tcc_fast.datasets import Dataset, open_dataset
from tcc_fast.datasets.ffcv_import import import_ffcv
from tcc_fast.draws import STREAM_AUGMENT, keys, scalar_key
from tcc_fast.pipelines import dali_views
from tcc_fast.pipelines.decoded import channel_moments
from tcc_fast.settings import AugmentConfig, Config
from tcc_fast.views.augment import apply, finish, place
from tcc_fast.views.view_parameters import ViewParameters, draw

Pixels = Callable[[Dataset, int], np.ndarray[Any, Any]]

SEED, SIZE = 3, 24
TOLERANCE = 1e-5
"""Rounding of single precision, pixels in 0..1."""
COLOURS: dict[str, Any] = {"jitter": 0.8, "grey": 0.2, "blur": 0.5}
NO_COLOURS = dict.fromkeys(COLOURS, 0)
NO_AFFINE: dict[str, Any] = {"rotation": 0, "shear": 0, "zoom": (1, 1)}


def by_pillow(dataset: Dataset, image: int) -> np.ndarray[Any, Any]:
    return dataset.decode(image)


def by_ffcv(dataset: Dataset, image: int) -> np.ndarray[Any, Any]:
    """JPEGs by FFCV's decoder; what it stores as pixels is the same for all."""
    if dataset.is_png()[image]:
        return dataset.decode(image)
    data = np.frombuffer(dataset.read(image), dtype=np.uint8)
    height, width = (int(side) for side in dataset.sizes()[image])
    pixels = np.zeros((height, width, 3), np.uint8)
    assert import_ffcv().libffcv.imdecode(data, pixels, height, width, height, width, 0, 0, 1, 1, False, False) == 0
    return pixels


def parameters_of(dataset: Dataset, recipe: AugmentConfig, epoch: int, view: int, image: int) -> ViewParameters:
    key = keys(scalar_key(STREAM_AUGMENT, SEED, epoch, view), torch.tensor([image]))
    return draw(recipe, key, *torch.from_numpy(dataset.sizes()[image]).unsqueeze(1))


def views_of(batches: list[Batch]) -> Iterator[tuple[int, int, Tensor]]:
    """(view, image, its pixels) of every view."""
    for batch in batches:
        for row, image in enumerate(batch.index.tolist()):
            yield 1, image, batch.view_1[row]
            yield 2, image, batch.view_2[row]


def image_of(pixels: np.ndarray[Any, Any]) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0)


def in_unit(dataset: Dataset, view: Tensor) -> Tensor:
    """A normalised view's pixels in 0..1."""
    mean, std = (moment.view(3, 1, 1) for moment in channel_moments(dataset))
    return view * std + mean


@pytest.mark.parametrize(
    ("backend", "data", "pixels"),
    [
        (("resident", 2), "frames", by_pillow),
        (("ffcv", 2), "frames", by_pillow),
        (("ffcv", 2), "photos", by_ffcv),
        (("ffcv", 2, "process"), "photos", by_ffcv),
        (("dali", 2), "frames", by_pillow),
        (("dali", 2), "photos", by_pillow),
    ],
    ids=[
        "resident",
        "ffcv, raw pixels",
        "ffcv, JPEGs and raw pixels",
        "ffcv, the same in its own cache",
        "dali, PNGs",
        "dali, JPEGs and PNGs",
    ],
)
def test_views_are_those_of_the_recipe(
    pipeline: Any,
    configure: Callable[..., Config],
    backend: tuple[Any, ...],
    data: str,
    pixels: Pixels,
    request: pytest.FixtureRequest,
) -> None:
    dataset = open_dataset(request.getfixturevalue(data), verify=False)
    recipe = configure(augment=COLOURS).augment
    made = pipeline(dataset, *backend, image_size=SIZE, seed=SEED, augment=COLOURS)
    made.set_epoch(2)
    found = list(views_of(list(made)))
    assert len(found) == 2 * 8 * made.batches_per_epoch
    assert dataset.is_png().all() == (data == "frames")
    zero, one = torch.zeros(3), torch.ones(3)
    wrong = []
    for number, index, view in found:
        image = image_of(pixels(dataset, index))
        unit = in_unit(dataset, view)
        parameters = parameters_of(dataset, recipe, 2, number, index)
        (expected,) = apply(image, parameters, recipe, SIZE, zero, one)
        torch.testing.assert_close(unit, expected, rtol=0, atol=TOLERANCE)
        others = ((1, number, index), (2, 3 - number, index), (2, number, index + 1)) if index < 8 else ()
        for epoch, other_view, other in others:
            parameters = parameters_of(dataset, recipe, epoch, other_view, other)
            wrong.append((apply(image, parameters, recipe, SIZE, zero, one)[0] - unit).abs().max())
    assert min(wrong) > 100 * TOLERANCE


@pytest.mark.parametrize("data", ["frames", "photos"])
def test_views_that_dali_cuts_are_those_of_the_recipe_but_for_whole_grey_levels(
    pipeline: Any,
    configure: Callable[..., Config],
    data: str,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a GPU. DALI's crops are half a level off inside, and the colours are exactly those of such crops. (What it
    does at the border of a crop, and with an affine map, is in `test_dali.py`.)"""
    monkeypatch.setattr(dali_views, "DaliPipeline", partial(dali_views.DaliPipeline, cuts=True))
    dataset = open_dataset(request.getfixturevalue(data), verify=False)
    settings: dict[str, Any] = {"image_size": SIZE, "seed": SEED}
    recipe = configure(augment=COLOURS | NO_AFFINE).augment
    plain = pipeline(dataset, "dali", 1, **settings, augment=NO_COLOURS | NO_AFFINE)
    coloured = pipeline(dataset, "dali", 1, **settings, augment=COLOURS | NO_AFFINE)
    mean, std = channel_moments(dataset)
    for made in (plain, coloured):
        made.set_epoch(2)
    both = zip(views_of(list(plain)), views_of(list(coloured)), strict=True)
    changed = 0.0
    for (number, image, crop), (_, _, view) in both:
        levels = in_unit(dataset, crop) * 255
        assert (levels - levels.round()).abs().max() < 1e-2
        parameters = parameters_of(dataset, recipe, 2, number, image)
        expected = place(image_of(dataset.decode(image)), parameters, recipe, SIZE)[0, 0]
        assert (levels - expected)[:, 1:-1, 1:-1].abs().max() < 0.51
        finished = finish(levels.round().unsqueeze(0), parameters, recipe, mean, std)[0]
        torch.testing.assert_close(in_unit(dataset, view), in_unit(dataset, finished), rtol=0, atol=TOLERANCE)
        changed = max(changed, float((crop - view).abs().max()))
    assert changed > 0.1
