"""What a reader of one known data set gives to conversion, and the list of readers.

A reader is one small file with a function ``open_reader(src, labels, checks)``. It yields `Item`s in a fixed order,
lazily: a source of 150 GB never sits in memory. Decoding, resizing and writing are not its business.
"""

from __future__ import annotations

import importlib
import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np

from tcc_fast.nearest import did_you_mean

LabelMode = Literal["auto", "none", "folders", "partial"]
DEFAULT_MAX_REJECTED = 0.5
"""A run fails if more than this share of the source's images had to be rejected: then the source is not
understood."""


@dataclass(frozen=True)
class Rejected:
    """Why a source file did not become an image. `reason` is one of few, to be counted; `detail` is free."""

    reason: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.reason} ({self.detail})" if self.detail else self.reason


NOT_AN_IMAGE = Rejected("not an image")
"""A file that starts as no image of any format; whether it counts as rejected depends on `Reader.mixed`."""


@dataclass(frozen=True)
class FilePart:
    """A stretch of a larger file, such as an image in a tar: `length` bytes from `offset` on."""

    path: Path
    offset: int
    length: int


@dataclass(frozen=True)
class Item:
    """One candidate image.

    Attributes:
        source: name of the original within the source ("/" separates folders; may hold surrogate escapes).
        payload: the encoded file as bytes; or pixels, uint8 (H, W) or (H, W, 3); or a path, or a part of a
            file, that a worker reads, so that slow storage is read by all of them at once; or why there is
            nothing to read.
        label: class index for evaluation, None without classes.
        split: name of the official split, whose items come one after the other; None: none.
    """

    source: str
    payload: bytes | np.ndarray[Any, np.dtype[np.uint8]] | Path | FilePart | Rejected
    label: int | None = None
    split: str | None = None


class Reader(Protocol):
    """One opened source.

    Attributes:
        about: goes into the manifest's `source`: description, licence, citation. No absolute path, no time.
        class_names: printable names in label order, or None when items carry no label.
        lossless: store every image as PNG at its own size (small, uniform sets).
        default_short_side: limit on the short side in pixels when the user names none (0: no limit).
        in_process: so small that starting worker processes costs more than it saves.
        root: the file or folder that is read; None when it comes with a package.
        max_rejected: how many images may be rejected when the user does not say: a count or a share.
        mixed: other files may lie among the images: what is `NOT_AN_IMAGE` is passed over, not rejected.
        skipped: after iteration, what was passed over in silence: reason -> count.
        notes: sentences for the user about how the source was understood.
    """

    about: Mapping[str, Any]
    class_names: tuple[str, ...] | None
    lossless: bool
    default_short_side: int
    in_process: bool
    root: Path | None
    max_rejected: int | float
    mixed: bool
    skipped: Mapping[str, int]
    notes: tuple[str, ...]

    def __iter__(self) -> Iterator[Item]:
        """Items in a fixed order."""
        ...

    def total(self) -> int | None:
        """How many items will come, for the progress bar; None when unknown. May walk the source."""
        ...


@dataclass
class ArrayReader:
    """A reader of pixels that are in memory already: `images` is uint8 (N, H, W) or (N, H, W, 3), `labels`
    (N,)."""

    name: str
    images: np.ndarray[Any, np.dtype[np.uint8]]
    labels: np.ndarray[Any, np.dtype[np.int64]]
    class_names: tuple[str, ...] | None
    about: Mapping[str, Any]
    lossless: bool = True
    default_short_side: int = 0
    in_process: bool = True
    root: Path | None = None
    max_rejected: int | float = DEFAULT_MAX_REJECTED
    mixed: bool = False
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.skipped: Mapping[str, int] = {}

    def __iter__(self) -> Iterator[Item]:
        for index, (image, label) in enumerate(zip(self.images, self.labels, strict=True)):
            yield Item(f"{self.name}/{index:05d}", image, int(label))

    def total(self) -> int | None:
        """Number of images."""
        return len(self.images)


@dataclass(frozen=True)
class Checks:
    """How strictly a data set of the paper is checked.

    Attributes:
        allow_incomplete: convert what is there, and record what is missing; for glyphs: however few fonts there are.
        md5: read even a very large archive whole to compare its MD5.
        progress: show how far that is, on stderr.
    """

    allow_incomplete: bool = False
    md5: bool = False
    progress: bool = False


READERS: dict[str, str] = {
    "digits": "tcc_fast.datasets.digits",
    "mnist5k": "tcc_fast.datasets.mnist5k",
    "glyphs": "tcc_fast.datasets.glyphs",
    "folder": "tcc_fast.datasets.folder",
    "cifar10": "tcc_fast.datasets.cifar10",
    "cifar100-20": "tcc_fast.datasets.cifar100_20",
    "stl10": "tcc_fast.datasets.stl10",
    "imagenet10": "tcc_fast.datasets.imagenet10",
    "imagenet-dogs": "tcc_fast.datasets.imagenet_dogs",
    "tiny-imagenet": "tcc_fast.datasets.tiny_imagenet",
}
"""Name on the command line -> module that holds its ``open_reader``; imported when asked for."""

PAPER_SETS = ("cifar10", "cifar100-20", "stl10", "imagenet10", "imagenet-dogs", "tiny-imagenet")
"""The data sets of the paper, whose archives are known and checked."""
PACKAGED = ("digits", "mnist5k")
"""Sets that come with an installed package."""


def open_reader(name: str, src: Path | None, labels: LabelMode, checks: Checks | None = None) -> Reader:
    """Open the reader called `name`.

    Raises:
        ValueError: no such reader, or the reader cannot use `src`, `labels` or `checks`.
    """
    if name not in READERS:
        hint = did_you_mean(name, READERS)
        if os.path.isdir(name):
            hint = f"; it is a folder: for the images in it, write `tcc-fast convert folder --src {shlex.quote(name)}`"
        raise ValueError(f"unknown data set {name!r}{hint} (known: {', '.join(READERS)})")
    if labels not in get_args(LabelMode):
        raise ValueError(f"labels is {labels!r}, but can be auto, none, folders or partial")
    if labels == "folders" and name != "folder":
        raise ValueError(f"labels 'folders' is for the folder reader; {name} has labels of its own")
    if labels == "partial" and name != "stl10":
        raise ValueError(f"labels 'partial' is for stl10, which has unlabelled images; leave it out for {name}")
    checks = checks or Checks()
    if (checks.md5 and name not in PAPER_SETS) or (checks.allow_incomplete and name not in (*PAPER_SETS, "glyphs")):
        raise ValueError(
            f"--allow-incomplete and --md5 are for the paper's data sets ({', '.join(PAPER_SETS)}), "
            "the former for glyphs too"
        )
    if name in PACKAGED and src is not None:
        raise ValueError(f"{name} comes with an installed package and takes no source; leave --src out")
    reader: Reader = importlib.import_module(READERS[name]).open_reader(src, labels, checks)
    return reader
