"""Where a data set folder is put together, and how it gets to its place: all of it, or nothing.

The work happens in a hidden folder beside the destination, locked as long as its process lives, and renamed
at the end. What a dead process left behind is removed by the next conversion to the same destination.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import shutil
from pathlib import Path

from tcc_fast.datasets.manifest import MANIFEST_FILE
from tcc_fast.on_disk import sync_to_disk

_OWN_FILE = re.compile(r"(dataset\.json|(images|labels|rejected|files)\.csv|shard-\d{5,}\.(tar|idx)|images\.beton)")


class StagingFolder:
    """A hidden working folder for one destination.

    Attributes:
        out: the destination, symbolic links resolved.
        folder: where to write; exists until `replace` or `leave`.

    Raises:
        ValueError: `out` is in the way, or another conversion is writing to it.
    """

    def __init__(self, out: Path, overwrite: bool) -> None:
        self.out = Path(os.path.realpath(out))
        self.out.parent.mkdir(parents=True, exist_ok=True)
        _sweep(self.out)
        check_destination(self.out, overwrite)
        tag = f"{os.getpid()}-{secrets.token_hex(4)}"
        self.folder = self.out.parent / f".{self.out.name}.tcc-partial-{tag}"
        self._old = self.out.parent / f".{self.out.name}.tcc-old-{tag}"
        self.folder.mkdir()
        self._lock = _lock(self.folder)

    def replace(self, overwrite: bool) -> None:
        """Move the finished folder to the destination; what was there is removed afterwards.

        Raises:
            ValueError: the destination has become occupied meanwhile.
        """
        check_destination(self.out, overwrite)
        occupied = self.out.exists()
        if occupied:
            os.rename(self.out, self._old)
        try:
            os.rename(self.folder, self.out)
        except BaseException:
            if occupied:
                os.rename(self._old, self.out)
            raise
        sync_to_disk(self.out.parent)
        shutil.rmtree(self._old, ignore_errors=True)

    def leave(self) -> None:
        """Remove the working folder unless it has become the destination, and give up the lock."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def check_destination(out: Path, overwrite: bool) -> None:
    """Whether a data set may be put at `out`: nothing there, an empty folder, or a data set with `overwrite`.

    Raises:
        ValueError: something is in the way; says what.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise ValueError(f"{out}: is a file; choose another place for the data set")
    entries = sorted(os.listdir(out))
    if not entries:
        return
    if not overwrite:
        raise ValueError(f"{out}: exists already; choose another place, or replace it with --overwrite")
    try:
        content = json.loads((out / MANIFEST_FILE).read_bytes())
        own = set(content["files"])
        known = "format_version" in content
    except (OSError, ValueError, KeyError, TypeError):
        own, known = set(), False
    if not known:
        raise ValueError(f"{out}: is not a tcc-fast data set, so it is not overwritten; move or delete it yourself")
    strangers = [entry for entry in entries if entry not in own and not _OWN_FILE.fullmatch(entry)]
    if strangers:
        raise ValueError(
            f"{out}: holds {strangers[0]!r}, which is no part of a data set, so it is not overwritten; "
            "move that away or delete the folder yourself"
        )


def _lock(folder: Path) -> int | None:
    """Hold a lock on a folder until closed or until this process dies; None if the file system has no
    locks."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise
    except OSError:
        os.close(handle)
        return None
    return handle


def _sweep(out: Path) -> None:
    """Remove what dead conversions to the same place left behind; put back an old data set that one had set
    aside."""
    for entry in sorted(os.listdir(out.parent)):
        path = out.parent / entry
        if entry.startswith(f".{out.name}.tcc-old-"):
            if out.exists():
                shutil.rmtree(path, ignore_errors=True)
            else:
                os.rename(path, out)
        elif entry.startswith(f".{out.name}.tcc-partial-"):
            try:
                lock = _lock(path)
            except BlockingIOError:
                raise ValueError(f"{out}: another conversion is writing here; wait for it to end") from None
            except OSError:
                continue  # gone meanwhile
            if lock is not None:
                shutil.rmtree(path, ignore_errors=True)
                os.close(lock)
