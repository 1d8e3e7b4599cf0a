"""folder: the images of a folder, at any depth, recognised by content.

Splits: where only folders such as `train` and `test` hold images, each is a split. What lies directly in one has no
label, also where others have.

Classes: with labels "auto", if at least two sub-folders hold images and no image lies directly in the
folder, the first folder of each path is the class; where there are splits, the first one below them. Files that are no
images (notes, sidecars such as .xmp) are passed over. For the order, links and hidden entries see
`tcc_fast.datasets.walk`.
"""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tcc_fast.datasets.escape import escape_name
from tcc_fast.datasets.reader import DEFAULT_MAX_REJECTED, NOT_AN_IMAGE, Checks, Item, LabelMode, Rejected
from tcc_fast.datasets.sniff import FORMATS, is_image_file
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
    return FolderReader(src, _find_sub_folders(src, labels))


@dataclass(frozen=True)
class SubFolders:
    """What the sub-folders mean.

    Attributes:
        splits: names of those that are splits, in their order.
        classes: name of a class folder -> its label, in order of name; None: no labels.
        note: says what was found, for the user.
    """

    splits: tuple[bytes, ...]
    classes: Mapping[bytes, int] | None
    note: str

    def place(self, relative: bytes) -> tuple[str | None, int | None]:
        """Split and label of a path; None: it has none."""
        split = None
        if self.splits:
            top, _, relative = relative.partition(b"/")
            if top not in self.splits:
                return None, None
            split = _text(top)
        folder, _, inside = relative.partition(b"/")
        return split, self.classes.get(folder) if self.classes and inside else None


class FolderReader:
    """Reader of one folder; see the module, and `tcc_fast.datasets.reader.Reader` for the attributes."""

    def __init__(self, src: Path, sub_folders: SubFolders) -> None:
        self.src = src
        self.sub_folders = sub_folders
        self.about: Mapping[str, Any] = {"description": "A folder of images.", "licence": None}
        self.class_names: tuple[str, ...] | None = None
        if sub_folders.classes is not None:
            self.class_names = tuple(escape_name(_text(name)) for name in sub_folders.classes)
        self.lossless = False
        self.default_short_side = DEFAULT_SHORT_SIDE
        self.in_process = False
        self.root: Path | None = src
        self.max_rejected: int | float = DEFAULT_MAX_REJECTED
        self.mixed = True
        self.skipped: Counter[str] = Counter()
        self.notes = (sub_folders.note,)

    def __iter__(self) -> Iterator[Item]:
        """Every file that is not hidden, as an item: a path to read, or why it cannot be.

        Raises:
            ValueError: there is no file at all.
        """
        self.skipped.clear()
        empty = True
        for relative, payload in walk(self.src, self.skipped):
            empty = False
            split, label = self.sub_folders.place(relative)
            if self.sub_folders.classes is not None and label is None and split is None and isinstance(payload, Path):
                # No image was here when the classes were looked for.
                payload = Rejected("in no class folder") if is_image_file(payload) else NOT_AN_IMAGE
            yield Item(_text(relative), payload, label, split)
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


def _find_sub_folders(src: Path, labels: LabelMode) -> SubFolders:
    """Whether the sub-folders are classes, or splits with classes in them, or neither."""
    tops, loose = _folders_with_images(src, depth=1)
    are_splits = loose is None and bool(tops) and all(name.lower() in SPLIT_NAMES for name in tops)
    if labels == "folders" or not are_splits:
        inside = shlex.quote(escape_name(os.path.join(src, _text(tops[0])))) if tops else ""
        of_one = f" (if there are classes in it: --src {inside}; if it is one: --labels folders)"
        classes, note = _classes(src, labels, tops, loose, of_one)
        return SubFolders((), classes, note + _why_no_splits(src, tops, loose))
    splits = tuple(tops)
    below, loose = _folders_with_images(src, depth=2)
    names = sorted({path.partition(b"/")[2] for path in below})
    partial = len(names) > 1 and loose is not None
    classes, note = _classes(src, labels, names, None if partial else loose)
    if classes and loose is not None:
        note += f" Images that lie in no class folder, such as {escape_name(_text(loose))!r}, have none."
    return SubFolders(splits, classes, f"Splits: {', '.join(map(_text, splits))}. {note}")


def _why_no_splits(src: Path, tops: list[bytes], loose: bytes | None) -> str:
    """A sentence for folders that are named as splits are, but do not hold all images; else nothing."""
    there = [name for name in os.listdir(os.fsencode(src)) if os.path.isdir(os.path.join(os.fsencode(src), name))]
    named = [escape_name(_text(name)) for name in sorted(there) if name.lower() in SPLIT_NAMES]
    beside = [loose] if loose is not None else [name for name in tops if name.lower() not in SPLIT_NAMES]
    if not named or not beside:
        return ""
    where = "lies in no sub-folder" if loose is not None else "stands beside them"
    why = f"{escape_name(_text(beside[0]))!r} {where}"
    return f" Splits: none, since {why}: if {', '.join(named)} are splits, move it away."


def _classes(
    src: Path, labels: LabelMode, names: list[bytes], loose: bytes | None, of_one: str = ""
) -> tuple[dict[bytes, int] | None, str]:
    """Folder name -> class index in order of name, or None; and a sentence that says so, with `of_one` where there is a
    single one."""
    if labels == "none":
        return None, "Labels: none, as asked."
    if loose is not None:
        shown = escape_name(_text(loose))
        if labels == "folders":
            raise ValueError(
                f"labels 'folders' needs every image in a class folder, but {shown!r} "
                f"lies directly in {escape_name(str(src))}; move it, or use --labels none"
            )
        return None, f"Labels: none, since {shown!r} lies in no sub-folder."
    if not names:
        return None, "Labels: none, since no sub-folder holds an image."
    if labels == "auto" and len(names) == 1:
        shown = escape_name(_text(names[0]))
        return None, f"Labels: none, since only {shown!r} holds images{of_one}."
    classes = {name: label for label, name in enumerate(names)}
    few = ", ".join(escape_name(_text(name)) for name in names[:FEW])
    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return classes, f"Labels: {len(names)} classes, named by sub-folder: {few}{more}."


def _folders_with_images(src: Path, depth: int) -> tuple[list[bytes], bytes | None]:
    """The folders of this depth that hold an image, at once or further below, sorted; and the first image that lies in
    none of them."""
    found: set[bytes] = set()
    loose = None
    for relative, payload in walk(src, Counter(), done=found):
        folders = relative.split(b"/")[:-1]
        is_loose = len(folders) < depth
        if (is_loose and loose) or not isinstance(payload, Path) or not is_image_file(payload):
            continue
        if not is_loose:
            found.add(b"/".join(folders[:depth]))
            continue
        loose = relative
        if depth == 1:
            break  # the folders are no classes
    return sorted(found), loose


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
