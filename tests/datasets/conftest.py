"""Images of known colours, in memory and in folders."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Encode = Callable[..., bytes]


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def smooth(width: int, height: int, seed: int = 0) -> Image.Image:
    """A colourful image without sharp edges, so that JPEG keeps it nearly."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(name="encode")
def _encode() -> Encode:
    return encoded


@pytest.fixture(name="photo")
def _photo() -> Callable[..., Image.Image]:
    return smooth


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of ten images, of six kinds; two files that are no images, and one that is cut."""
    root = tmp_path / "photos"
    kinds = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
    for label, name in enumerate(("cat", "dog")):
        (root / name / "deep" / "er").mkdir(parents=True)
        for index in range(10):
            image = smooth(50 + 17 * index, 90 - 3 * index, seed=10 * label + index)
            kind = kinds[index % len(kinds)]
            folder = root / name if index < 5 else root / name / "deep" / "er"
            (folder / f"{index}.dat").write_bytes(encoded(image, kind))
    (root / "cat" / "notes.jpg").write_text("these are cats")
    (root / "readme.txt").write_text("images")
    (root / "dog" / "half.jpg").write_bytes(encoded(smooth(80, 80), "JPEG")[:900])
    return root


def read_folder(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(name="content")
def _content() -> Callable[[Path], dict[str, bytes]]:
    return read_folder
