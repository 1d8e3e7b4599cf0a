"""Reads a packed data set folder: images by index, and, apart from them, labels for evaluation."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import JpegImagePlugin, PngImagePlugin

from tcc_fast.datasets.escape import escape_name, unescape_name
from tcc_fast.datasets.manifest import (
    FILES_FILE,
    IMAGES_FILE,
    LABELS_FILE,
    UNLABELLED,
    Manifest,
    read_manifest,
)
from tcc_fast.on_disk import sha256_of

AUTO_VERIFY_BYTES = 2 << 30
_MAX_OPEN_SHARDS = 256
Verify = bool | Literal["auto"]


class Dataset:
    """One packed data set, opened with `open_dataset`.

    Picklable, and safe in threads, forked and spawned processes: files are opened when first read, by each process for
    itself, and read by position.

    Attributes:
        path: the folder.
        manifest: what `dataset.json` says.
        fingerprint: sha256 (hex) of `dataset.json`; two sets with the same one hold the same bytes.
    """

    def __init__(self, path: Path, manifest: Manifest, fingerprint: str) -> None:
        self.path = path
        self.manifest = manifest
        self.fingerprint = fingerprint
        self._shards = manifest.shards
        self._handles: dict[int, int] = {}
        self._sources: list[str] | None = None
        self._root = manifest.in_place
        self._shard_of, self._offsets, self._lengths, self._is_png = self._scan()

    def __len__(self) -> int:
        return self.manifest.num_images

    @property
    def title(self) -> str:
        """What the set is called on screen: own images as their folder, since their manifests all say `folder`."""
        name = self.manifest.name
        return escape_name(self.path.resolve().name) if name == "folder" else name

    def __repr__(self) -> str:
        return f"Dataset({self.manifest.name!r}, {len(self)} images, {str(self.path)!r})"

    def read(self, index: int) -> bytes:
        """The encoded bytes (PNG or JPEG) of one image.

        Raises:
            IndexError: no such index. Negative ones are not counted from the end.
            ValueError: the shard is shorter than it was when opened, or the disk fails; an image that stayed where it
                was has changed.
        """
        index = self._check(index)
        if self._root is not None:
            return self._read_in_place(index)
        try:
            data = self._pread(int(self._shard_of[index]), int(self._offsets[index]), int(self._lengths[index]))
        except OSError as error:  # a disk that fails
            raise ValueError(f"{self._where(index)}: cannot be read ({error.strerror})") from None
        if len(data) != self._lengths[index]:
            raise ValueError(f"{self._where(index)}: the shard ends within the image; convert the data set again")
        return data

    def decode(self, index: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """One image as RGB pixels, uint8 (H, W, 3), writable.

        Raises:
            IndexError: no such index.
            ValueError: it cannot be decoded; names index, shard and source.
        """
        data = self.read(index)
        opener = PngImagePlugin.PngImageFile if self._is_png[index] else JpegImagePlugin.JpegImageFile
        try:
            # Not Image.open: its size limit is global to the process, and conversion has applied ours.
            return np.array(opener(io.BytesIO(data)).convert("RGB"))
        except Exception as error:
            raise ValueError(f"{self._where(index)}: cannot be decoded ({type(error).__name__})") from error

    def sizes(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """(N, 2) int64: height and width in pixels of every stored image. Reads them anew at each call."""
        return np.array([(int(row[2]), int(row[1])) for row in self._rows_of_images()], dtype=np.int64)

    def lengths(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """(N,) int64: bytes of every encoded image, as `read` gives it."""
        return self._lengths.copy()

    def is_png(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """(N,) bool: whether an image is a PNG; if not, it is a JPEG."""
        return self._is_png.copy()

    def split(self, name: str) -> range:
        """Indices of the images of a split.

        Raises:
            ValueError: there is none of this name; lists those that are there.
        """
        splits = self.manifest.splits
        if name not in splits:
            raise ValueError(f"{self.path} has no split {name!r}: it has {', '.join(splits)}")
        return range(*splits[name])

    def sources(self) -> list[str]:
        """Printable name of every image's original within the source (`escape.unescape_name` gives the raw one)."""
        return list(self._names())

    def labels(self) -> np.ndarray[Any, np.dtype[np.int64]] | None:
        """FOR EVALUATION ONLY: (N,) int64 class indices, `UNLABELLED` where an image has none, or None when the
        data set has none.

        Nothing else opens `labels.csv`, verification at opening included: its sha256 is checked here.

        Raises:
            ValueError: the file is damaged.
        """
        if not self.manifest.has_labels:
            return None
        _check_sha256(self.path, self.manifest, LABELS_FILE)
        path = self.path / LABELS_FILE
        rows = _rows(path, ("index", "label"), len(self))
        try:
            labels = np.array([int(row[1]) for row in rows], dtype=np.int64)
        except ValueError as error:
            raise ValueError(f"{path}: a label is not a whole number ({error})") from None
        names = self.manifest.class_names
        if labels.min() < UNLABELLED or (names is not None and labels.max() >= len(names)):
            raise ValueError(f"{path}: a label is outside the {len(names or ())} classes; convert the data set again")
        return labels

    def close(self) -> None:
        """Close the files that this process has opened; reading opens them again."""
        while self._handles:
            os.close(self._handles.popitem()[1])

    def __del__(self) -> None:
        if hasattr(self, "_handles"):
            self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handles": {}, "_sources": None}

    def _check(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)} in {self.path}")
        return int(index)

    def _where(self, index: int) -> str:
        if self._root is not None:
            return f"{escape_name(self._file(index))}: image {index}"
        shard = self._shards[int(self._shard_of[index])]
        return f"{self.path / shard}: image {index} (from {self._names()[index]!r})"

    def _file(self, index: int) -> str:
        """Path of an image that stayed where it was."""
        assert self._root is not None
        return os.path.join(unescape_name(self._root), unescape_name(self._names()[index]))

    def _read_in_place(self, index: int) -> bytes:
        try:
            with open(self._file(index), "rb", buffering=0) as file:
                data = file.readall()
        except OSError as error:
            raise ValueError(f"{self._where(index)}: cannot be read ({error.strerror})") from None
        if len(data) != self._lengths[index]:
            raise ValueError(
                f"{self._where(index)}: has {len(data)} bytes, not {self._lengths[index]}; convert the data set again"
            )
        return data

    def _names(self) -> list[str]:
        """Sources, kept since they name the files of images that stayed in place; only these sets train by them."""
        if self._sources is None:
            self._sources = [row[3] for row in self._rows_of_images()]
        return self._sources

    def _rows_of_images(self) -> list[list[str]]:
        return _rows(self.path / IMAGES_FILE, ("index", "width", "height", "source"), len(self))

    def _pread(self, shard: int, offset: int, length: int) -> bytes:
        handle = self._handles.get(shard)
        if handle is None:
            try:
                handle = os.open(self.path / self._shards[shard], os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise ValueError(f"{self.path / self._shards[shard]}: cannot be opened ({error.strerror})") from None
            if len(self._handles) >= _MAX_OPEN_SHARDS:
                try:
                    return _pread_all(handle, offset, length)
                finally:
                    os.close(handle)
            kept = self._handles.setdefault(shard, handle)
            if kept != handle:  # another thread was faster
                os.close(handle)
                handle = kept
        return _pread_all(handle, offset, length)

    def _scan(self) -> tuple[np.ndarray[Any, Any], ...]:
        """Shard, offset, length and kind of every image, from the tar headers; or of those that stayed in place."""
        total = len(self)
        shard_of = np.zeros(total, dtype=np.int32)
        offsets = np.zeros(total, dtype=np.int64)
        lengths = np.zeros(total, dtype=np.int64)
        is_png = np.zeros(total, dtype=np.bool_)
        if self._root is not None:
            for row in _rows(self.path / FILES_FILE, ("index", "bytes", "extension"), total):
                lengths[int(row[0])], is_png[int(row[0])] = int(row[1]), row[2] == "png"
            return shard_of, offsets, lengths, is_png
        index = 0
        for shard, name in enumerate(self._shards):
            with open(self.path / name, "rb", buffering=0) as file:
                for offset, length, extension in _members(file.fileno(), self.path / name, index):
                    if index >= total:
                        raise ValueError(f"{self.path / name}: holds more images than the manifest says ({total})")
                    shard_of[index], offsets[index], lengths[index] = shard, offset, length
                    is_png[index] = extension == b"png"
                    index += 1
        if index != total:
            raise ValueError(f"{self.path}: the shards hold {index} images, the manifest says {total}")
        return shard_of, offsets, lengths, is_png


def open_dataset(path: str | Path, verify: Verify = "auto") -> Dataset:
    """Open a packed data set folder and check that it is whole.

    Sizes of all files are always checked. `verify` says whether their sha256 is too: True, False, or "auto":
    up to 2 GiB in all. `labels.csv` is not opened; `Dataset.labels` checks it.

    Raises:
        ValueError: the folder is no data set, is of another format version, or a file is missing or has
            changed; names the file.
    """
    folder = Path(os.path.abspath(path))
    manifest, raw = read_manifest(folder)
    for name, entry in manifest.files.items():
        try:
            size = os.stat(folder / name).st_size
        except OSError:
            raise ValueError(f"{folder / name}: is missing; copy or convert the data set again") from None
        if size != entry.bytes:
            what = "truncated" if size < entry.bytes else "too long"
            raise ValueError(
                f"{folder / name}: is {what} ({size} bytes instead of {entry.bytes}); "
                "copy or convert the data set again"
            )
    if verify is True or (verify == "auto" and manifest.num_bytes <= AUTO_VERIFY_BYTES):
        for name in manifest.files:
            if name != LABELS_FILE:
                _check_sha256(folder, manifest, name)
    if manifest.in_place is not None and not os.path.isdir(unescape_name(manifest.in_place)):
        raise ValueError(
            f"{manifest.in_place}: is not there, but holds the images of {folder}; convert the data set again"
        )
    return Dataset(folder, manifest, hashlib.sha256(raw).hexdigest())


def _check_sha256(folder: Path, manifest: Manifest, name: str) -> None:
    try:
        found = sha256_of(folder / name)
    except OSError as error:
        raise ValueError(f"{folder / name}: cannot be read ({error.strerror})") from None
    if found != manifest.files[name].sha256:
        raise ValueError(
            f"{folder / name}: content has changed (sha256 differs from the manifest); "
            "copy or convert the data set again"
        )


def _pread_all(handle: int, offset: int, length: int) -> bytes:
    data = os.pread(handle, length, offset)
    while len(data) < length:  # a read may return less than was asked for
        more = os.pread(handle, length - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


def _members(handle: int, path: Path, index: int) -> Iterator[tuple[int, int, bytes]]:
    """Offset, length and extension of every member; they must be named by consecutive indices from `index` on."""
    at, end = 0, os.fstat(handle).st_size
    while True:
        header = os.pread(handle, tarfile.BLOCKSIZE, at)
        if header == bytes(tarfile.BLOCKSIZE):
            return
        stem, _, extension = header[:100].rstrip(b"\0").partition(b".")
        try:
            if header[257:262] != b"ustar" or extension not in (b"png", b"jpg") or int(stem) != index:
                raise ValueError
            length = int(header[124:136].rstrip(b"\0 "), 8)
        except ValueError:
            raise ValueError(
                f"{path}: no header of image {index} at byte {at}, so it is damaged; convert again"
            ) from None
        offset = at + tarfile.BLOCKSIZE
        at = offset + -(-length // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        if at > end:
            raise ValueError(f"{path}: ends within image {index}; convert the data set again")
        yield offset, length, extension
        index += 1


def _rows(path: Path, columns: tuple[str, ...], count: int) -> list[list[str]]:
    with open(path, encoding="utf-8", newline="") as file:
        reader = csv.reader(file)
        header = next(reader, [])
        rows = list(reader)
    if tuple(header) != columns or len(rows) != count or any(len(row) != len(columns) for row in rows):
        raise ValueError(f"{path}: is not a table of {count} rows with {','.join(columns)}; convert the data set again")
    if any(row[0] != str(index) for index, row in enumerate(rows)):
        raise ValueError(f"{path}: rows are not in index order; convert the data set again")
    return rows
