"""Any encoded image -> an upright 8-bit grey or RGB image, or the reason why not.

By format:
- JPEG: baseline or progressive, grey, colour or CMYK (Adobe's inverted CMYK as Pillow handles it);
- PNG: 1 to 16 bits, grey, palette, colour, with or without transparency;
- WebP, GIF and TIFF: the first frame or page; BMP: all kinds that Pillow reads;
- AVIF: where Pillow was built with it (11.3 or newer); HEIC, as phones write it: with pillow-heif (`tcc-fast[heic]`).

By rule: EXIF orientation is applied; transparency is laid over white; 16-bit samples keep their top byte
(exact for 8-bit images that were widened by either custom, v << 8 or v * 257); colour profiles are ignored,
as every data loader does. Refused because their value range is not defined: floating-point, 32-bit and signed
samples, and LAB.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from tcc_fast.datasets.reader import NOT_AN_IMAGE, Rejected
from tcc_fast.datasets.silence import silent_libtiff, silent_pillow
from tcc_fast.datasets.sniff import HEAD_BYTES, Header, Truncated, read_header, sniff

DEFAULT_MAX_PIXELS = 178_956_970
"""Pixels above which an image is refused as a decompression bomb: where Pillow itself stops (0.5 GB as
RGB)."""

_OPENERS: dict[str, Callable[[io.BytesIO], Image.Image]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WebP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
}
_OPTIONAL_OPENERS = {
    "HEIC": ("_pillow_heif", "pillow_heif", "HeifImageFile", "HEIC needs pillow-heif (pip install pillow-heif)"),
    "AVIF": (
        "PIL._avif",
        "PIL.AvifImagePlugin",
        "AvifImageFile",
        "AVIF needs Pillow 11.3, built with libavif",
    ),
}
"""The compiled part, which may be missing by itself, module, class, and what is said without them: reason and remedy,
since a phone's folder may hold nothing else."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")
_ORIENTATION = 0x0112
_PHOTOMETRIC = 0x0106


@dataclass(frozen=True)
class Decoded:
    """A decoded image.

    Attributes:
        image: mode L or RGB, upright.
        full_size: (width, height) upright, before the decoder's own reduction (`reduce_to`).
        lossless: the source format keeps every pixel (all but JPEG, HEIC, AVIF and lossy WebP).
        plain: the source bytes hold exactly this image in a form that every decoder reads alike, so that
            they may be kept as they are (never after a reduction).
        kind: one of `tcc_fast.datasets.sniff.FORMATS`.
    """

    image: Image.Image
    full_size: tuple[int, int]
    lossless: bool
    plain: bool
    kind: str


def decode_image(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS, reduce_to: int = 0) -> Decoded | Rejected:
    """Decode one whole encoded file.

    Args:
        data: the file's bytes.
        max_pixels: larger images are refused before their pixels are allocated.
        reduce_to: let the JPEG decoder halve the image as long as its short side stays at least this many
            pixels (0: never). Several times faster on photographs.
    """
    if not data:
        return Rejected("empty file")
    kind, unsupported = sniff(data[:HEAD_BYTES])
    if kind is None:
        return Rejected("unsupported format", unsupported) if unsupported else NOT_AN_IMAGE
    try:
        with silent_pillow:
            return _decode(kind, data, read_header(kind, data), max_pixels, reduce_to)
    except Truncated:
        return Rejected("truncated", kind)
    except _Refused as refused:
        return refused.why
    except Image.DecompressionBombError:
        return Rejected("too many pixels", f"limit {max_pixels}")
    except MemoryError:
        return Rejected("too large for memory")
    except Exception as error:
        # Pillow's own messages hold memory addresses: not the same in every run.
        return Rejected("truncated" if "truncated" in str(error).lower() else "damaged", kind)


def as_decoded(image: Image.Image) -> Image.Image | Rejected:
    """An opened image as :func:`decode_image` gives it: mode L or RGB, upright, transparency over white."""
    image.load()  # which turns a TIFF
    turn = _turn(image)
    try:
        flat = _flatten(image, bit_depth=8, inverted=False)
    except _Refused as refused:
        return refused.why
    return flat if turn is None else flat.transpose(turn)


