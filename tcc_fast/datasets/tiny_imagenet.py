"""tiny-imagenet: the 100 000 training images of Tiny-ImageNet, 64x64 pixels in 200 classes.

The images are JPEGs of the final size already and keep their bytes. Order: by synset, then by file name.
"""

from __future__ import annotations

import os
import re
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tcc_fast.datasets.archive import FolderMembers, ZipMembers, read_whole
from tcc_fast.datasets.official import (
    Archive,
    Official,
    OfficialReader,
    check_counts,
    check_md5,
    find_source,
    not_it,
    reading,
)
from tcc_fast.datasets.reader import Checks, Item, LabelMode

CLASSES = 200
_IMAGE = re.compile(r"train/(n\d{8})/(?:images/)?([^/]+\.jpe?g)", re.IGNORECASE)
OFFICIAL = Official(
    name="tiny-imagenet",
    title="Tiny-ImageNet",
    home="http://cs231n.stanford.edu/",
    fetch="tiny-imagenet-200.zip (248 MB)",
    archives=(Archive("tiny-imagenet-200.zip", 248_100_043, "90528d7ca1a48142e341f4ef8d21d0de"),),
    folders=("tiny-imagenet-200",),
    is_extracted=lambda folder: (folder / "wnids.txt").is_file() or (folder / "train").is_dir(),
    mistakes=(
        (r"(^|/)n\d{8}\.tar$", "those are the full-size ImageNet images; this data set is tiny-imagenet-200.zip"),
        (r"(^|/)(train|val)_data_batch", "that is a downsampled ImageNet of 1 000 classes, another data set"),
        (r"(^|/)val_annotations\.txt$", "that is the validation part alone; the training images are in train/"),
    ),
    per_class={"train": 500},
    about={
        "description": "Tiny-ImageNet: training images of 200 synsets; 64x64 pixels.",
        "licence": "ImageNet terms of access: non-commercial research and education",
        "citation": "Y. Le, X. Yang: Tiny ImageNet visual recognition challenge, CS 231N, Stanford, 2015",
    },
)


def open_reader(src: Path | None, labels: LabelMode, checks: Checks) -> OfficialReader:
    """The training images.

    Raises:
        ValueError: not this data set, incomplete or damaged.
    """
    source = find_source(OFFICIAL, src)
    with reading(OFFICIAL, source):
        members = _open(source)
        lists = [name for name in members.names if name.rpartition("/")[2] == "wnids.txt"]
        if not lists:
            raise _without_list(source, members.names)
        root = lists[0].removesuffix("wnids.txt")
        synsets = sorted(_synsets(source, read_whole(members, lists[0]).decode("latin1")))
        words = root + "words.txt"
        english = _english(read_whole(members, words).decode("latin1")) if words in members.names else {}
        found = _images(members.names, root, synsets)
        verdict = (
            check_md5(OFFICIAL, source, checks)
            if source.is_file()
            else "MD5 not compared: none is published for the files"
        )
    names = [f"{synset} {english[synset]}" if synset in english else synset for synset in synsets]
    counts = {"train": np.array([len(found[synset]) for synset in synsets], dtype=np.int64)}
    short = [f"wnids.txt lists {len(synsets)} of {CLASSES} synsets"] if len(synsets) != CLASSES else []
    deviations = check_counts(OFFICIAL, source, names, counts, checks, short)

    def items() -> Iterator[Item]:
        for label, synset in enumerate(synsets):
            for name in found[synset]:
                yield Item(f"{synset}/{name.rpartition('/')[2]}", members.payload(name), label, "train")

    return OfficialReader(OFFICIAL, source, names, items, int(counts["train"].sum()), deviations, verdict, checks)


def _open(source: Path) -> FolderMembers | ZipMembers:
    if source.is_dir():
        return FolderMembers(source, deep=True)
    if not zipfile.is_zipfile(source) and tarfile.is_tarfile(source):
        raise ValueError(f"{source}: is a tar, but Tiny-ImageNet comes as a zip: unpack it and name the folder")
    return ZipMembers(source)


def _without_list(source: Path, names: list[str]) -> ValueError:
    if any(_IMAGE.search(name) for name in names):
        return ValueError(
            f"{source}: wnids.txt is missing, which lists the {CLASSES} synsets of Tiny-ImageNet; {OFFICIAL.how_to_get}"
        )
    return not_it(OFFICIAL, source, names)


def _synsets(source: Path, text: str) -> list[str]:
    synsets = text.split()
    strange = [line for line in synsets if not re.fullmatch(r"n\d{8}", line)]
    if strange or len(set(synsets)) != len(synsets) or not synsets:
        raise ValueError(f"{source}: wnids.txt: is no list of synsets, one a line; {OFFICIAL.how_to_get}")
    return synsets


def _english(text: str) -> dict[str, str]:
    """Synset -> first of its English names, from lines such as ``n02124075<tab>Egyptian cat``."""
    pairs = (line.partition("\t") for line in text.splitlines())
    return {synset: names.partition(",")[0].strip() for synset, _, names in pairs if names.strip()}


def _images(names: list[str], root: str, synsets: list[str]) -> dict[str, list[str]]:
    """Members of each synset, sorted by the bytes of the file name."""
    found: dict[str, list[str]] = {synset: [] for synset in synsets}
    for name in names:
        match = _IMAGE.fullmatch(name, len(root)) if name.startswith(root) else None
        if match and match[1] in found:
            found[match[1]].append(name)
    for images in found.values():
        images.sort(key=lambda name: os.fsencode(name.rpartition("/")[2]))
    return found
