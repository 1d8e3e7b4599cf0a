"""What is stored of an image: geometry, encoding, and exact sums."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tcc_fast.datasets import encode as encode_module
from tcc_fast.datasets.encode import StorageOptions, Stored, store_item, target_size
from tcc_fast.datasets.reader import FilePart, Item, Rejected


def store(payload: Any, **options: Any) -> Stored:
    stored = store_item(Item("x", payload), StorageOptions(**options))
    assert isinstance(stored, Stored), stored
    return stored


def opened(stored: Stored) -> Image.Image:
    image = Image.open(io.BytesIO(stored.data))
    assert image.size == (stored.width, stored.height)
    assert image.format == {"png": "PNG", "jpg": "JPEG"}[stored.extension]
    return image


@pytest.mark.parametrize(
    ("size", "short_side", "expected"),
    [
        ((500, 375), 112, (149, 112)),
        ((375, 500), 112, (112, 149)),
        ((100, 60), 112, (100, 60)),
        ((112, 112), 112, (112, 112)),
        ((113, 113), 112, (112, 112)),
        ((1000, 100), 50, (200, 50)),
        ((1000, 100), 112, (400, 100)),
        ((1, 1000), 112, (1, 4)),
        ((10_000, 7), 0, (10_000, 7)),
    ],
)
def test_target_size(size: tuple[int, int], short_side: int, expected: tuple[int, int]) -> None:
    assert target_size(*size, short_side) == expected


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_large_images_become_jpeg(encode: Any, photo: Callable[..., Image.Image], kind: str) -> None:
    image = photo(331, 213)
    stored = store(encode(image, kind), short_side=50)
    assert (stored.extension, stored.width, stored.height, stored.encoded) == ("jpg", 78, 50, True)
    found = np.asarray(opened(stored)).astype(int)
    wanted = np.asarray(image.resize((78, 50), Image.Resampling.LANCZOS)).astype(int)
    assert np.abs(found - wanted).mean() < (8 if kind == "GIF" else 3)


def test_jpeg_keeps_full_colour_resolution(encode: Any) -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = (255, 0, 0)
    stripes[:, 1::2] = (0, 0, 255)
    data = encode(Image.fromarray(stripes).convert("CMYK"), "JPEG", quality=100, subsampling=0)
    found = np.asarray(opened(store(data, short_side=64))).astype(int)
    assert np.abs(found - stripes).mean() < 12  # 4:2:0 would mix red and blue: about 85


def test_quality_is_used(encode: Any, photo: Callable[..., Image.Image]) -> None:
    data = encode(photo(300, 300), "PNG")
    assert len(store(data, short_side=100, quality=30).data) < len(store(data, short_side=100, quality=95).data)


@pytest.mark.parametrize("short_side", [0, 80])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_images_that_need_no_change_keep_their_bytes(
    encode: Any, photo: Callable[..., Image.Image], kind: str, short_side: int, mode: str
) -> None:
    data = encode(photo(100, 80).convert(mode), kind)
    stored = store(data, short_side=short_side)
    assert stored.data == data
    assert not stored.encoded


@pytest.mark.parametrize(
    ("kind", "mode", "options", "extension"),
    [
        ("PNG", "RGBA", {}, "png"),
        ("PNG", "P", {}, "png"),
        ("BMP", "RGB", {}, "png"),
        ("TIFF", "RGB", {}, "png"),
        ("GIF", "P", {}, "png"),
        ("WEBP", "RGB", {"lossless": True}, "png"),
        ("WEBP", "RGB", {}, "jpg"),
        ("JPEG", "CMYK", {}, "jpg"),
    ],
)
def test_native_size_without_loss_where_the_source_has_none(
    encode: Any,
    photo: Callable[..., Image.Image],
    kind: str,
    mode: str,
    options: dict[str, Any],
    extension: str,
) -> None:
    image = photo(40, 30).convert(mode)
    stored = store(encode(image, kind, **options), short_side=0)
    assert (stored.extension, stored.width, stored.height) == (extension, 40, 30)
    if extension == "png":
        assert (np.asarray(opened(stored)) == np.asarray(image.convert("RGB"))).all()


def test_rotated_jpeg_is_encoded_upright(encode: Any, photo: Callable[..., Image.Image]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(photo(400, 200), "JPEG", exif=exif.tobytes())
    for short_side, size in ((0, (200, 400)), (50, (50, 100)), (300, (200, 400))):
        stored = store(data, short_side=short_side)
        assert (stored.width, stored.height) == size
        assert dict(opened(stored).getexif()) == {}


def test_metadata_is_not_written_along(encode: Any, photo: Callable[..., Image.Image]) -> None:
    exif = Image.Exif()
    exif[0x010E] = "secret place"
    sources = [
        encode(photo(60, 60), "JPEG", exif=exif.tobytes(), comment=b"secret"),
        encode(photo(60, 60), "PNG", exif=exif.tobytes(), icc_profile=b"secret"),
        encode(photo(60, 60), "TIFF", exif=exif.tobytes(), icc_profile=b"secret"),
    ]
    for data in sources:
        assert b"secret" in data
        assert b"secret" not in store(data, short_side=30).data
    kept_as_png = store(encode(photo(9, 9).convert("RGBA"), "PNG", icc_profile=b"secret"))
    assert opened(kept_as_png).info == {}


@pytest.mark.parametrize("upright", [True, False])
def test_long_images_are_cropped_at_the_centre(encode: Any, upright: bool) -> None:
    pixels = np.zeros((20, 200, 3), np.uint8)
    pixels[:, 60:140] = (0, 255, 0)  # the middle 80 of 200
    pixels = pixels.transpose(1, 0, 2) if upright else pixels
    stored = store(encode(Image.fromarray(pixels), "PNG"), short_side=112)
    assert sorted((stored.width, stored.height)) == [20, 80]
    assert stored.extension == "png"
    assert stored.cropped
    assert (np.asarray(opened(stored)) == (0, 255, 0)).all()
    reduced = store(encode(Image.fromarray(pixels), "JPEG", quality=95), short_side=4)
    assert sorted((reduced.width, reduced.height)) == [4, 16]
    assert reduced.cropped
    kept = store(encode(Image.fromarray(pixels), "PNG"), short_side=0)
    assert sorted((kept.width, kept.height)) == [20, 200]
    assert not kept.cropped
    four_to_one = store(encode(Image.fromarray(pixels[:80, :80]), "PNG"), short_side=4)
    assert not four_to_one.cropped


@pytest.mark.parametrize("shape", [(8, 8), (7, 5, 3), (1, 1)])
def test_arrays_are_stored_exactly(shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    stored = store(array, lossless=True)
    image = opened(stored)
    assert image.mode == ("L" if len(shape) == 2 else "RGB")
    assert (np.asarray(image) == array).all()


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "RGB"), ("PNG", "L"), ("JPEG", "RGB"), ("JPEG", "L")])
@pytest.mark.parametrize("short_side", [0, 31])
def test_sums_are_those_of_the_stored_pixels(
    encode: Any, photo: Callable[..., Image.Image], kind: str, mode: str, short_side: int
) -> None:
    stored = store(encode(photo(70, 50).convert(mode), kind), short_side=short_side)
    pixels = np.asarray(opened(stored).convert("RGB")).astype(np.int64)
    assert list(stored.sums) == pixels.sum((0, 1)).tolist()
    assert list(stored.squares) == (pixels**2).sum((0, 1)).tolist()


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_squared_error_is_that_of_the_encoding_alone(encode: Any, photo: Callable[..., Image.Image], mode: str) -> None:
    image = photo(300, 200).convert(mode)
    stored = store(encode(image, "PNG"), short_side=40, quality=50)
    resized = np.asarray(image.resize((60, 40), Image.Resampling.LANCZOS).convert("RGB")).astype(np.int64)
    error = resized - np.asarray(opened(stored).convert("RGB"))
    assert stored.squared_error == (error**2).sum() > 0
    for kept in (encode(image, "PNG"), encode(image, "JPEG"), encode(image, "BMP")):
        assert store(kept, short_side=0).squared_error == 0


def test_source_bytes(encode: Any, photo: Callable[..., Image.Image], tmp_path: Path) -> None:
    data = encode(photo(300, 200), "JPEG")
    (tmp_path / "a").write_bytes(b"xyz" + data + b"x")
    part = FilePart(tmp_path / "a", 3, len(data))
    for payload in (data, part):
        for short_side in (0, 40):
            assert store(payload, short_side=short_side).source_bytes == len(data)
    assert store(np.zeros((7, 5, 3), np.uint8)).source_bytes == 105


def test_paths_are_read(encode: Any, photo: Callable[..., Image.Image], tmp_path: Path) -> None:
    data = encode(photo(30, 30), "PNG")
    (tmp_path / "a").write_bytes(data)
    assert store(tmp_path / "a").data == data
    assert store_item(Item("x", tmp_path / "absent"), StorageOptions()) == Rejected(
        "unreadable", "No such file or directory"
    )
    (tmp_path / "empty").touch()
    assert store_item(Item("x", tmp_path / "empty"), StorageOptions()) == Rejected("empty file")


def test_huge_files_are_not_read(
    encode: Any, photo: Callable[..., Image.Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "film").write_bytes(b"no image")
    (tmp_path / "huge").write_bytes(encode(photo(30, 30), "PNG"))
    for name, size in (("film", 1 << 40), ("huge", 1 << 31)):
        with open(tmp_path / name, "r+b") as file:
            file.truncate(size)  # sparse: takes no space
    assert store_item(Item("x", tmp_path / "film"), StorageOptions()) == Rejected("not an image")
    rejected = store_item(Item("x", tmp_path / "huge"), StorageOptions())
    assert isinstance(rejected, Rejected)
    assert rejected.reason == "file too large"


def test_out_of_memory_is_a_rejection(
    encode: Any, photo: Callable[..., Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> Stored:
        raise MemoryError

    monkeypatch.setattr(encode_module, "_store_decoded", full)
    assert store_item(Item("x", encode(photo(9, 9), "PNG")), StorageOptions()) == Rejected("too large for memory")


def test_a_rejection_passes_through() -> None:
    assert store_item(Item("x", Rejected("broken link")), StorageOptions()) == Rejected("broken link")
