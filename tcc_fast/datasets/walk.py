"""Every file below a folder, in one fixed order, whatever the names, links and permissions.

Hidden entries are skipped. Symbolic links are followed, but no folder is visited twice: a link to a folder
inside the source is left alone, since that folder is visited under its own name, and a folder outside is
visited under the first link that leads to it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

from tcc_fast.datasets.reader import Rejected

_CLUTTER = {b"__MACOSX", b"Thumbs.db", b"ehthumbs.db", b"desktop.ini", b"$RECYCLE.BIN"}
UNREADABLE_FOLDER = "unreadable folder"
"""Why an entry is rejected of which nobody knows how many images it holds."""
_BROKEN = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


def walk(root: Path, skipped: Counter[str], done: Collection[bytes] = ()) -> Iterator[tuple[bytes, Path | Rejected]]:
    """(path relative to `root`, path to read or why it cannot be) of every entry that is neither hidden nor a
    folder.

    Order: folder by folder, by the bytes of the names. `skipped` counts what is passed over in silence. `done` may
    grow meanwhile: what is left of a folder named in it, one or two levels below `root`, is not visited.
    """
    visited: set[tuple[int, int]] = set()
    real_root = os.path.realpath(os.fsencode(root))
    # An explicit stack: a tree may be deeper than Python's recursion limit.
    stack: list[tuple[bytes, Iterator[bytes]]] = []

    def enter(relative: bytes, path: Path, status: os.stat_result) -> Rejected | None:
        identity = (status.st_dev, status.st_ino)
        if identity in visited:
            skipped["folder reached twice"] += 1
            return None
        visited.add(identity)
        try:
            names = list_folder(path)
        except OSError as error:
            return Rejected(UNREADABLE_FOLDER, error.strerror or "")
        stack.append((relative + b"/" if relative else b"", iter(names)))
        return None

    refused = enter(b"", root, os.stat(root))
    if refused is not None:
        yield b"", refused
    while stack:
        prefix, names = stack[-1]
        name = None if done and _is_within(prefix, done) else next(names, None)
        if name is None:
            stack.pop()
            continue
        if _is_hidden(name):
            skipped["hidden"] += 1
            continue
        relative = prefix + name
        path = root / os.fsdecode(relative)
        try:
            status = os.stat(path)
        except OSError as error:
            broken = os.path.islink(path) and error.errno in _BROKEN
            yield (
                relative,
                Rejected("broken link") if broken else Rejected("unreadable", error.strerror or ""),
            )
            continue
        if stat.S_ISREG(status.st_mode):
            yield relative, path
        elif not stat.S_ISDIR(status.st_mode):
            yield relative, Rejected("not a regular file")  # a pipe or a device could block for ever
        elif os.path.islink(path) and _is_visible_inside(os.path.realpath(os.fsencode(path)), real_root):
            skipped["link to a folder of the source"] += 1
        else:
            refused = enter(relative, path, status)
            if refused is not None:
                yield relative, refused


def list_folder(folder: Path) -> list[bytes]:
    """Names in a folder, sorted by their bytes: the same order in every locale."""
    return sorted(os.listdir(os.fsencode(folder)))


def _is_within(prefix: bytes, folders: Collection[bytes]) -> bool:
    above = prefix.split(b"/")[:-1]
    return any(b"/".join(above[:depth]) in folders for depth in (1, 2))


def _is_visible_inside(target: bytes, root: bytes) -> bool:
    if target == root:
        return True
    inside = target.startswith(root.rstrip(b"/") + b"/")
    return inside and not any(_is_hidden(part) for part in target[len(root) :].split(b"/") if part)


def _is_hidden(name: bytes) -> bool:
    return name.startswith(b".") or name in _CLUTTER
