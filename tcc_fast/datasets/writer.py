"""Writes a packed data set folder: all of it, or nothing.

Everything goes into a hidden folder beside the destination, which is renamed at the end. Whatever stops the
work in between, the destination is either absent, or the old data set, or the new one.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import os
import shutil
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import tcc_fast
from tcc_fast.datasets.beton import beton_bytes, write_beton
from tcc_fast.datasets.encode import Stored
from tcc_fast.datasets.escape import escape_name
from tcc_fast.datasets.manifest import (
    BETON_FILE,
    FILES_FILE,
    IMAGES_FILE,
    LABELS_FILE,
    MANIFEST_FILE,
    REJECTED_FILE,
    UNLABELLED,
    FileEntry,
    Geometry,
    Manifest,
)
from tcc_fast.datasets.reader import Rejected
from tcc_fast.datasets.staging import StagingFolder
from tcc_fast.datasets.store import Dataset
from tcc_fast.datasets.totals import Totals

DEFAULT_SHARD_BYTES = 256 << 20
_END = bytes(2 * tarfile.BLOCKSIZE)


class _HashedFile:
    """A file written once, in order, that knows its size and sha256."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bytes = 0
        self._sha256 = hashlib.sha256()
        self._file = open(path, "xb")  # noqa: SIM115 (open as long as the writer is)

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._sha256.update(data)
        self.bytes += len(data)

    def write_row(self, *row: str | int) -> None:
        """Write one CSV line."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(row)
        self.write(text.getvalue().encode("utf-8"))

    def close(self) -> FileEntry:
        if not self._file.closed:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        return FileEntry(self.bytes, self._sha256.hexdigest())

    def abandon(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()


class DatasetWriter:
    """Takes images one by one and leaves a finished data set folder at `out`.

    Use as a context manager and call `finish` inside it; leaving without `finish` removes everything written.

    Args:
        out: destination folder; missing parents are made.
        name: goes into the manifest.
        overwrite: replace a data set that is there, once the new one is complete.
        shard_bytes: upper limit for one tar shard (a single larger image still gets one of its own).
        beton: also write the images for FFCV.
        in_place: leave the images where they are, and write an index of them.

    Raises:
        ValueError: `out` is in the way, or another conversion is writing to it.
    """

    def __init__(
        self,
        out: Path,
        *,
        name: str,
        overwrite: bool = False,
        shard_bytes: int = DEFAULT_SHARD_BYTES,
        beton: bool = False,
        in_place: bool = False,
    ) -> None:
        self.name = name
        self.num_images = 0
        self.num_rejected = 0
        self.num_passed_over = 0
        self.num_unlabelled = 0
        self.labels_used: set[int] = set()
        self.totals = Totals()
        self._overwrite = overwrite
        self._shard_bytes = shard_bytes
        self._beton, self._in_place = beton, in_place
        self._open: dict[str, _HashedFile] = {}
        self._files: dict[str, FileEntry] = {}
        self._num_shards = 0
        self._index: list[str] = []  # lines of the open shard's index
        self._splits: dict[str, tuple[int, int]] = {}
        self._staging = StagingFolder(out, overwrite)
        self.out, self.folder = self._staging.out, self._staging.folder
        self._text(IMAGES_FILE).write_row("index", "width", "height", "source")
        self._text(REJECTED_FILE).write_row("source", "reason")
        if in_place:
            self._text(FILES_FILE).write_row("index", "bytes", "extension")

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._open.values():
            file.abandon()
        self._staging.leave()

    def add(self, image: Stored, source: str, label: int | None, split: str | None = None) -> int:
        """Append one image; returns its index. Either every image has a label, which may be `UNLABELLED`, or none has;
        the images of a split come one after the other.

        Raises:
            ValueError: the image cannot go into the beton that was asked for.
        """
        index = self.num_images
        if self._beton:
            try:
                beton_bytes(image.extension, image.width, image.height, len(image.data))
            except ValueError as error:
                raise ValueError(f"{escape_name(source)}: {error}") from None
        if split is not None:
            start, stop = self._splits.get(split, (index, index))
            assert stop == index, f"the images of split {split!r} lie apart"
            self._splits[split] = (start, index + 1)
        if index == 0 and label is not None:
            self._text(LABELS_FILE).write_row("index", "label")
        assert (label is not None) == (LABELS_FILE in self._open), "labels for some images only"
        if self._in_place:
            self._text(FILES_FILE).write_row(index, len(image.data), image.extension)
        else:
            self._add_member(f"{index:09d}", image.extension, image.data)
        self._text(IMAGES_FILE).write_row(index, image.width, image.height, escape_name(source))
        if label is not None:
            self._text(LABELS_FILE).write_row(index, label)
            self.num_unlabelled += label == UNLABELLED
            self.labels_used.add(label)
        self.totals.add(image)
        self.num_images += 1
        return index

    def reject(self, source: str, why: Rejected) -> None:
        """Note an image that could not be taken."""
        self._text(REJECTED_FILE).write_row(escape_name(source), str(why))
        self.num_rejected += 1

    def pass_over(self, source: str, why: Rejected) -> None:
        """Note a file that is no image, in the same list; it does not count as rejected."""
        self._text(REJECTED_FILE).write_row(escape_name(source), str(why))
        self.num_passed_over += 1

    def keep_rejected(self) -> Path:
        """Copy the list of rejected files beside the destination, for a run that will fail; returns where."""
        self._open[REJECTED_FILE]._file.flush()
        shutil.copyfile(self.folder / REJECTED_FILE, self._kept_rejected)
        return self._kept_rejected

    @property
    def _kept_rejected(self) -> Path:
        return self.out.with_name(f"{self.out.name}.{REJECTED_FILE}")

    def finish(
        self,
        *,
        class_names: tuple[str, ...] | None,
        short_side: int,
        quality: int,
        source: Mapping[str, Any],
        advance: Callable[[int], None] = lambda done: None,
    ) -> Manifest:
        """Write the beton, if there is to be one, and the manifest, and move the folder to its place.

        `quality` is recorded only if a JPEG was encoded here. `advance` is called with the number of images in
        the beton so far.

        Raises:
            ValueError: no image was added, or the destination has become occupied meanwhile.
        """
        if self.num_images == 0:
            raise ValueError(f"{self.out}: no image to write")
        self._end_shard()
        for name in list(self._open):
            self._files[name] = self._open.pop(name).close()
        manifest = Manifest(
            name=self.name,
            num_images=self.num_images,
            class_names=class_names,
            splits={**self._splits, "all": (0, self.num_images)},
            geometry=Geometry(
                short_side=short_side,
                quality=quality if self.totals.num_encoded else None,
                uniform_size=self.totals.uniform_size,
            ),
            mean=self.totals.mean,
            std=self.totals.std,
            files=dict(sorted(self._files.items())),
            source=source,
            num_rejected=self.num_rejected,
            tool_version=tcc_fast.__version__,
        )
        if self._beton:
            beton = self._text(BETON_FILE)
            write_beton(beton.write, Dataset(self.folder, manifest, fingerprint=""), advance)
            self._files[BETON_FILE] = self._open.pop(BETON_FILE).close()
            manifest = replace(manifest, files=dict(sorted(self._files.items())))
        last = _HashedFile(self.folder / MANIFEST_FILE)
        last.write(manifest.to_json().encode("utf-8"))
        last.close()
        self._staging.replace(self._overwrite)
        self._kept_rejected.unlink(missing_ok=True)  # of an attempt before, which would seem to be of this one
        return manifest

    def _text(self, name: str) -> _HashedFile:
        if name not in self._open:
            self._open[name] = _HashedFile(self.folder / name)
        return self._open[name]

    def _add_member(self, stem: str, extension: str, data: bytes) -> None:
        name = f"{stem}.{extension}"
        info = tarfile.TarInfo(name)  # mtime 0, uid and gid 0, no names, mode 0644
        info.size = len(data)
        header = info.tobuf(tarfile.USTAR_FORMAT)
        member = header + data + bytes(-len(data) % tarfile.BLOCKSIZE)
        shard = self._open.get("shard")
        if shard is not None and shard.bytes + len(member) + len(_END) > self._shard_bytes:
            self._end_shard()
            shard = None
        if shard is None:
            shard = self._open["shard"] = _HashedFile(self.folder / f"shard-{self._num_shards:05d}.tar")
            self._num_shards += 1
        self._index.append(f"{extension} {shard.bytes + len(header)} {len(data)} {name}\n")
        shard.write(member)

    def _end_shard(self) -> None:
        shard = self._open.pop("shard", None)
        if shard is None:
            return
        shard.write(_END)
        self._files[shard.path.name] = shard.close()
        # As DALI's wds2idx writes it: version, number of samples, then extension, offset, size and name of each.
        name = shard.path.with_suffix(".idx").name
        self._text(name).write("".join([f"v1.2 {len(self._index)}\n", *self._index]).encode("ascii"))
        self._files[name] = self._open.pop(name).close()
        self._index.clear()
