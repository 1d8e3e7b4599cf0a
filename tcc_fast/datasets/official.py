"""What the paper's data sets have in common: where they are looked for, and how they are checked.

A source is the official archive, the folder that holds it, or the extracted folder. Without ``--src`` the
usual places are tried: the folder that the environment variable ``TCC_FAST_RAW`` names, then ``data/raw``,
and in each also the sub-folder with the data set's name. Nothing is ever downloaded.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tcc_fast.datasets.archive import CutOff
from tcc_fast.datasets.escape import escape_name
from tcc_fast.datasets.progress import show_progress
from tcc_fast.datasets.reader import DEFAULT_MAX_REJECTED, Checks, Item

RAW_VARIABLE = "TCC_FAST_RAW"
RAW_FOLDER = Path("data/raw")
AUTO_MD5_BYTES = 4 << 30
"""Larger archives are compared by size alone unless their MD5 is asked for: it takes minutes."""
SHOWN = 3
"""Examples in one sentence."""
_MEGABYTE = 1 << 20
_HEAD = 512


@dataclass(frozen=True)
class Archive:
    """An official archive: file name, size in bytes and published MD5."""

    name: str
    bytes: int
    md5: str


@dataclass(frozen=True)
class Official:
    """What is known of a data set.

    Attributes:
        name, title: on the command line, and for people.
        home: its own page.
        fetch: what to get there, in words.
        archives: the official ones, best first.
        folders: sub-folders that extracting makes, or that people keep it in.
        is_extracted: whether a folder is the extracted data set itself, or a part of it.
        mistakes: (pattern, sentence): what people point at instead, by a name found inside.
        per_class: split -> images of each class.
        about: goes into the manifest.
    """

    name: str
    title: str
    home: str
    fetch: str
    archives: tuple[Archive, ...]
    folders: tuple[str, ...]
    is_extracted: Callable[[Path], bool]
    mistakes: tuple[tuple[str, str], ...]
    per_class: Mapping[str, int]
    about: Mapping[str, Any]

    @property
    def how_to_get(self) -> str:
        return (
            f"fetch {self.fetch} from {self.home} and say where it is with --src, "
            f"or put it into {RAW_FOLDER} (nothing is downloaded for you)"
        )


def find_source(official: Official, src: Path | None) -> Path:
    """The archive or extracted folder that `src` means; None looks in the usual places.

    Raises:
        ValueError: there is none; says what is there instead, and what to fetch.
    """
    if src is None:
        places = _usual_places(official)
        for place in places:
            found = _look_in(official, place)
            if found is not None:
                return found
        looked = ", ".join(escape_name(str(place)) for place in places)
        raise ValueError(
            f"{official.name}: no --src given, and {official.title} is not in {looked}: {official.how_to_get}"
        )
    shown = escape_name(str(src))
    if not os.path.exists(src):
        raise ValueError(f"{shown}: no such file or folder; {official.how_to_get}")
    if not src.is_dir():
        return src
    found = _look_in(official, src)
    if found is None:
        with reading(official, src):
            raise not_it(official, src, _names_in(src))
    return found


def not_it(official: Official, where: Path, names: Collection[str]) -> ValueError:
    """The error for something readable that is not this data set, by the names found in it."""
    shown = escape_name(str(where))
    for pattern, sentence in official.mistakes:
        for name in names:
            if re.search(pattern, name):
                return ValueError(f"{shown}: holds {escape_name(name)!r}: {sentence}")
    some = ", ".join(repr(escape_name(name)) for name in list(names)[:SHOWN]) or "nothing"
    return ValueError(f"{shown}: is not {official.title} (found: {some}); {official.how_to_get}")


@contextlib.contextmanager
def reading(official: Official, where: Path) -> Iterator[None]:
    """Turns what goes wrong while `where` is read into a sentence."""
    try:
        yield
    except (CutOff, EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error) as error:
        raise _broken(official, where, error) from None
    except OSError as error:
        if error.errno is None:  # gzip's own
            raise _broken(official, where, error) from None
        raise ValueError(
            f"{escape_name(str(where))}: cannot be read ({error.strerror}); check its permissions"
        ) from None


def check_counts(
    official: Official,
    where: Path,
    class_names: Sequence[str],
    counts: Mapping[str, np.ndarray[Any, np.dtype[np.int64]]],
    checks: Checks,
    known: Sequence[str] = (),
) -> tuple[str, ...]:
    """Compare the images of each class, (K,) for each split, with the official numbers.

    Returns:
        what deviates, as sentences, those `known` already first: empty, or anything with `checks.allow_incomplete`.

    Raises:
        ValueError: something deviates and may not, or all images have one label.
    """
    shown = escape_name(str(where))
    total = sum(counts.values())
    assert isinstance(total, np.ndarray)
    found = int(total.sum())
    if found == 0:
        raise ValueError(f"{shown}: holds no image of {official.title}; {official.how_to_get}")
    if np.count_nonzero(total) == 1 and len(class_names) > 1:
        only = class_names[int(total.argmax())]
        raise ValueError(
            f"{shown}: all {found} images have the same label ({only!r}), so nothing could be evaluated: the "
            f"labels are broken or most of {official.title} is missing; {official.how_to_get}"
        )
    deviations = list(known)
    missing = [name for name, count in zip(class_names, total, strict=True) if count == 0]
    if missing:
        deviations.append(f"{len(missing)} of {len(class_names)} classes are missing: {_some(missing)}")
    for split, expected in official.per_class.items():
        have = counts[split]
        all_there = int(have.sum()) == expected * len(class_names)
        if not all_there:
            deviations.append(f"{split}: {int(have.sum())} of {expected * len(class_names)} images")
        pairs = zip(class_names, have, strict=True)
        odd = [
            f"{name} has {count} of {expected}" for name, count in pairs if count != expected and name not in missing
        ]
        if odd and (all_there or len(odd) < len(class_names) - len(missing)):  # else the sum has said it
            deviations.append(f"{split}: {_some(odd)}")
    if deviations and not checks.allow_incomplete:
        raise ValueError(
            f"{shown}: is not the whole {official.title}: {'; '.join(deviations)}. Was the download or copy "
            f"interrupted, or changed? Fetch it again ({official.home}), or take it as it is with "
            "--allow-incomplete; then no figure is comparable with published ones"
        )
    return tuple(deviations)


def check_md5(official: Official, path: Path, checks: Checks) -> str:
    """What the MD5 of an archive says, as a sentence; a large one is compared by size unless asked for more."""
    size = path.stat().st_size
    by_size = [archive for archive in official.archives if archive.bytes == size]
    if size > AUTO_MD5_BYTES and not checks.md5:
        verdict = f"size as {by_size[0].name}" if by_size else "size differs from the official archive"
        return f"MD5 not compared, {verdict} (--md5 reads all {size / 1e9:.0f} GB)"
    found = _md5(path, size, checks.progress)
    same = [archive.name for archive in official.archives if archive.md5 == found]
    return f"MD5 as published for {same[0]}" if same else f"MD5 {found} is not the published one"


def check_file_md5s(found: Mapping[str, str], published: Mapping[str, str]) -> str:
    """What the MD5s of extracted files (name -> MD5) say, as a sentence."""
    if not published:
        return "MD5 not compared: none is published for these files"
    other = [name for name, md5 in found.items() if published.get(name) != md5]
    return f"MD5 not the published one for {_some(other)}" if other else "MD5 of the files as published"


class OfficialReader:
    """A checked data set of the paper; see `tcc_fast.datasets.reader.Reader` for the attributes.

    Args:
        items: gives the items anew for every iteration.
        count: how many there are.
        deviations, md5: what the checks found.
    """

    def __init__(
        self,
        official: Official,
        root: Path,
        class_names: Sequence[str],
        items: Callable[[], Iterator[Item]],
        count: int,
        deviations: Sequence[str],
        md5: str,
        checks: Checks,
        *,
        lossless: bool = False,
        default_short_side: int = 0,
        skipped: Mapping[str, int] | None = None,
    ) -> None:
        self.official = official
        self.root: Path | None = root
        self.class_names: tuple[str, ...] | None = tuple(class_names)
        self.lossless = lossless
        self.default_short_side = default_short_side
        self.in_process = False
        self.max_rejected: int | float = DEFAULT_MAX_REJECTED if checks.allow_incomplete else 0
        self.mixed = False
        self.skipped: Mapping[str, int] = skipped or {}
        self._items, self._count = items, count
        self.about: Mapping[str, Any] = {
            **official.about,
            "home": official.home,
            "md5": md5,
            "complete": not deviations,
            "deviations": list(deviations),
        }
        whole = f"INCOMPLETE, as allowed: {'; '.join(deviations)}" if deviations else "complete, every class counted"
        self.notes = (f"{official.title}: {whole}; {md5}.",)

    def __iter__(self) -> Iterator[Item]:
        assert self.root is not None
        with reading(self.official, self.root):
            yield from self._items()

    def total(self) -> int | None:
        """Number of items."""
        return self._count


def _usual_places(official: Official) -> list[Path]:
    named = os.environ.get(RAW_VARIABLE)
    roots = ([Path(named)] if named else []) + [RAW_FOLDER]
    return [place for root in roots for place in (root, root / official.name)]


def _look_in(official: Official, folder: Path) -> Path | None:
    for archive in official.archives:
        if (folder / archive.name).is_file():
            return folder / archive.name
    candidates = [folder, *(folder / name for name in official.folders)]
    return next((place for place in candidates if place.is_dir() and official.is_extracted(place)), None)


def _names_in(folder: Path) -> list[str]:
    """Names in a folder and in its first sub-folders: enough to say what it is."""
    names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    inner = (name for name in names[:20] if (folder / name).is_dir())
    return names + [f"{name}/{below}" for name in inner for below in sorted(os.listdir(folder / name))[:200]]


def _broken(official: Official, where: Path, error: Exception) -> ValueError:
    shown = escape_name(str(where))
    if where.is_dir():
        return ValueError(f"{shown}: a file in it is damaged or ends too early; fetch it again from {official.home}")
    with open(where, "rb") as file:
        head = file.read(_HEAD)
    start = head.lstrip()[:16].lower()
    if not head:
        return ValueError(f"{shown}: is empty; {official.how_to_get}")
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return ValueError(f"{shown}: is a web page, not an archive, so the download failed; {official.how_to_get}")
    is_zip, is_gzip, is_tar = head.startswith(b"PK\3\4"), head.startswith(b"\x1f\x8b"), head[257:262] == b"ustar"
    ended = isinstance(error, CutOff | EOFError) or "unexpected end" in str(error) or "truncated" in str(error)
    # A zip's directory is at its end: one that is cut off is not recognised, and tried as a tar.
    if (is_zip and (isinstance(error, tarfile.ReadError) or "not a zip" in str(error))) or (
        ended and (is_gzip or is_tar)
    ):
        size = where.stat().st_size
        wanted = " or ".join(f"{archive.bytes} ({archive.name})" for archive in official.archives)
        return ValueError(
            f"{shown}: ends too early, so it is a half download: {size} bytes"
            f"{f' instead of {wanted}' if wanted else ''}; fetch it again from {official.home}"
        )
    detail = "" if "\n" in str(error) else f" ({error})"
    kind = "damaged" if is_zip or is_gzip or is_tar else "no archive"
    return ValueError(f"{shown}: is {kind}{detail}; {official.how_to_get}")


def _md5(path: Path, size: int, progress: bool) -> str:
    digest, done = hashlib.md5(usedforsecurity=False), 0
    bar = show_progress(f"MD5 of {path.name}", lambda: size // _MEGABYTE, progress, "MB")
    with open(path, "rb", buffering=0) as file, bar as advance:
        while block := file.read(_MEGABYTE):
            digest.update(block)
            done += len(block)
            advance(done // _MEGABYTE)
    return digest.hexdigest()


def _some(parts: Sequence[str]) -> str:
    rest = len(parts) - SHOWN
    return ", ".join(parts[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")
