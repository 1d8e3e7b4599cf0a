"""The user's own pictures: not written over, and nothing is put among them that the next `convert` would find there."""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path

from tcc_fast.datasets.sniff import is_image_file

LOOKED_AT = 1000
"""Files of a folder that are looked at, and of all its sub-folders together."""


def is_picture(file: Path) -> bool:
    """Whether a file holds an image that `convert` would take, by its first bytes."""
    return os.path.isfile(file) and is_image_file(file)  # a pipe is not waited for


def refuse_picture(file: Path) -> None:
    """Raise `ValueError` if what is to be written to would replace an image."""
    if is_picture(file):
        raise ValueError(f"{file}: is a picture, and would be written over; name another file")


def refuse_pictures(option: str, folder: Path, but: str = "(?!)") -> None:
    """Raise `ValueError` if a folder for results holds images already, at once or in a sub-folder (of classes, say),
    ``but`` those whose names match all of it."""
    if not folder.is_dir():
        return
    entries = list(itertools.islice(folder.iterdir(), LOOKED_AT))
    sub_folders = (entry for entry in entries if entry.is_dir() and os.access(entry, os.R_OK | os.X_OK))
    inside = itertools.chain.from_iterable(sub_folder.iterdir() for sub_folder in sub_folders)
    for file in itertools.chain(entries, itertools.islice(inside, LOOKED_AT)):
        if not re.fullmatch(but, file.name) and is_picture(file):
            name = str(file.relative_to(folder))
            raise ValueError(f"{option} {folder}: holds other pictures ({name!r}); name another folder")
