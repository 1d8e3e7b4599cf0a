"""A source item -> the image that is stored, with the sums that mean and std are made of. Runs in workers.

An image that needs no change keeps its bytes. Otherwise it is stored as PNG where the source format keeps
every pixel and nothing was resized, else as JPEG with full colour resolution (4:4:4): at about 112 pixels,
halved colour planes would be 56 pixels wide, and colour jitter and grey-scale augmentation draw on them; it
costs about a fifth in size.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageChops, JpegImagePlugin

from tcc_fast.datasets.decode import DEFAULT_MAX_PIXELS, Decoded, decode_image
from tcc_fast.datasets.reader import FilePart, Item, Rejected
from tcc_fast.datasets.sniff import HEAD_BYTES, is_image

NEEDS_CONVERSION = "needs conversion"
"""Why an image that could be read cannot be left in place."""
MAX_ASPECT = 4
"""With a short side set, a longer image is cropped at its centre to this many times its short side."""

MAX_SHORT_SIDE = 16_000
"""Times `MAX_ASPECT` it is still within what a JPEG can hold."""

MAX_FILE_BYTES = 1 << 30
"""A larger source file is refused: it is no photograph, and it would be read into memory whole."""


@dataclass(frozen=True)
class StorageOptions:
    """How images are stored; sent to every worker.

    Attributes:
        short_side: limit on the short side in pixels, 0 for none. Never enlarges.
        quality: JPEG quality of what is encoded anew, 1..100.
        lossless: PNG at native size, whatever `short_side`.
        max_pixels: images with more pixels are refused.
        in_place: images stay as they are, so those that would have to change are refused.
    """

    short_side: int = 0
    quality: int = 95
    lossless: bool = False
    max_pixels: int = DEFAULT_MAX_PIXELS
    in_place: bool = False


@dataclass(frozen=True)
class Stored:
    """One image as it is stored.

    Attributes:
        data: the encoded bytes.
        extension: "png" or "jpg".
        width, height: in pixels.
        sums, squares: per channel (RGB) the sum of the stored pixels 0..255 and of their squares, exact.
        encoded: JPEG bytes made here, at the options' quality.
        cropped: the image was longer than `MAX_ASPECT` allows.
        squared_error: sum over pixels and channels of the squared difference, in grey levels 0..255, between what
            was encoded and what it decodes to; exact, and 0 unless `encoded`.
        source_bytes: size of the source file, or of the pixels where the source holds pixels.
    """

    data: bytes
    extension: str
    width: int
    height: int
    sums: tuple[int, int, int]
    squares: tuple[int, int, int]
    encoded: bool
    cropped: bool = False
    squared_error: int = 0
    source_bytes: int = 0


def store_item(item: Item, options: StorageOptions) -> Stored | Rejected:
    """Read, decode, resize and encode one item. Never raises for what is wrong with the item itself."""
    try:
        return _store_item(item, options)
    except MemoryError:
        return Rejected("too large for memory")


def _store_item(item: Item, options: StorageOptions) -> Stored | Rejected:
    payload = item.payload
    if isinstance(payload, Rejected):
        return payload
    if isinstance(payload, np.ndarray):
        return replace(_as_png(Image.fromarray(payload)), source_bytes=payload.nbytes)
    if isinstance(payload, Path | FilePart):
        read = _read_file(payload) if isinstance(payload, Path) else _read_part(payload)
        if isinstance(read, Rejected):
            return read
        payload = read
    decoded = decode_image(payload, max_pixels=options.max_pixels, reduce_to=2 * options.short_side)
    if isinstance(decoded, Rejected):
        return decoded
    stored = _store_decoded(decoded, payload, options)
    return stored if isinstance(stored, Rejected) else replace(stored, source_bytes=len(payload))


def target_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Stored (width, height) of an image: aspect limited to `MAX_ASPECT`, short side at most
    `short_side`."""
    if short_side == 0:
        return width, height
    short = min(width, height)
    width, height = min(width, MAX_ASPECT * short), min(height, MAX_ASPECT * short)
    if short <= short_side:
        return width, height
    return (width * short_side + short // 2) // short, (height * short_side + short // 2) // short


def _read_file(path: Path) -> bytes | Rejected:
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(HEAD_BYTES)
            if head and not is_image(head):
                return head  # no need to read the rest of a film to say that it is not an image
            if size > MAX_FILE_BYTES:
                return Rejected("file too large", f"{size} bytes, limit {MAX_FILE_BYTES}")
            return head + file.read()
    except OSError as error:
        return Rejected("unreadable", os.strerror(error.errno) if error.errno else "")


def _read_part(part: FilePart) -> bytes | Rejected:
    if part.length > MAX_FILE_BYTES:
        return Rejected("file too large", f"{part.length} bytes, limit {MAX_FILE_BYTES}")
    try:
        with open(part.path, "rb", buffering=0) as file:
            file.seek(part.offset)
            data = file.read(part.length)
            while 0 < len(data) < part.length and (more := file.read(part.length - len(data))):
                data += more
    except OSError as error:
        return Rejected("unreadable", os.strerror(error.errno) if error.errno else "")
    return data if len(data) == part.length else Rejected("truncated", "archive")


def _store_decoded(decoded: Decoded, original: bytes, options: StorageOptions) -> Stored | Rejected:
    image = decoded.image
    if options.in_place and not decoded.plain:
        return Rejected(NEEDS_CONVERSION, decoded.kind)
    if options.lossless:
        return _as_png(image)
    target = target_size(*decoded.full_size, options.short_side)
    changed = target != decoded.full_size
    if decoded.plain and not changed:
        return _stored(original, "jpg" if decoded.kind == "JPEG" else "png", image, encoded=False)
    resized = min(target) < min(decoded.full_size)
    if changed:
        # The decoder may have halved the image: crop by what is there, then resize to what was promised.
        short = min(image.size)
        width, height = (min(side, MAX_ASPECT * short) for side in image.size)
        left, top = (image.width - width) // 2, (image.height - height) // 2
        image = image.crop((left, top, left + width, top + height))
        if image.size != target:
            image = image.resize(target, Image.Resampling.LANCZOS)
    cropped = changed and max(decoded.full_size) > MAX_ASPECT * min(decoded.full_size)
    stored = _as_png(image) if decoded.lossless and not resized else _as_jpeg(image, options.quality)
    return replace(stored, cropped=cropped)


def _as_png(image: Image.Image) -> Stored:
    buffer = io.BytesIO()
    _bare(image).save(buffer, "PNG")
    return _stored(buffer.getvalue(), "png", image, encoded=False)


def _as_jpeg(image: Image.Image, quality: int) -> Stored:
    buffer = io.BytesIO()
    _bare(image).save(buffer, "JPEG", quality=quality, subsampling=0)
    data = buffer.getvalue()
    stored = JpegImagePlugin.JpegImageFile(io.BytesIO(data))  # mean and std are of the pixels as stored
    _, squares = _sums(ImageChops.difference(image, stored))
    return replace(_stored(data, "jpg", stored, encoded=True), squared_error=sum(squares))


def _bare(image: Image.Image) -> Image.Image:
    """The pixels without metadata, which Pillow would write along (profiles, EXIF, transparency)."""
    bare = image.copy()
    bare.info = {}
    return bare


def _stored(data: bytes, extension: str, image: Image.Image, *, encoded: bool) -> Stored:
    sums, squares = _sums(image)
    return Stored(data, extension, image.width, image.height, sums, squares, encoded)


def _sums(image: Image.Image) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Per channel (RGB; grey counts as three equal ones) the sum of the pixels and of their squares, exact."""
    counts = np.array(image.histogram(), dtype=np.int64).reshape(-1, 256)
    levels: np.ndarray[Any, np.dtype[np.int64]] = np.arange(256, dtype=np.int64)
    sums, squares = (counts @ levels).tolist(), (counts @ levels**2).tolist()
    if len(sums) == 1:
        sums, squares = sums * 3, squares * 3
    return tuple(sums), tuple(squares)
