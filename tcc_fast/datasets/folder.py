"""folder: the images of a folder, at any depth, recognised by content.

Classes: with labels "auto", if at least two sub-folders hold images and no image lies directly in the
folder, the first folder of each path is the class. Files that are no images (notes, sidecars such as .xmp) are
passed over. For the order, links and hidden entries see `tcc_fast.datasets.walk`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tcc_fast.datasets.names import escape_name
from tcc_fast.datasets.reader import DEFAULT_MAX_REJECTED, NOT_AN_IMAGE, Checks, Item, LabelMode, Rejected
from tcc_fast.datasets.sniff import FORMATS, HEAD_BYTES, is_image
from tcc_fast.datasets.walk import list_folder, walk

DEFAULT_SHORT_SIDE = 112
"""1.15 times a crop of 96 pixels, rounded up to a multiple of 16."""


SPLIT_NAMES = (b"train", b"training", b"test", b"testing", b"val", b"valid", b"validation")
FEW = 5
"""Classes that are named when they are found."""


def open_reader(src: Path | None, labels: LabelMode, checks: Checks) -> FolderReader:
    """Open a folder of images.

    Raises:
        ValueError: `src` is missing or no folder, or `labels` is "folders" and an image lies in none.
    """
    if src is None:
        raise ValueError("folder needs to know where the images are; name them with --src FOLDER")
    shown = escape_name(str(src))
    if not os.path.lexists(src):
        raise ValueError(f"{shown}: no such folder; --src must name the folder that holds the images")
    if not os.path.isdir(src):
        raise ValueError(f"{shown}: is not a folder, but --src must name a folder of images")
    try:
        list_folder(src)
    except OSError as error:
        raise ValueError(f"{shown}: cannot be read ({error.strerror}); check its permissions") from None
    classes, note = _find_classes(src, labels)
    return FolderReader(src, classes, note)


class FolderReader:
    """Reader of one folder; see the module, and `tcc_fast.datasets.reader.Reader` for the attributes."""

    def __init__(self, src: Path, classes: Mapping[bytes, int] | None, note: str) -> None:
        self.src = src
        self.classes = classes
        self.about: Mapping[str, Any] = {"description": "A folder of images.", "licence": None}
        self.class_names: tuple[str, ...] | None = None
        if classes is not None:
            self.class_names = tuple(escape_name(_text(name)) for name in classes)
        self.lossless = False
        self.default_short_side = DEFAULT_SHORT_SIDE
        self.in_process = False
        self.root: Path | None = src
        self.max_rejected: int | float = DEFAULT_MAX_REJECTED
        self.mixed = True
        self.skipped: Counter[str] = Counter()
        self.notes = (note,)

    def __iter__(self) -> Iterator[Item]:
        """Every file that is not hidden, as an item: a path to read, or why it cannot be.

        Raises:
            ValueError: there is no file at all.
        """
        self.skipped.clear()
        empty = True
        for relative, payload in walk(self.src, self.skipped):
            empty = False
            label = None
            if self.classes is not None:
                label = self.classes.get(relative.partition(b"/")[0])
                if label is None and isinstance(payload, Path):
                    # No image was here when the classes were looked for.
                    payload = Rejected("in no class folder") if _starts_as_image(payload) else NOT_AN_IMAGE
            yield Item(_text(relative), payload, label)
        if empty:
            hidden = self.skipped["hidden"]
            more = f" ({hidden} hidden entries were skipped)" if hidden else ""
            raise ValueError(
                f"{escape_name(str(self.src))}: no image found here or in any sub-folder{more}; "
                f"--src must name a folder with {', '.join(FORMATS)} files"
            )

    def total(self) -> int | None:
        """Number of items: walks the folder."""
        return sum(1 for _ in walk(self.src, Counter()))


def _find_classes(src: Path, labels: LabelMode) -> tuple[dict[bytes, int] | None, str]:
    """Folder name -> class index in order of name, or None; and a sentence that says so."""
    if labels == "none":
        return None, "Labels: none, as asked."
    found: set[bytes] = set()
    for relative, payload in walk(src, Counter(), done=found):
        if not isinstance(payload, Path) or not _starts_as_image(payload):
            continue
        top, _, inside = relative.partition(b"/")
        if inside:
            found.add(top)
            continue
        if labels == "folders":
            raise ValueError(
                f"labels 'folders' needs every image in a class folder, but {escape_name(_text(top))!r} "
                f"lies directly in {escape_name(str(src))}; move it, or use --labels none"
            )
        return None, f"Labels: none, since {escape_name(_text(top))!r} lies in no sub-folder."
    names = sorted(found)
    if not names:
        return None, "Labels: none, since no sub-folder holds an image."
    if labels == "auto" and len(names) == 1:
        shown = escape_name(_text(names[0]))
        return None, f"Labels: none, since only {shown!r} holds images (--labels folders overrides)."
    if labels == "auto" and all(name.lower() in SPLIT_NAMES for name in names):
        shown = escape_name(str(src / _text(names[0])))
        return None, f"Labels: none, since the sub-folders look like splits (--src {shown} takes one of them alone)."
    classes = {name: label for label, name in enumerate(names)}
    few = ", ".join(escape_name(_text(name)) for name in names[:FEW])
    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return classes, f"Labels: {len(names)} classes, named by sub-folder: {few}{more}."


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _starts_as_image(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return is_image(file.read(HEAD_BYTES))
    except OSError:
        return False
