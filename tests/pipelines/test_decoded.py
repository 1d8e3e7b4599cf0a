"""Decoding into one geometry, un-augmented views, and the moments they are normalised with."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as reference

from tcc_fast.datasets import Dataset, Geometry, open_dataset
from tcc_fast.pipelines import decoded
from tcc_fast.pipelines.decoded import channel_moments, common_geometry, decode, whole_views

CPU = torch.device("cpu")


def with_manifest(dataset: Dataset, **changes: object) -> Dataset:
    dataset.manifest = dataclasses.replace(dataset.manifest, **changes)
    return dataset


@pytest.mark.parametrize(
    ("short_side", "uniform", "image_size", "expected"),
    [
        (48, (40, 56), 96, (40, 56)),
        (0, (300, 400), 96, (300, 400)),
        (48, None, 96, (48, 48)),
        (0, None, 96, (111, 111)),  # 110.4 rounded up
        (0, None, 100, (115, 115)),
    ],
)
def test_common_geometry(
    photos: Path, short_side: int, uniform: tuple[int, int] | None, image_size: int, expected: tuple[int, int]
) -> None:
    geometry = Geometry(short_side, None, uniform)
    assert common_geometry(with_manifest(open_dataset(photos), geometry=geometry), image_size) == expected


def test_the_data_sets_here_are_what_they_are_meant_to_be(photos: Path, frames: Path) -> None:
    assert common_geometry(open_dataset(frames), 16) == (40, 56)
    assert common_geometry(open_dataset(photos), 16) == (48, 48)
    sizes = open_dataset(photos).sizes()
    assert len(sizes) == 46
    assert len(np.unique(sizes, axis=0)) > 20


def test_images_of_the_geometry_are_decoded_pixel_by_pixel(frames: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoded, "CHUNK", 4)  # so that the images come in several chunks, the last one short
    dataset = open_dataset(frames)
    indices = [5, 23, 0, 7, 7, 1, 2, 3, 4, 22]
    found = decode(dataset, indices, (40, 56))
    assert found.dtype == torch.uint8
    assert found.shape == (10, 40, 56, 3)
    for index, image in zip(indices, found, strict=True):
        assert np.array_equal(image.numpy(), dataset.decode(index))


def test_other_images_are_squeezed_to_it(photos: Path) -> None:
    dataset = open_dataset(photos)
    found = decode(dataset, range(46), (48, 32))
    assert found.shape == (46, 48, 32, 3)
    for index, image in enumerate(found):
        squeezed = Image.fromarray(dataset.decode(index)).resize((32, 48), Image.Resampling.BILINEAR)
        assert np.array_equal(image.numpy(), np.asarray(squeezed))


def test_nothing_decodes_to_nothing(frames: Path) -> None:
    assert decode(open_dataset(frames), [], (40, 56)).shape == (0, 40, 56, 3)


@pytest.mark.parametrize("image_size", [16, 40])
def test_whole_views_are_the_resized_images_in_order(frames: Path, image_size: int) -> None:
    dataset = open_dataset(frames)
    mean, std = channel_moments(dataset)
    indices = [3, 1, 20, 20, 5, 0, 23]
    batches = list(whole_views(dataset, indices, image_size, 3, CPU))
    assert [len(batch) for batch in batches] == [3, 3, 1]
    for index, view in zip(indices, torch.cat(batches), strict=True):
        image = torch.from_numpy(dataset.decode(index)).permute(2, 0, 1).float() / 255.0
        resized = reference.resize(image, [image_size, image_size], antialias=True)
        expected = reference.normalize(resized, mean.tolist(), std.tolist())
        torch.testing.assert_close(view, expected, rtol=0, atol=1e-4)


def test_whole_views_of_unequal_images_show_all_of_each(photos: Path) -> None:
    dataset = open_dataset(photos)
    mean, std = channel_moments(dataset)
    (views,) = whole_views(dataset, range(46), 24, 64, CPU)
    for index, view in enumerate(views):
        image = torch.from_numpy(dataset.decode(index)).permute(2, 0, 1).float() / 255.0
        resized = reference.resize(image, [24, 24], antialias=True)
        expected = reference.normalize(resized, mean.tolist(), std.tolist())
        assert (view - expected).abs().mean() < 0.1  # squeezed first, so a little softer


def test_views_are_normalised_by_the_data_set(digits: Path) -> None:
    """At their own size nothing is resized: mean 0 and standard deviation 1 in each channel."""
    views = torch.cat(list(whole_views(open_dataset(digits), range(1797), 8, 500, CPU)))
    assert len(views) == 1797
    torch.testing.assert_close(views.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-4)
    torch.testing.assert_close(views.std((0, 2, 3)), torch.ones(3), rtol=0, atol=1e-4)


def test_channel_moments(photos: Path) -> None:
    dataset = open_dataset(photos)
    mean, std = channel_moments(dataset, CPU)
    pixels = np.concatenate([dataset.decode(index).reshape(-1, 3) for index in range(46)]) / 255.0
    torch.testing.assert_close(mean, torch.tensor(pixels.mean(0), dtype=torch.float32), rtol=0, atol=1e-5)
    torch.testing.assert_close(std, torch.tensor(pixels.std(0), dtype=torch.float32), rtol=0, atol=1e-5)


def test_a_constant_channel_is_not_divided_by_nothing(photos: Path) -> None:
    dataset = with_manifest(open_dataset(photos), mean=(0.0, 0.5, 1.0), std=(0.0, 0.25, 1e-4))
    mean, std = channel_moments(dataset)
    assert mean.tolist() == [0.0, 0.5, 1.0]
    assert std.tolist() == [1.0, 0.25, 1.0]
