"""The files inside a folder, a tar (compressed or not) or a zip, read by name; nothing is unpacked to disk."""

from __future__ import annotations

import os
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Protocol

from tcc_fast.datasets.encode import MAX_FILE_BYTES
from tcc_fast.datasets.escape import escape_name
from tcc_fast.datasets.reader import FilePart, Rejected
from tcc_fast.datasets.walk import walk


class CutOff(Exception):
    """An archive ends before its own structure does."""


class Members(Protocol):
    """Regular files by their path inside, such as ``cifar-10-batches-py/data_batch_1``; clutter is left out."""

    @property
    def names(self) -> list[str]:
        """Paths inside, in the order of the archive, or sorted for a folder."""
        ...

    def size(self, name: str) -> int:
        """Size of a member in bytes."""
        ...

    def open(self, name: str) -> IO[bytes]:
        """A member as a stream that holds little in memory; to be closed."""
        ...


def open_members(path: Path) -> Members:
    """Open a folder (without its sub-folders), a tar or a zip. What is opened closes itself when dropped.

    Raises:
        OSError, tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, CutOff: it cannot be read.
    """
    if path.is_dir():
        return FolderMembers(path)
    return ZipMembers(path) if zipfile.is_zipfile(path) else TarMembers(path)


def read_whole(members: Members, name: str) -> bytes:
    """The content of a member that is small in every official archive.

    Raises:
        ValueError: it is not.
    """
    if members.size(name) > MAX_FILE_BYTES:
        raise ValueError(
            f"{escape_name(name)}: has {members.size(name)} bytes, which no official file of that name has"
        )
    with members.open(name) as stream:
        return stream.read()


class FolderMembers:
    def __init__(self, path: Path, deep: bool = False) -> None:
        self.path = path
        if deep:
            found = (os.fsdecode(name) for name, payload in walk(path, Counter()) if isinstance(payload, Path))
        else:
            found = (name for name in os.listdir(path) if (path / name).is_file())
        self.names = sorted((name for name in found if not _is_clutter(name)), key=os.fsencode)

    def size(self, name: str) -> int:
        return (self.path / name).stat().st_size

    def open(self, name: str) -> IO[bytes]:
        return open(self.path / name, "rb")

    def payload(self, name: str) -> Path:
        """What an `Item` holds: the path, which a worker reads."""
        return self.path / name


class TarMembers:
    """Of a compressed tar, members are best opened in their order: going back starts it again."""

    def __init__(self, path: Path) -> None:
        self._tar = tarfile.open(path)  # noqa: SIM115 (open as long as this object is)
        self._members = {plain_name(member.name): member for member in tar_files(self._tar, keep=True)}
        self.names = [name for name in self._members if not _is_clutter(name)]

    def size(self, name: str) -> int:
        return self._members[name].size

    def open(self, name: str) -> IO[bytes]:
        stream = self._tar.extractfile(self._members[name])
        assert stream is not None, "only regular files are listed"
        return stream

    def __del__(self) -> None:
        if hasattr(self, "_tar"):
            self._tar.close()


class ZipMembers:
    def __init__(self, path: Path) -> None:
        self._zip = zipfile.ZipFile(path)
        names = (entry.filename for entry in self._zip.infolist() if not entry.is_dir())
        self.names = [name for name in names if not _is_clutter(name)]

    def size(self, name: str) -> int:
        return self._zip.getinfo(name).file_size

    def open(self, name: str) -> IO[bytes]:
        return self._zip.open(name)

    def payload(self, name: str) -> bytes | Rejected:
        """What an `Item` holds: the content, or why there is none."""
        size = self.size(name)
        if size > MAX_FILE_BYTES:
            return Rejected("file too large", f"{size} bytes, limit {MAX_FILE_BYTES}")
        try:
            return self._zip.read(name)
        except (zipfile.BadZipFile, zlib.error, EOFError):  # such as a wrong checksum
            return Rejected("damaged", "in the zip")


def tar_files(archive: tarfile.TarFile, keep: bool = False) -> Iterator[tarfile.TarInfo]:
    """Regular files of an open tar, in order; unless `keep`, members are forgotten, so that memory stays flat.

    Raises:
        CutOff: the archive ends without its end mark; Python's `tarfile` takes that for the end.
        tarfile.TarError, EOFError, zlib.error, OSError: it cannot be read.
    """
    while (member := archive.next()) is not None:
        if not keep:
            archive.members.clear()  # type: ignore[attr-defined]  # unknown to the stubs
        if member.isreg() and not member.issparse():
            yield member
    file = archive.fileobj
    assert file is not None, "open for reading"
    file.seek(archive.offset)
    mark = file.read(tarfile.BLOCKSIZE)
    if len(mark) < tarfile.BLOCKSIZE:
        raise CutOff
    if mark != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"no header at byte {archive.offset}")


def tar_parts(path: Path, start: int = 0, length: int | None = None) -> Iterator[tuple[str, FilePart]]:
    """Name and place of every regular file of an uncompressed tar, which may itself be a stretch of `path`.

    Raises:
        CutOff: the tar ends within a file, or without its end mark.
        tarfile.TarError, OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        whole = os.fstat(file.fileno()).st_size
        end = whole if length is None else start + length
        file.seek(start)
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for member in tar_files(archive):
                if member.offset_data + member.size > min(end, whole):
                    raise CutOff
                yield plain_name(member.name), FilePart(path, member.offset_data, member.size)
            if archive.offset + tarfile.BLOCKSIZE > end:
                raise CutOff


def plain_name(name: str) -> str:
    """A member's path without a leading ``./``."""
    return name.removeprefix("./")


def _is_clutter(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))
