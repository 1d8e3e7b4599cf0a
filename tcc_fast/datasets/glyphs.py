"""glyphs: the letters A to J in the fonts of this machine, 32x32 pixels, grey. Nothing is downloaded.

Modelled after notMNIST: one class a letter, white on black. The fonts are those of Debian packages
(`tcc_fast.datasets.glyph_packages`), or of any folder.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.features

from tcc_fast.datasets.escape import escape_name
from tcc_fast.datasets.glyph_faces import SUFFIXES, Face, find_faces
from tcc_fast.datasets.glyph_letters import LETTERS, SIDE
from tcc_fast.datasets.glyph_packages import INSTALL
from tcc_fast.datasets.progress import show_progress
from tcc_fast.datasets.reader import DEFAULT_MAX_REJECTED, Checks, Item, LabelMode

FOLDERS = ("/usr/share/fonts", "/usr/share/texmf/fonts")
"""Where packages put fonts. Those that a user has added are left out, so that the set is the same elsewhere."""

PER_FAMILY = 4
"""Faces taken of one family: some have forty weights and widths, each nearly a copy of the next."""

FEWEST = 5000
"""Images below which the set is refused."""


def open_reader(src: Path | None, labels: LabelMode, checks: Checks) -> GlyphsReader:
    """Ten images of each chosen face; labels 0 to 9 for A to J.

    Raises:
        ValueError: `src` is no folder; or there are fewer than `FEWEST` images, and `checks.allow_incomplete` is
            not set.
    """
    if src is not None and not os.path.isdir(src):
        raise ValueError(f"{escape_name(str(src))}: no such folder; --src must name a folder of {', '.join(SUFFIXES)}")
    folders = [Path(name) for name in FOLDERS if os.path.isdir(name)] if src is None else [src]
    skipped: Counter[str] = Counter()
    with show_progress("glyphs, fonts", lambda: None, checks.progress, "fonts") as advance:
        faces = choose_faces(find_faces(folders, skipped, advance), skipped)
    count = len(faces) * len(LETTERS)
    if count == 0 or (count < FEWEST and not checks.allow_incomplete):
        where = " and ".join(FOLDERS) if src is None else escape_name(str(src))
        raise ValueError(
            f"glyphs needs {FEWEST:,} images, but the {len(faces)} usable font faces in {where} make {count:,}; "
            f"install more fonts ({INSTALL}), or take what is there with --allow-incomplete"
        )
    return GlyphsReader(src, faces, skipped)


def choose_faces(faces: Sequence[Face], skipped: Counter[str]) -> list[Face]:
    """At most `PER_FAMILY` faces of each family of `faces`, which must be sorted by family: the most typical one,
    then again and again the one that is least like those taken. Order is kept; `skipped` counts the others."""
    chosen: list[Face] = []
    for _, members in itertools.groupby(faces, lambda face: face.family):
        family = list(members)
        taken = _choose(np.stack([face.images for face in family]).reshape(len(family), -1).astype(np.int64))
        chosen += [face for index, face in enumerate(family) if index in taken]
        skipped[f"face beyond {PER_FAMILY} of its family"] += len(family) - len(taken)
    return chosen


def _choose(pixels: np.ndarray[Any, np.dtype[np.int64]]) -> set[int]:
    """Chosen rows of `pixels` (faces, values); whole numbers, so that no rounding decides."""
    count = len(pixels)
    to_mean = ((count * pixels - pixels.sum(0)) ** 2).sum(1)
    taken = [int(to_mean.argmin())]
    apart = ((pixels - pixels[taken[0]]) ** 2).sum(1)  # to the nearest one taken
    while len(taken) < min(count, PER_FAMILY):
        taken.append(int(apart.argmax()))  # never one taken: no two faces are equal, so others are apart
        apart = np.minimum(apart, ((pixels - pixels[taken[-1]]) ** 2).sum(1))
    return set(taken)


class GlyphsReader:
    """Reader of drawn letters, face after face; see `tcc_fast.datasets.reader.Reader` for the attributes."""

    def __init__(self, src: Path | None, faces: Sequence[Face], skipped: Counter[str]) -> None:
        records = [escape_name(face.record) for face in faces]
        set_hash = hashlib.sha256("\n".join(records).encode()).hexdigest()
        families = len({face.family for face in faces})
        self.faces = faces
        self.about: Mapping[str, Any] = {
            "description": f"The letters {LETTERS[0]} to {LETTERS[-1]} drawn by FreeType in {len(faces)} font faces of "
            f"{families} families, at most {PER_FAMILY} of each; {SIDE}x{SIDE} pixels, white on black.",
            "licence": "that of each font; see its package",
            "freetype": PIL.features.version_module("freetype2"),
            "fonts_sha256": set_hash,
            # sha256 of the file, number of the face, family, style, version
            "fonts": records,
        }
        self.class_names: tuple[str, ...] | None = tuple(LETTERS)
        self.lossless = True
        self.default_short_side = 0
        self.in_process = True
        self.root: Path | None = src
        self.max_rejected: int | float = DEFAULT_MAX_REJECTED
        self.mixed = False
        self.skipped: Mapping[str, int] = {reason: count for reason, count in skipped.items() if count}
        self.notes: tuple[str, ...] = (
            f"Fonts: {len(faces)} faces of {families} families, at most {PER_FAMILY} of each; set {set_hash[:16]}, "
            "the same wherever the same fonts are.",
        )
        if self.total() < FEWEST:
            self.notes += (f"These are fewer than {FEWEST:,} images; more fonts: {INSTALL}",)

    def __iter__(self) -> Iterator[Item]:
        """The ten letters of the first face, of the second, and so on."""
        for face in self.faces:
            for label, letter in enumerate(LETTERS):
                yield Item(f"{face.source}/{letter}", face.images[label], label)

    def total(self) -> int:
        """Number of images."""
        return len(self.faces) * len(LETTERS)
