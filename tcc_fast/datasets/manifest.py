"""`dataset.json`: what a packed data set folder says about itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FORMAT_VERSION = 1
MANIFEST_FILE = "dataset.json"
IMAGES_FILE = "images.csv"
LABELS_FILE = "labels.csv"
UNLABELLED = -1
"""In `labels.csv`, where others have a label and this image has none."""
REJECTED_FILE = "rejected.csv"
FILES_FILE = "files.csv"
BETON_FILE = "images.beton"


@dataclass(frozen=True)
class Geometry:
    """How images are stored.

    `short_side` is the limit of conversion in pixels (0: none), `quality` the JPEG quality (None when conversion
    encoded no JPEG itself), `uniform_size` (height, width) or None when images differ.
    """

    short_side: int
    quality: int | None
    uniform_size: tuple[int, int] | None


@dataclass(frozen=True)
class FileEntry:
    """Size in bytes and sha256 (lower-case hex) of one packed file."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The content of `dataset.json`.

    `mean` and `std` are per channel (RGB), in 0..1, over all stored pixels. `splits` maps a name to the index
    range [start, stop). `source` says in free form what the set was made from. `class_names` are printable
    (see `tcc_fast.datasets.escape`); None when the source has no classes. `num_rejected` counts images that
    could not be taken; `rejected.csv` also lists files that are no images.
    """

    name: str
    num_images: int
    class_names: tuple[str, ...] | None
    splits: Mapping[str, tuple[int, int]]
    geometry: Geometry
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    files: Mapping[str, FileEntry]
    source: Mapping[str, Any]
    num_rejected: int
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
            content = json.loads(text)
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
            manifest = _build(content)
        except KeyError as error:
            raise _malformed(where, f"the field {error.args[0]!r} is missing") from None
        except (TypeError, ValueError, AttributeError) as error:
            raise _malformed(where, str(error)) from None
        return manifest


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


def _build(content: Mapping[str, Any]) -> Manifest:
    num_images = _count(content["num_images"], "num_images", at_least=1)
    class_names = content["class_names"]
    if class_names is not None:
        _check(isinstance(class_names, list), "class_names is neither a list nor null")
        class_names = tuple(_text(name, "class_names") for name in class_names)
    splits = {}
    for name, bounds in content["splits"].items():
        start, stop = _pair(bounds, f"split {name!r}")
        _check(0 <= start < stop <= num_images, f"split {name!r} is not a range within 0..{num_images}")
        splits[name] = (start, stop)
    geometry = content["geometry"]
    uniform = geometry["uniform_size"]
    quality = geometry["quality"]
    files = {}
    for name, entry in content["files"].items():
        # A name from a file must never lead out of the folder.
        _check(bool(name) and "/" not in name and name not in (".", ".."), f"{name!r} is not a plain file name")
        sha256 = _text(entry["sha256"], f"sha256 of {name}")
        _check(len(sha256) == 64, f"sha256 of {name} is not 64 hex digits")
        files[name] = FileEntry(_count(entry["bytes"], f"bytes of {name}"), sha256)
    for name in (IMAGES_FILE, REJECTED_FILE):
        _check(name in files, f"files does not list {name}")
    _check(isinstance(content["source"], dict), "source is not an object")
    manifest = Manifest(
        name=_text(content["name"], "name"),
        num_images=num_images,
        class_names=class_names,
        splits=splits,
        geometry=Geometry(
            short_side=_count(geometry["short_side"], "short_side"),
            quality=None if quality is None else _count(quality, "quality"),
            uniform_size=None if uniform is None else _pair(uniform, "uniform_size"),
        ),
        mean=_rgb(content["mean"], "mean"),
        std=_rgb(content["std"], "std"),
        files=files,
        source=content["source"],
        num_rejected=_count(content["num_rejected"], "num_rejected"),
        tool_version=_text(content["tool_version"], "tool_version"),
    )
    _check(bool(manifest.shards) or manifest.in_place is not None, "files lists no shard")
    return manifest


def _check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)


def _count(value: Any, name: str, at_least: int = 0) -> int:
    ok = isinstance(value, int) and not isinstance(value, bool) and value >= at_least
    _check(ok, f"{name} is {value!r}, not a whole number of at least {at_least}")
    return int(value)


def _text(value: Any, name: str) -> str:
    _check(isinstance(value, str), f"{name} is {value!r}, not text")
    return str(value)


def _pair(value: Any, name: str) -> tuple[int, int]:
    _check(isinstance(value, list) and len(value) == 2, f"{name} is not a pair of whole numbers")
    return _count(value[0], name), _count(value[1], name)


def _rgb(value: Any, name: str) -> tuple[float, float, float]:
    ok = isinstance(value, list) and len(value) == 3
    ok = ok and all(isinstance(v, int | float) and not isinstance(v, bool) and 0 <= v <= 1 for v in value)
    _check(ok, f"{name} is not three numbers in 0..1")
    return float(value[0]), float(value[1]), float(value[2])
