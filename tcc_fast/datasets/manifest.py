"""`dataset.json`: what a packed data set folder says about itself."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, from_json

FORMAT_VERSION = 1
MANIFEST_FILE = "dataset.json"
IMAGES_FILE = "images.csv"
LABELS_FILE = "labels.csv"
UNLABELLED = -1
"""In `labels.csv`, where others have a label and this image has none."""
REJECTED_FILE = "rejected.csv"
FILES_FILE = "files.csv"
BETON_FILE = "images.beton"


def _plain(name: str) -> str:
    """A file's name, which must never lead out of the folder."""
    if not name or "/" in name or name in (".", ".."):
        raise ValueError(f"{name!r} is not a plain file name")
    return name


Count = Annotated[int, Field(ge=0)]
Level = Annotated[float, Field(ge=0, le=1)]
FileName = Annotated[str, AfterValidator(_plain)]


@dataclass(frozen=True)
class Geometry:
    """How images are stored.

    `short_side` is the limit of conversion in pixels (0: none), `quality` the JPEG quality (None when conversion
    encoded no JPEG itself), `uniform_size` (height, width) or None when images differ.
    """

    short_side: Count
    quality: Count | None
    uniform_size: tuple[Count, Count] | None


@dataclass(frozen=True)
class FileEntry:
    """Size in bytes and sha256 (lower-case hex) of one packed file."""

    bytes: Count
    sha256: Annotated[str, Field(min_length=64, max_length=64)]


@dataclass(frozen=True)
class Manifest:
    """The content of `dataset.json`; pydantic checks it where it is read.

    `mean` and `std` are per channel (RGB), in 0..1, over all stored pixels. `splits` maps a name to the index
    range [start, stop). `source` says in free form what the set was made from. `class_names` are printable
    (see `tcc_fast.datasets.escape`); None when the source has no classes. `num_rejected` counts images that
    could not be taken; `rejected.csv` also lists files that are no images.
    """

    name: str
    num_images: Annotated[int, Field(ge=1)]
    class_names: tuple[str, ...] | None
    splits: Mapping[str, tuple[Count, Count]]
    geometry: Geometry
    mean: tuple[Level, Level, Level]
    std: tuple[Level, Level, Level]
    files: Mapping[FileName, FileEntry]
    source: Mapping[str, Any]
    num_rejected: Count
    tool_version: str
    format_version: int = FORMAT_VERSION

    @property
    def has_labels(self) -> bool:
        """Whether the folder holds a `labels.csv`."""
        return LABELS_FILE in self.files

    @property
    def shards(self) -> list[str]:
        """Names of the tar shards, in index order."""
        return sorted(name for name in self.files if name.startswith("shard-") and name.endswith(".tar"))

    @property
    def indexes(self) -> list[str]:
        """Names of the DALI indexes, one for each of `shards` and in their order."""
        return sorted(name for name in self.files if name.startswith("shard-") and name.endswith(".idx"))

    @property
    def beton(self) -> str | None:
        """Name of the file for FFCV; None when the set was converted without."""
        return BETON_FILE if BETON_FILE in self.files else None

    @property
    def in_place(self) -> str | None:
        """The folder in which the images lie, escaped, when there are no shards because they stayed there."""
        root = self.source.get("root")
        return root if FILES_FILE in self.files and isinstance(root, str) else None

    @property
    def num_bytes(self) -> int:
        """Bytes of all packed files together."""
        return sum(entry.bytes for entry in self.files.values())

    def to_json(self) -> str:
        """The text of `dataset.json`: fixed key order, so that equal manifests are equal bytes."""
        content = asdict(self)
        ordered = {"format_version": content.pop("format_version"), **content}
        return json.dumps(ordered, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str | Path = MANIFEST_FILE) -> Manifest:
        """Parse and check the text of a `dataset.json`.

        Raises:
            ValueError: not JSON, another format version, or a field that is missing or impossible; names
                `where`.
        """
        try:
            content = from_json(text)
        except ValueError as error:
            raise _malformed(where, f"it is not JSON ({error})") from None
        if not isinstance(content, dict) or "format_version" not in content:
            raise _malformed(where, "it has no format_version")
        version = content["format_version"]
        if version != FORMAT_VERSION or isinstance(version, bool):
            raise ValueError(
                f"{where}: format_version is {version!r}, but this tcc-fast reads version {FORMAT_VERSION}; "
                "convert the data set again with this version, or use the tcc-fast that wrote it"
            )
        try:
            manifest = TypeAdapter(cls).validate_json(text, strict=True)
        except ValidationError as error:
            raise _malformed(where, _explain(error.errors()[0])) from None
        if contradiction := manifest._contradiction():
            raise _malformed(where, contradiction)
        return manifest

    def _contradiction(self) -> str | None:
        """What each field alone allows, but not all of them together."""
        for name, (start, stop) in self.splits.items():
            if not start < stop <= self.num_images:
                return f"split {name!r} is not a range within 0..{self.num_images}"
        for name in (IMAGES_FILE, REJECTED_FILE):
            if name not in self.files:
                return f"files does not list {name}"
        return None if self.shards or self.in_place is not None else "files lists no shard"


def read_manifest(folder: str | Path) -> tuple[Manifest, bytes]:
    """The manifest of a data set folder, and the bytes of its `dataset.json`.

    Raises:
        ValueError: the folder or its `dataset.json` does not exist, or cannot be used.
    """
    folder = Path(folder)
    path = folder / MANIFEST_FILE
    if not folder.exists():
        raise ValueError(
            f"{folder}: no such folder; make the data set first with 'tcc-fast convert' or, if it was moved, name it "
            "with --data"
        )
    if not folder.is_dir():
        raise ValueError(f"{folder}: is a file, but a data set is a folder that holds {MANIFEST_FILE}")
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise ValueError(
            f"{folder}: holds no {MANIFEST_FILE}, so it is not a tcc-fast data set; "
            "make one from raw images with 'tcc-fast convert folder --src ...'"
        ) from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise _malformed(path, "it is not utf-8 text") from None
    return Manifest.from_json(text, path), raw


def _malformed(where: str | Path, what: str) -> ValueError:
    return ValueError(f"{where}: malformed data set manifest: {what}; convert the data set again")


def _explain(error: ErrorDetails) -> str:
    """The first thing that pydantic found, with the field's dotted path."""
    key = ".".join(map(str, error["loc"]))
    if error["type"] == "missing":
        return f"the field {key!r} is missing"
    if error["type"] == "value_error":  # of a name in `files`, and complete as it is
        return error["msg"].removeprefix("Value error, ")
    return f"{key} is {reprlib.repr(error['input'])}: {error['msg'][0].lower()}{error['msg'][1:]}"
