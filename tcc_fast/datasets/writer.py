"""Writes a packed data set folder: all of it, or nothing.

Everything goes into a hidden folder beside the destination, which is renamed at the end. Whatever stops the
work in between, the destination is either absent, or the old data set, or the new one.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import math
import os
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import tcc_fast
from tcc_fast.datasets.encode import Stored
from tcc_fast.datasets.manifest import (
    IMAGES_FILE,
    LABELS_FILE,
    MANIFEST_FILE,
    REJECTED_FILE,
    FileEntry,
    Geometry,
    Manifest,
)
from tcc_fast.datasets.names import escape_name
from tcc_fast.datasets.place import Place
from tcc_fast.datasets.reader import Rejected

DEFAULT_SHARD_BYTES = 256 << 20
_BLOCK = 512
_END = bytes(2 * _BLOCK)


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
        """One CSV line."""
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
    """Takes pictures one by one and leaves a finished data set folder at `out`.

    Use as a context manager and call `finish` inside it; leaving without `finish` removes everything written.

    Args:
        out: destination folder; missing parents are made.
        name: goes into the manifest.
        overwrite: replace a data set that is there, once the new one is complete.
        shard_bytes: upper limit for one tar shard (a single larger picture still gets one of its own).

    Raises:
        ValueError: `out` is in the way, or another conversion is writing to it.
    """

    def __init__(
        self, out: Path, *, name: str, overwrite: bool = False, shard_bytes: int = DEFAULT_SHARD_BYTES
    ) -> None:
        self.name = name
        self.num_images = 0
        self.num_rejected = 0
        self._overwrite = overwrite
        self._shard_bytes = shard_bytes
        self._open: dict[str, _HashedFile] = {}
        self._files: dict[str, FileEntry] = {}
        self._num_shards = 0
        self._pixels = 0
        self._sums, self._squares = [0, 0, 0], [0, 0, 0]
        self._sizes: set[tuple[int, int]] = set()  # kept at two entries at most
        self._extensions: set[str] = set()
        self._encoded = False
        self._splits: dict[str, tuple[int, int]] = {}
        self._place = Place(out, overwrite)
        self.out, self.folder = self._place.out, self._place.folder
        self._text(IMAGES_FILE).write_row("index", "width", "height", "source")
        self._text(REJECTED_FILE).write_row("source", "reason")

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._open.values():
            file.abandon()
        self._place.leave()

    def add(self, picture: Stored, source: str, label: int | None, split: str | None = None) -> int:
        """Append one picture; returns its index. Either every picture has a label, or none has; the pictures of
        a split come one after the other."""
        index = self.num_images
        if split is not None:
            start, stop = self._splits.get(split, (index, index))
            assert stop == index, f"the pictures of split {split!r} lie apart"
            self._splits[split] = (start, index + 1)
        if index == 0 and label is not None:
            self._text(LABELS_FILE).write_row("index", "label")
        assert (label is not None) == (LABELS_FILE in self._open), "labels for some pictures only"
        self._add_member(f"{index:09d}.{picture.extension}", picture.data)
        self._text(IMAGES_FILE).write_row(index, picture.width, picture.height, escape_name(source))
        if label is not None:
            self._text(LABELS_FILE).write_row(index, label)
        self._pixels += picture.width * picture.height
        for channel in range(3):
            self._sums[channel] += picture.sums[channel]
            self._squares[channel] += picture.squares[channel]
        if len(self._sizes) < 2:
            self._sizes.add((picture.height, picture.width))
        self._extensions.add(picture.extension)
        self._encoded |= picture.encoded
        self.num_images += 1
        return index

    def reject(self, source: str, why: Rejected) -> None:
        """Note a source file that did not become an image."""
        self._text(REJECTED_FILE).write_row(escape_name(source), str(why))
        self.num_rejected += 1

    def keep_rejected(self) -> Path:
        """Copy the list of rejected files beside the destination, for a run that will fail; returns where."""
        self._open[REJECTED_FILE]._file.flush()
        path = self.out.with_name(self.out.name + ".rejected.csv")
        shutil.copyfile(self.folder / REJECTED_FILE, path)
        return path

    def finish(
        self,
        *,
        class_names: tuple[str, ...] | None,
        short_side: int,
        quality: int,
        source: Mapping[str, Any],
    ) -> Manifest:
        """Write the manifest and move the folder to its place.

        `quality` is recorded only if a JPEG was encoded here.

        Raises:
            ValueError: no picture was added, or the destination has become occupied meanwhile.
        """
        if self.num_images == 0:
            raise ValueError(f"{self.out}: no picture to write")
        self._end_shard()
        for name in list(self._open):
            self._files[name] = self._open.pop(name).close()
        encodings = {"png": "png", "jpg": "jpeg"}
        manifest = Manifest(
            name=self.name,
            num_images=self.num_images,
            class_names=class_names,
            splits={**self._splits, "all": (0, self.num_images)},
            geometry=Geometry(
                short_side=short_side,
                encoding="mixed" if len(self._extensions) > 1 else encodings[min(self._extensions)],
                quality=quality if self._encoded else None,
                uniform_size=min(self._sizes) if len(self._sizes) == 1 else None,
            ),
            mean=self._per_channel([s / (255 * self._pixels) for s in self._sums]),
            std=self._per_channel([self._std(channel) for channel in range(3)]),
            files=dict(sorted(self._files.items())),
            source=source,
            num_rejected=self.num_rejected,
            tool_version=tcc_fast.__version__,
        )
        last = _HashedFile(self.folder / MANIFEST_FILE)
        last.write(manifest.to_json().encode("utf-8"))
        last.close()
        self._place.replace(self._overwrite)
        return manifest

    def _std(self, channel: int) -> float:
        # Whole numbers until the last step: the order in which pictures came cannot matter.
        variance = self._squares[channel] * self._pixels - self._sums[channel] ** 2
        return math.sqrt(variance / (self._pixels**2 * 255**2))

    @staticmethod
    def _per_channel(values: list[float]) -> tuple[float, float, float]:
        return values[0], values[1], values[2]

    def _text(self, name: str) -> _HashedFile:
        if name not in self._open:
            self._open[name] = _HashedFile(self.folder / name)
        return self._open[name]

    def _add_member(self, name: str, data: bytes) -> None:
        info = tarfile.TarInfo(name)  # mtime 0, uid and gid 0, no names, mode 0644
        info.size = len(data)
        member = info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % _BLOCK)
        shard = self._open.get("shard")
        if shard is not None and shard.bytes + len(member) + len(_END) > self._shard_bytes:
            self._end_shard()
            shard = None
        if shard is None:
            shard = self._open["shard"] = _HashedFile(self.folder / f"shard-{self._num_shards:05d}.tar")
            self._num_shards += 1
        shard.write(member)

    def _end_shard(self) -> None:
        shard = self._open.pop("shard", None)
        if shard is not None:
            shard.write(_END)
            self._files[shard.path.name] = shard.close()
