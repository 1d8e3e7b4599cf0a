"""What the first bytes of a file say: its format, size in pixels, and whether it is whole. No pixel is
decoded.

Everything goes by content; a file's extension is never looked at.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass

HEAD_BYTES = 64
"""Enough of a file for `sniff`."""

_UNSUPPORTED = {
    b"\x00\x00\x00\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\x00\x00\x00\x0cJXL ": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"8BPS": "Photoshop",
    b"\x76\x2f\x31\x01": "OpenEXR",
    b"\x00\x00\x01\x00": "ICO",
    b"<svg": "SVG",
    b"SIMPLE  =": "FITS",
    b"DDS ": "DDS",
}
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)
FORMATS = ("JPEG", "PNG", "WebP", "BMP", "GIF", "TIFF", "HEIC", "AVIF")


def sniff(head: bytes) -> tuple[str | None, str]:
    """The format of a file: (format, "") for one of `FORMATS`, (None, name) for an image format that is not read,
    (None, "") otherwise.

    `head` is the first `HEAD_BYTES` of the file, or all of it.
    """
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG", ""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG", ""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP", ""
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "GIF", ""
    if head[:2] == b"BM" and len(head) >= 18 and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "BMP", ""
    if head.startswith((b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")):
        return (None, "Canon raw") if head[8:10] == b"CR" else ("TIFF", "")
    if head[4:8] == b"ftyp" and (kind := _heif_kind(head)):
        return kind, ""
    if len(head) > 2 and head[:1] == b"P" and head[1:2] in b"123456" and head[2:3] in b" \t\r\n":
        return None, "Netpbm"
    for start, name in _UNSUPPORTED.items():
        if head.startswith(start):
            return None, name
    return None, ""


def _heif_kind(head: bytes) -> str | None:
    """The kind of a HEIF file by its brands: the major one and compatible ones, since either may name the codec."""
    end = min(int.from_bytes(head[:4], "big"), len(head))
    brands = {head[8:12], *(head[at : at + 4] for at in range(16, end - 3, 4))}
    return "AVIF" if brands & _AVIF_BRANDS else "HEIC" if brands & _HEIC_BRANDS else None


def is_image(head: bytes) -> bool:
    """Whether a file that begins so is an image in a format that conversion reads."""
    return sniff(head)[0] is not None


def is_image_file(path: str | os.PathLike[str]) -> bool:
    """Whether a file on disk is an image in a format that conversion reads; one that cannot be read is none."""
    try:
        with open(path, "rb") as file:
            return is_image(file.read(HEAD_BYTES))
    except OSError:
        return False


@dataclass(frozen=True)
class Header:
    """What the header declares.

    Attributes:
        size: (width, height) in pixels, None when only the decoder can tell.
        plain: an ordinary JPEG (Huffman-coded, 8-bit, grey or YCbCr) or PNG (8-bit grey or RGB, no
            transparency, one frame) that every decoder reads alike. Orientation is not looked at.
        bit_depth: bits a sample (PNG only, else 8).
    """

    size: tuple[int, int] | None = None
    plain: bool = False
    bit_depth: int = 8


class Truncated(Exception):
    """The file ends before its own structure does."""


class Damaged(Exception):
    """The file contradicts itself."""


def read_header(kind: str, data: bytes) -> Header:
    """Declared geometry of a whole file of format `kind`.

    Raises:
        Truncated: structure that is cut off, such as a PNG without its IEND chunk. (Image data that ends early
            is for the decoder to find.)
        Damaged: a PNG chunk whose checksum is wrong.
    """
    if kind == "JPEG":
        return _jpeg(data)
    if kind == "PNG":
        return _png(data)
    if kind == "GIF" and len(data) >= 10:
        return Header(_pair(data, 6, "<HH"))
    if kind == "BMP" and len(data) >= 26:
        if int.from_bytes(data[14:18], "little") == 12:
            return Header(_pair(data, 18, "<HH"))
        width, height = _pair(data, 18, "<ii")
        return Header((width, abs(height)))
    if kind == "WebP":
        return _webp(data)
    return Header()


def _pair(data: bytes, at: int, layout: str) -> tuple[int, int]:
    first, second = struct.unpack_from(layout, data, at)
    return int(first), int(second)


def _jpeg(data: bytes) -> Header:
    size, plain, at = None, False, 2
    while True:
        if at + 4 > len(data):
            raise Truncated
        if data[at] != 0xFF:
            return Header(size)  # stray bytes between segments: for the decoder to judge
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:
            at += 2
            continue
        if marker == 0xD9:
            raise Truncated  # ended before any image data
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if at + 10 > len(data):
                raise Truncated
            bits, height, width, components = struct.unpack_from(">BHHB", data, at + 4)
            size = (width, height)
            plain = marker in (0xC0, 0xC1, 0xC2) and bits == 8 and components in (1, 3)
        at += 2 + length
        if marker == 0xDA:
            return Header(size, plain)


def _png(data: bytes) -> Header:
    size, plain, bit_depth, at = None, False, 8, 8
    while True:
        if at + 12 > len(data):
            raise Truncated
        length = int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        end = at + 8 + length
        if end + 4 > len(data):
            raise Truncated
        # Pillow does not look at the checksum of pixel data: a flipped bit would become a wrong image. A
        # wrong checksum on an ancillary chunk (lower-case first letter) harms no pixel.
        critical = not kind[0] & 0x20
        if critical and zlib.crc32(memoryview(data)[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise Damaged
        if kind == b"IHDR" and length >= 13:
            size = _pair(data, at + 8, ">II")
            bit_depth, colour = data[at + 16], data[at + 17]
            plain = bit_depth == 8 and colour in (0, 2)
        elif kind in (b"tRNS", b"acTL"):
            plain = False
        elif kind == b"IEND":
            return Header(size, plain, bit_depth)
        at = end + 4


def _webp(data: bytes) -> Header:
    if len(data) < 30 or len(data) < 8 + int.from_bytes(data[4:8], "little"):
        raise Truncated
    kind = data[12:16]
    if kind == b"VP8X":
        return Header((int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1))
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return Header(((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1))
    if kind == b"VP8 ":
        width, height = _pair(data, 26, "<HH")
        return Header((width & 0x3FFF, height & 0x3FFF))
    return Header()
