"""Clusters as folders: links to the images' own files, to go through them with any viewer."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from tcc_fast.datasets import Dataset
from tcc_fast.datasets.names import escape_name, unescape_name


def source_files(dataset: Dataset, indices: Iterable[int], src: Path | None) -> list[bytes]:
    """Where the files lie that the images were converted from, as absolute paths.

    Args:
        dataset: the packed images.
        indices: of the images.
        src: the folder that was converted; None: known, where `convert --formats files` left the images in place.

    Raises:
        ValueError: the folder is not given, or a file is not in it.
    """
    root = src or dataset.manifest.in_place
    if root is None:
        raise ValueError("--sort links to the images' own files: say where they are with --src FOLDER, as for convert")
    folder = os.path.abspath(os.fsencode(root if src else unescape_name(str(root))))
    sources = dataset.sources()
    files = [os.path.join(folder, os.fsencode(unescape_name(sources[index]))) for index in indices]
    for file in files:
        if not os.path.isfile(file):
            raise ValueError(
                f"{escape_name(os.fsdecode(file))} is not there: --src must be the folder that was converted, and the "
                "data set one of a folder of images"
            )
    return files


def check_sort_folder(folder: Path) -> None:
    """Raise ValueError unless there is nothing in it: links of two times would be mixed, and nothing is removed."""
    if os.path.lexists(folder) and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"--sort {folder}: it is there and not an empty folder; name another, or remove it")


def link_by_cluster(
    folder: Path, files: list[bytes], sources: list[str], cluster: list[int], num_clusters: int
) -> None:
    """Make ``folder/cluster-K/`` with a link to each of its images' files, below the folders that the image lies in.

    Args:
        folder: to be made, or empty.
        files: absolute paths.
        sources: the images' names within what was converted, escaped.
        cluster: of each; -1, for one that cannot be decoded, gets no link.
        num_clusters: K.
    """
    digits = len(str(num_clusters - 1))
    for file, source, k in zip(files, sources, cluster, strict=True):
        if k >= 0:
            link = os.path.join(os.fsencode(folder / f"cluster-{k:0{digits}}"), os.fsencode(unescape_name(source)))
            os.makedirs(os.path.dirname(link), exist_ok=True)
            os.symlink(file, link)
