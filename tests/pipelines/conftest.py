"""Small packed data sets of photo-like images, and pipelines that are closed after the test."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tcc_fast.batch import Pipeline
from tcc_fast.datasets import Dataset, convert, open_dataset
from tcc_fast.datasets.ffcv_import import import_ffcv
from tcc_fast.pipelines import RankShare, open_pipeline
from tcc_fast.settings import AugmentConfig, Config, DataConfig, TrainConfig

Open = Callable[..., Pipeline]

NUM_PHOTOS = 46


@cache
def why_no_ffcv() -> str:
    """Empty if FFCV can be used."""
    try:
        import_ffcv()
    except ValueError as error:
        return str(error)
    return ""


def skip_without(backend: str) -> None:
    """Skip the test if what the backend reads with is not installed."""
    if backend == "dali":
        pytest.importorskip("nvidia.dali")
    if backend == "ffcv" and why_no_ffcv():
        pytest.skip(why_no_ffcv())


def pack(name: str, folder: Path, raw: Path | None = None, short_side: int | None = None) -> Path:
    """Convert for every backend that is installed."""
    formats = "tar" if why_no_ffcv() else "tar,beton"
    return convert(name, folder, raw, short_side=short_side, workers=1, formats=formats, progress=False).path


def photo(width: int, height: int, seed: int) -> Image.Image:
    """Soft light, a few hard-edged things in it, a little noise."""
    rng = np.random.default_rng(seed)
    light = Image.fromarray(rng.integers(0, 256, (3, 4, 3), dtype=np.uint8))
    pixels = np.array(light.resize((width, height), Image.Resampling.BICUBIC))
    for _ in range(4):
        top, left = rng.integers(0, height * 3 // 4), rng.integers(0, width * 3 // 4)
        pixels[top : top + height // 4, left : left + width // 5] = rng.integers(0, 256, 3)
    noisy = pixels + rng.normal(0, 4, pixels.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """46 images of unequal shape, in two classes, stored with a short side of at most 48 pixels."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for index in range(NUM_PHOTOS):
        width, height = (int(side) for side in rng.integers(40, 110, 2))
        folder = root / "raw" / ("cat", "dog")[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        photo(width, height, index).save(folder / f"{index:02}.png")
    return pack("folder", root / "packed", root / "raw", short_side=48)


@pytest.fixture(scope="session")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 images of 40 × 56 pixels (height × width), without classes."""
    root = tmp_path_factory.mktemp("frames")
    (root / "raw").mkdir()
    for index in range(24):
        photo(56, 40, 100 + index).save(root / "raw" / f"{index:02}.png")
    return pack("folder", root / "packed", root / "raw", short_side=40)


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 1 797 handwritten digits, for every backend."""
    return pack("digits", tmp_path_factory.mktemp("digits") / "packed")


@pytest.fixture(name="configure", scope="session")
def _configure() -> Callable[..., Config]:
    return configure


def configure(
    backend: str = "resident",
    workers: int = 0,
    ffcv_cache: str = "os",
    batch_size: int = 8,
    image_size: int = 16,
    seed: int = 3,
    augment: dict[str, Any] | None = None,
    split: str = "all",
) -> Config:
    """Settings of a pipeline. Every part of the recipe occurs, but for what ``augment`` changes."""
    recipe = {"rotation": 10, "shear": 5, "zoom": (0.9, 1.1), "jitter": 0.8, "blur": 0.5}
    return Config(
        seed=seed,
        data=DataConfig(pipeline=backend, split=split, image_size=image_size, workers=workers, ffcv_cache=ffcv_cache),
        augment=AugmentConfig(**(recipe | (augment or {}))),
        train=TrainConfig(batch_size=batch_size),
    )


@pytest.fixture(name="pipeline")
def _pipeline() -> Iterator[Open]:
    """`pipeline(folder, backend, workers, cache, rank_share=, dtype=, **settings)` opens one, or skips the test."""
    opened: list[Pipeline] = []

    def make(
        data: Path | Dataset,
        *backend: Any,
        rank_share: RankShare | None = None,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        **settings: Any,
    ) -> Pipeline:
        skip_without(*backend[:1])
        dataset = data if isinstance(data, Dataset) else open_dataset(data, verify=False)
        config = configure(*backend, **settings)
        made = open_pipeline(dataset, config, torch.device(device), rank_share or RankShare(), dtype)
        opened.append(made)
        return made

    yield make
    for made in opened:
        made.close()


@pytest.fixture(name="damaged")
def _damaged(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Dataset]:
    """`damaged(folder, {image: content}, files)`: a copy that has other bytes in place of some images."""

    def make(folder: Path, contents: dict[int, bytes], files: str = "tar,beton") -> Dataset:
        copy = tmp_path_factory.mktemp("damaged") / "packed"
        shutil.copytree(folder, copy)
        dataset = open_dataset(copy, verify=False)
        for name in files.split(","):
            for image, content in contents.items():
                if name == "tar":
                    path = copy / dataset.manifest.shards[int(dataset._shard_of[image])]
                    overwrite(path, int(dataset._offsets[image]), int(dataset._lengths[image]), content)
                elif dataset.manifest.beton is not None:
                    path = copy / dataset.manifest.beton
                    _, at, length = beton_rows(path)[image]
                    overwrite(path, int(at), int(length), content)
        dataset.close()
        return open_dataset(copy, verify=False)

    return make


def overwrite(path: Path, at: int, length: int, content: bytes) -> None:
    """Write at a place in a file, padded with zeros to a length."""
    assert len(content) <= length
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(content.ljust(length, b"\0"))


def beton_rows(path: Path) -> np.ndarray[Any, Any]:
    """Number, place and length in bytes of every image of a beton."""
    rows = import_ffcv().reader.Reader(str(path)).alloc_table
    assert (rows["sample_id"] == np.arange(len(rows))).all()
    return rows
