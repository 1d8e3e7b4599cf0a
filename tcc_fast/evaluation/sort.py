"""Clusters as folders: links to the images' own files, to go through them with any viewer."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tcc_fast.datasets import Dataset
from tcc_fast.datasets.escape import escape_name, unescape_name
from tcc_fast.notice import Notice

LONGEST_NAME = 255
"""Bytes of a file's name that the file systems of Linux take."""


def source_folder(dataset: Dataset, src: Path | None) -> bytes:
    """The folder that was converted, as an absolute path.

    Args:
        dataset: the packed images.
        src: where it is; None: known, where `convert --formats files` left the images in place.

    Raises:
        ValueError: there was none, or it is not given.
    """
    if dataset.manifest.name != "folder":
        raise ValueError(f"--sort is for images that were converted from a folder, and {dataset.title} was not")
    if src is not None:
        return os.path.abspath(os.fsencode(src))
    if dataset.manifest.in_place is not None:
        return os.fsencode(unescape_name(dataset.manifest.in_place))
    raise ValueError("--sort links to the images' own files: say where they are with --src FOLDER, as for convert")


def source_files(dataset: Dataset, indices: Iterable[int], folder: bytes) -> list[bytes | None]:
    """Where the files lie that the images were converted from, as absolute paths; None, with a warning, for those that
    are gone since.

    Raises:
        ValueError: most are not there.
    """
    sources = dataset.sources()
    files = [os.path.join(folder, os.fsencode(unescape_name(sources[index]))) for index in indices]
    is_there = [os.path.isfile(file) for file in files]
    missing = [file for file, there in zip(files, is_there, strict=True) if not there]
    if missing:
        shown = escape_name(os.fsdecode(missing[0]))
        if 2 * len(missing) > len(files):
            raise ValueError(f"{shown} is not there: --src must be the folder that was converted")
        warnings.warn(
            f"{len(missing)} of {len(files)} files are gone since they were converted, the first of them {shown}: "
            "there is no link to them",
            Notice,
            stacklevel=2,
        )
    return [file if there else None for file, there in zip(files, is_there, strict=True)]


def make_sort_folder(folder: Path, source: bytes) -> None:
    """Make the folder for the links, and see that links can be made in it.

    Raises:
        ValueError: something is there already, for links of two times would be mixed, and nothing is removed; or it
            lies in the source, where the images would be found twice when they are converted again.
        OSError: the folder, or a link in it, cannot be made.
    """
    if os.path.lexists(folder) and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"--sort {folder}: it is there and not an empty folder; name another, or remove it")
    real = os.path.realpath(source)
    if os.path.commonpath([real, os.fsencode(os.path.realpath(folder))]) == real:
        raise ValueError(f"--sort {folder}: it would lie among the images; name a folder outside of them")
    folder.mkdir(parents=True, exist_ok=True)
    trial = folder / "trial"
    trial.symlink_to("nowhere")
    trial.unlink()


def link_by_cluster(folder: Path, files: Iterable[tuple[bytes | None, int]], num_clusters: int) -> None:
    """Make ``folder/cluster-K/`` with a link to each of its images' files, by the file's own name.

    Where two files of a cluster have the same name, the later one's link is ``NAME (2).EXT``, and so on.

    Args:
        folder: an empty one.
        files: absolute paths, None for one that gets no link, and their clusters; -1, of one that cannot be decoded,
            gets no link.
        num_clusters: K.
    """
    digits, taken, same = len(str(num_clusters - 1)), set[bytes](), Counter[bytes]()
    for file, k in files:
        if k >= 0 and file is not None:
            place = os.fsencode(folder / f"cluster-{k:0{digits}}")
            os.makedirs(place, exist_ok=True)
            name = os.path.basename(file)
            plain = link = os.path.join(place, name)
            while link in taken:
                same[plain] += 1
                stem, extension = os.path.splitext(name)
                ending = b" (%d)%s" % (same[plain] + 1, extension[: LONGEST_NAME // 2])
                link = os.path.join(place, stem[: LONGEST_NAME - len(ending)] + ending)
            taken.add(link)
            os.symlink(file, link)
