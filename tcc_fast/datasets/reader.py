"""What a reader of one known data set gives to conversion, and the list of readers.

A reader is one small file with a function ``open_reader(src, labels)``. It yields `Item`s in a fixed order,
lazily: a source of 150 GB never sits in memory. Decoding, resizing and writing are not its business.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

LabelMode = Literal["auto", "none", "folders"]


@dataclass(frozen=True)
class Rejected:
    """Why a source file did not become an image. `reason` is one of few, to be counted; `detail` is free."""

    reason: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.reason} ({self.detail})" if self.detail else self.reason


@dataclass(frozen=True)
class Item:
    """One candidate picture.

    Attributes:
        source: name of the original within the source ("/" separates folders; may hold surrogate escapes).
        payload: the encoded file as bytes; or pixels, uint8 (H, W) or (H, W, 3); or a path that a worker
            reads, so that slow storage is read by all of them at once; or why there is nothing to read.
        label: class index for evaluation, None without classes.
    """

    source: str
    payload: bytes | np.ndarray[Any, np.dtype[np.uint8]] | Path | Rejected
    label: int | None = None


class Reader(Protocol):
    """One opened source.

    Attributes:
        about: goes into the manifest's `source`: description, licence, citation. No absolute path, no time.
        class_names: printable names in label order, or None when items carry no label.
        lossless: store every picture as PNG at its own size (small, uniform sets).
        default_short_side: limit on the short side in pixels when the user names none (0: no limit).
        in_process: so small that starting worker processes costs more than it saves.
        skipped: after iteration, what was passed over in silence: reason -> count.
        notes: sentences for the user about how the source was understood.
    """

    about: Mapping[str, Any]
    class_names: tuple[str, ...] | None
    lossless: bool
    default_short_side: int
    in_process: bool
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
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.skipped: Mapping[str, int] = {}

    def __iter__(self) -> Iterator[Item]:
        for index, (image, label) in enumerate(zip(self.images, self.labels, strict=True)):
            yield Item(f"{self.name}/{index:05d}", image, int(label))

    def total(self) -> int | None:
        """Number of images."""
        return len(self.images)


READERS: dict[str, str] = {
    "digits": "tcc_fast.datasets.digits",
    "mnist5k": "tcc_fast.datasets.mnist5k",
    "folder": "tcc_fast.datasets.folder",
}
"""Name on the command line -> module that holds its ``open_reader(src, labels)``; imported when asked for."""


def open_reader(name: str, src: Path | None, labels: LabelMode) -> Reader:
    """Open the reader called `name`.

    Raises:
        ValueError: no such reader, or the reader cannot use `src` or `labels`.
    """
    if name not in READERS:
        near = difflib.get_close_matches(name, READERS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown data set {name!r}{hint} (known: {', '.join(READERS)})")
    if labels not in ("auto", "none", "folders"):
        raise ValueError(f"labels is {labels!r}, but can be auto, none or folders")
    if name != "folder":
        if src is not None:
            raise ValueError(f"{name} comes with an installed package and takes no source; leave --src out")
        if labels == "folders":
            raise ValueError(f"labels 'folders' is for the folder reader; {name} has labels of its own")
    reader: Reader = importlib.import_module(READERS[name]).open_reader(src, labels)
    return reader