class _Refused(Exception):
    def __init__(self, why: Rejected) -> None:
        super().__init__(str(why))
        self.why = why


def _decode(kind: str, data: bytes, header: Header, max_pixels: int, reduce_to: int) -> Decoded:
    if header.size is not None:
        _check_size(header.size, max_pixels)
    image = _opener(kind)(io.BytesIO(data))
    _check_size(image.size, max_pixels)
    plain = header.plain and not image.info.get("mpoffset") and image.info.get("adobe_transform") != 0
    full_size = image.size
    if kind == "JPEG" and reduce_to > 0:
        short = min(full_size)
        if short >= 2 * reduce_to:
            # draft() halves while both sides stay at least what is asked for.
            width, height = (-(-side * reduce_to // short) for side in full_size)
            image.draft(None, (width, height))
            plain = plain and image.size == full_size
    # A TIFF's orientation is applied by Pillow while loading.
    turn = None if kind == "TIFF" else _turn(image)
    with silent_libtiff if kind == "TIFF" else contextlib.nullcontext():
        image.load()
    if kind == "TIFF":
        full_size = image.size
    inverted = kind == "TIFF" and image.mode == "I;16" and _tiff_tag(image, _PHOTOMETRIC) == 0
    flat = _flatten(image, header.bit_depth, inverted)
    if turn is not None:
        flat = flat.transpose(turn)
        if turn not in (_TURNS[2], _TURNS[3], _TURNS[4]):
            full_size = full_size[::-1]
    lossless = kind not in ("JPEG", "HEIC", "AVIF") and not (kind == "WebP" and data[12:16] != b"VP8L")
    return Decoded(flat, full_size, lossless, plain and turn is None, kind)


@functools.cache
def _opener(kind: str) -> Callable[[io.BytesIO], Image.Image]:
    if kind not in _OPTIONAL_OPENERS:
        return _OPENERS[kind]
    compiled, module, name, lacking = _OPTIONAL_OPENERS[kind]
    try:
        importlib.import_module(compiled)
        opener: Callable[[io.BytesIO], Image.Image] = getattr(importlib.import_module(module), name)
    except ImportError:
        raise _Refused(Rejected(lacking)) from None
    return opener


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width <= 0 or height <= 0:
        raise _Refused(Rejected("zero size", f"{width} x {height}"))
    if width * height > max_pixels:
        raise _Refused(Rejected("too many pixels", f"{width} x {height}, limit {max_pixels}"))


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        return None  # broken metadata on a good image


def _tiff_tag(image: Image.Image, tag: int) -> Any:
    return getattr(image, "tag_v2", {}).get(tag)


def _flatten(image: Image.Image, bit_depth: int, inverted: bool) -> Image.Image:
    """An image in mode L or RGB, transparency over white."""
    mode = image.mode
    if mode in ("L", "RGB") and "transparency" not in image.info:
        return image
    if mode.startswith("I;16") or (mode == "I" and bit_depth == 16):
        wide = np.asarray(image).astype(np.int64)
        wide = 65535 - wide if inverted else wide
        grey = (wide >> 8).astype(np.uint8)
        clear = image.info.get("transparency")
        if isinstance(clear, int):
            grey = np.where(wide == clear, np.uint8(255), grey)
        return Image.fromarray(grey)
    if mode not in _MODES:
        raise _Refused(Rejected("unsupported pixel type", mode))
    if bit_depth == 16 and isinstance(image.info.get("transparency"), tuple):
        image.info["transparency"] = tuple(value >> 8 for value in image.info["transparency"])
    if mode == "La":
        image = image.convert("LA")
    elif mode in ("RGBa", "PA"):
        image = image.convert("RGBA")
    elif mode in ("1", "L", "P", "RGB") and "transparency" in image.info:
        image = image.convert("LA" if mode in ("1", "L") else "RGBA")
    if image.mode in ("LA", "RGBA"):
        flat_mode = "L" if image.mode == "LA" else "RGB"
        flat = Image.new(flat_mode, image.size, "white")
        flat.paste(image.convert(flat_mode), mask=image.getchannel("A"))
        return flat
    return image.convert("L" if image.mode in ("1", "L") else "RGB")
