"""Ten letters of one font face, drawn as images: white on black, scaled to fill their box, and centred."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, ImageFont

LETTERS = "ABCDEFGHIJ"
SIDE = 32
"""Side of an image in pixels."""

BOX = 28
"""A letter's longer side in pixels; the rest is margin."""

DRAWN = 128
"""Pixels to the em at which a letter is drawn before it is reduced: large enough that hinting hardly matters."""

NOBODYS = "\U0010ffff"
"""A code point that no font has: what is drawn for it is the face's sign for a missing character."""

Images = np.ndarray[Any, np.dtype[np.uint8]]


def open_face(data: bytes, index: int) -> ImageFont.FreeTypeFont | None:
    """Face number `index` of a font file, or None if it cannot be used: no font, no such face, no outlines, or no
    character table in Unicode (signs and icons that only sit where letters are in other fonts)."""
    try:
        # The simple layout: the other one is not in every build of Pillow, and single letters have no use for it.
        layout = ImageFont.Layout.BASIC
        return ImageFont.FreeTypeFont(io.BytesIO(data), DRAWN, index, encoding="unic", layout_engine=layout)
    except (OSError, ValueError):
        return None


def draw_letters(font: ImageFont.FreeTypeFont) -> Images | str:
    """The images of `LETTERS`, uint8 (10, `SIDE`, `SIDE`), 0 for background; or why there are none."""
    try:
        missing = _ink(font, NOBODYS)
        inks = [_ink(font, letter) for letter in LETTERS]
    except (OSError, ValueError):
        return "cannot be drawn"
    found = [ink for ink in inks if ink is not None and not _same(ink, missing)]
    if len(found) < len(LETTERS):
        return "lacks a letter"
    if min(max(ink.size) for ink in found) < BOX:  # it would have to be enlarged
        return "letters too small"
    images = np.stack([_fit(ink) for ink in found])
    if len(np.unique(images.reshape(len(LETTERS), -1), axis=0)) < len(LETTERS):
        return "two letters look the same"
    return images


def _ink(font: ImageFont.FreeTypeFont, text: str) -> Image.Image | None:
    """The drawn character without empty rows and columns at its edges; None if nothing is drawn."""
    mask = font.getmask(text, "L")
    if 0 in mask.size:
        return None
    image = Image.frombytes("L", mask.size, bytes(mask))
    box = image.getbbox()
    return None if box is None else image.crop(box)


def _same(one: Image.Image, other: Image.Image | None) -> bool:
    return other is not None and one.size == other.size and one.tobytes() == other.tobytes()


def _fit(ink: Image.Image) -> Images:
    scale = BOX / max(ink.size)
    width, height = (max(1, round(side * scale)) for side in ink.size)
    small = ink.resize((width, height), Image.Resampling.BOX)  # the mean over the area of each new pixel
    image = Image.new("L", (SIDE, SIDE))
    image.paste(small, ((SIDE - width) // 2, (SIDE - height) // 2))
    return np.asarray(image)
