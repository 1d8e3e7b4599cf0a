"""`images.beton`: the images of a data set in FFCV's format, with one field, `image`, and no label.

JPEGs keep the bytes that they have in the tar. PNGs are stored as raw RGB pixels, since FFCV decodes nothing else:
reading them is one copy. The order of the file: header, description of the field, one row of metadata an image,
zeros up to a whole page, pages of images in index order, and the allocation table. An image lies within one page.

Everything is laid out before the first byte is written, so the file is written once, from front to back.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tcc_fast.datasets.ffcv_import import import_ffcv
from tcc_fast.datasets.store import Dataset

PAGE_BYTES = 8 << 20
"""The page size that FFCV chooses by itself."""

MAX_PAGE_BYTES = 1 << 30
"""The header could hold twice as much, but FFCV reads a page at once, and Linux ends a read 4096 bytes before that."""

MAX_SIDE = 65_535
"""The largest width or height in pixels that the metadata can hold."""

_FIELD = b"image"
_IMAGE_TYPE = 2  # RGBImageField in ffcv.types.TYPE_ID_HANDLER
_JPEG, _RAW = 0, 1  # ffcv.fields.rgb_image.IMAGE_MODES; reading that table has numba compile for a second
_CONVERT_AGAIN = "convert the data set again with --overwrite --formats tar,beton"


def beton_bytes(extension: str, width: int, height: int, encoded_bytes: int) -> int:
    """How many bytes an image takes in the beton; `extension` is "png" or "jpg".

    Raises:
        ValueError: the format cannot hold the image.
    """
    if max(width, height) > MAX_SIDE:
        raise ValueError(
            f"an image of {width} x {height} pixels does not fit into a beton, whose sides are at most {MAX_SIDE}; "
            "reduce images with --short-side, or leave beton out of --formats"
        )
    size = 3 * width * height if extension == "png" else encoded_bytes
    if size > MAX_PAGE_BYTES:
        raise ValueError(
            f"an image of {width} x {height} pixels takes {size} bytes in a beton, whose pages are at most "
            f"{MAX_PAGE_BYTES}; reduce images with --short-side, or leave beton out of --formats"
        )
    return size


def write_beton(write: Callable[[bytes], None], dataset: Dataset, advance: Callable[[int], None]) -> None:
    """Write every image of `dataset`, in index order.

    Memory holds a few dozen bytes an image, and one image at a time.

    Args:
        write: takes the bytes of the file in order.
        dataset: where the images are read from.
        advance: called with the number of images written so far.

    Raises:
        ValueError: FFCV is not installed, or the format cannot hold an image.
    """
    ffcv = import_ffcv()
    shapes, is_png = dataset.sizes(), dataset.is_png()
    sizes = [
        beton_bytes("png" if png else "jpg", int(width), int(height), int(length))
        for (height, width), png, length in zip(shapes, is_png, dataset.lengths(), strict=True)
    ]
    page = max(PAGE_BYTES, 1 << (max(sizes) - 1).bit_length())
    field = ffcv.fields.RGBImageField()
    metadata = np.zeros(len(sizes), dtype=ffcv.types.get_metadata_type([field]))
    start = ffcv.types.HeaderType.itemsize + ffcv.types.FieldDescType.itemsize + metadata.nbytes
    pointers, end = _place(sizes, start, page)

    header = np.zeros(1, dtype=ffcv.types.HeaderType)
    header["version"] = ffcv.types.CURRENT_VERSION
    header["num_fields"] = 1
    header["page_size"] = page
    header["num_samples"] = len(sizes)
    header["alloc_table_ptr"] = end
    description = np.zeros(1, dtype=ffcv.types.FieldDescType)
    description["type_id"] = _IMAGE_TYPE
    description["name"][0, : len(_FIELD)] = np.frombuffer(_FIELD, dtype=np.uint8)
    description["arguments"] = field.to_binary()[0]
    rows = metadata[metadata.dtype.names[0]]
    rows["mode"] = np.where(is_png, _RAW, _JPEG)
    rows["height"], rows["width"] = shapes.T
    rows["data_ptr"] = pointers
    table = np.zeros(len(sizes), dtype=ffcv.types.ALLOC_TABLE_TYPE)
    table["sample_id"] = np.arange(len(sizes))
    table["ptr"] = pointers
    table["size"] = sizes

    for part in (header, description, metadata):
        write(part.tobytes())
    at = start
    for index, size in enumerate(sizes):
        data = dataset.decode(index).tobytes() if is_png[index] else dataset.read(index)
        assert len(data) == size, f"image {index} has {len(data)} bytes instead of {size}"
        write(bytes(int(pointers[index]) - at))
        write(data)
        at = int(pointers[index]) + size
        advance(index + 1)
    write(bytes(end - at))
    write(table.tobytes())


def check_beton(path: Path, num_images: int) -> None:
    """Whether `path` is a beton of `num_images` images that this FFCV reads, judged by its header and its size.

    Raises:
        ValueError: it is not, or FFCV is not installed; names the file and says what to do.
    """
    types = import_ffcv().types
    head_bytes = types.HeaderType.itemsize + types.FieldDescType.itemsize
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(head_bytes)
    except FileNotFoundError:
        raise ValueError(f"{path}: is missing, but FFCV reads no other file; {_CONVERT_AGAIN}") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    if size < head_bytes:
        raise ValueError(f"{path}: is truncated ({size} bytes); copy it again, or {_CONVERT_AGAIN}")
    header = np.frombuffer(head, dtype=types.HeaderType, count=1)[0]
    description = np.frombuffer(head, dtype=types.FieldDescType, count=1, offset=types.HeaderType.itemsize)[0]
    version, fields = int(header["version"]), int(header["num_fields"])
    if version != types.CURRENT_VERSION:
        raise ValueError(
            f"{path}: is of version {version} of the format, but the installed FFCV reads version "
            f"{types.CURRENT_VERSION}; {_CONVERT_AGAIN}"
        )
    name = description["name"].tobytes().rstrip(b"\0")
    if (fields, name, int(description["type_id"])) != (1, _FIELD, _IMAGE_TYPE):
        raise ValueError(f"{path}: holds something else than one field of images called 'image'; {_CONVERT_AGAIN}")
    found = int(header["num_samples"])
    if found != num_images:
        raise ValueError(
            f"{path}: holds {found} images, but the data set has {num_images}, so it belongs to another one; "
            f"{_CONVERT_AGAIN}"
        )
    wanted = int(header["alloc_table_ptr"]) + found * types.ALLOC_TABLE_TYPE.itemsize
    if size != wanted:
        what = "truncated" if size < wanted else "too long"
        raise ValueError(f"{path}: is {what} ({size} bytes instead of {wanted}); copy it again, or {_CONVERT_AGAIN}")


def _place(sizes: list[int], start: int, page: int) -> tuple[np.ndarray[Any, np.dtype[np.uint64]], int]:
    """Where in the file each image begins, and where the last page ends, for pages from `start` on."""
    at = -(-start // page) * page
    pointers = np.zeros(len(sizes), dtype=np.uint64)
    for index, size in enumerate(sizes):
        if at % page + size > page:
            at = -(-at // page) * page
        pointers[index] = at
        at += size
    return pointers, -(-at // page) * page
