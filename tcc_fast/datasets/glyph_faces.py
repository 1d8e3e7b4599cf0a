"""The faces of the font files below some folders that can draw the ten letters, in an order free of where they lie."""

from __future__ import annotations

import hashlib
import re
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import ImageFont

from tcc_fast.datasets.glyph_letters import Images, draw_letters, open_face
from tcc_fast.datasets.walk import walk

SUFFIXES = (".otc", ".otf", ".pfb", ".ttc", ".ttf")

SIGNS = re.compile(r"\b(barcode|code ?(39|128)|dingbats?|dings?|head-ding|webdings|wingdings|awesome|icons?)\b", re.I)
"""What families of signs, not letters, have in their names."""

NO_LETTERS = frozenset(
    (
        # Ornaments, and patterns that only make letters in layers with other faces.
        "90 Stars BRK",
        "Binary 01s BRK",
        "Binary X 01s BRK",
        "Bit Blocks TTF BRK",
        "D050000L",
        "Entangled Layer B BRK",
        "Faux Snow BRK",
        "Symmetry BRK",
        # Letters folded around a cube, which nobody can tell apart at this size.
        "Qbicle 1 BRK",
        "Qbicle 2 BRK",
        "Qbicle 3 BRK",
        "Qbicle 4 BRK",
        # Greek letters and runes in the places of Latin ones.
        "Alfa-beta",
        "Ellhnikh",
        "FutharkAdapted",
        "Standard Symbols PS",
        "Symbol",
    )
)
"""Families that draw something else where A to J should be, found by eye in the packages of ours."""


@dataclass(frozen=True)
class Face:
    """One face of a font file, such as the bold one.

    Attributes:
        family, style: as the file names them; what is not ASCII shows as "?".
        version: "1.50" of the file's head table; empty for Type 1 fonts.
        sha256: of the file, in hex.
        index: number of the face in its file, 0 for all but collections.
        images: of the ten letters, uint8 (10, 32, 32).
    """

    family: str
    style: str
    version: str
    sha256: str
    index: int
    images: Images = field(repr=False, compare=False)

    @property
    def source(self) -> str:
        """Name of the face in the list of images: unique, since two versions of a font may have all names in
        common."""
        number = f"-{self.index}" if self.index else ""
        names = (name.replace("/", "-") for name in (self.family, self.style))
        return "/".join((*names, self.sha256[:12] + number))

    @property
    def record(self) -> str:
        """The face in one line: hash, number, names, version."""
        return f"{self.sha256} {self.index} {self.family} | {self.style} | {self.version}"


def find_faces(folders: Sequence[Path], skipped: Counter[str], advance: Callable[[int], None]) -> list[Face]:
    """Every usable face, each drawn once, by family, style and hash. `skipped` counts the others by reason,
    `advance` is told the number of files read."""
    faces: list[Face] = []
    seen: set[str] = set()
    for number, path in enumerate(_font_files(folders, skipped), 1):
        try:
            data = path.read_bytes()
        except OSError:
            skipped["unreadable"] += 1
            continue
        sha256 = hashlib.sha256(data).hexdigest()
        if sha256 in seen:
            skipped["file that is there twice"] += 1
            continue
        seen.add(sha256)
        faces += _faces_of(data, sha256, skipped)
        advance(number)
    faces.sort(key=lambda face: (face.family.casefold(), face.family, face.style, face.sha256, face.index))
    return list(_without_copies(faces, skipped))


def _font_files(folders: Sequence[Path], skipped: Counter[str]) -> Iterator[Path]:
    passed: Counter[str] = Counter()  # hidden entries and the like say nothing about fonts
    for folder in folders:
        for name, path in walk(folder, passed):
            if not name.lower().endswith(tuple(suffix.encode() for suffix in SUFFIXES)):
                continue
            if isinstance(path, Path):
                yield path
            else:
                skipped[path.reason] += 1


def _faces_of(data: bytes, sha256: str, skipped: Counter[str]) -> Iterator[Face]:
    count = struct.unpack_from(">L", data, 8)[0] if data[:4] == b"ttcf" and len(data) >= 12 else 1
    for index in range(min(count, 256)):
        font = open_face(data, index)
        if font is None:
            skipped["face without outlines or Unicode"] += 1
            continue
        family, style = _names(font)
        if family in NO_LETTERS or SIGNS.search(family):
            skipped["face of signs"] += 1
            continue
        images = draw_letters(font)
        if isinstance(images, str):
            skipped[f"face {images}"] += 1
            continue
        yield Face(family, style, _version(data, index), sha256, index, images)


def _names(font: ImageFont.FreeTypeFont) -> tuple[str, str]:
    family, style = font.getname()
    return family or "", style or ""


def _version(data: bytes, index: int) -> str:
    """The revision in the head table of a TrueType or OpenType face, with two decimals."""
    try:
        start = struct.unpack_from(">L", data, 12 + 4 * index)[0] if data[:4] == b"ttcf" else 0
        if data[start : start + 4] not in (b"\0\1\0\0", b"OTTO", b"true"):
            return ""
        for row in range(struct.unpack_from(">H", data, start + 4)[0]):
            tag, _, offset, _ = struct.unpack_from(">4sLLL", data, start + 12 + 16 * row)
            if tag == b"head":
                return f"{struct.unpack_from('>l', data, offset + 4)[0] / 65536:.2f}"
    except struct.error:
        pass  # FreeType reads more damaged files than we do
    return ""


def _without_copies(faces: Sequence[Face], skipped: Counter[str]) -> Iterator[Face]:
    """The faces without those that look in every pixel like an earlier one: aliases, and fonts packaged twice."""
    seen: set[bytes] = set()
    for face in faces:
        look = face.images.tobytes()
        if look in seen:
            skipped["face that looks like another"] += 1
            continue
        seen.add(look)
        yield face
