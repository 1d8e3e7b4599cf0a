"""What the subsets of ImageNet share: chosen synsets of the ILSVRC2012 training images.

The source is `ILSVRC2012_img_train.tar` (a tar of one tar per synset), a folder of per-synset tars, or an
extracted ``train/nXXXXXXXX/`` tree. The tars are not unpacked: their headers are listed, and only the images
wanted are read, 2 of 148 GB. All forms give the same items in the same order: by synset, then by file name.
"""

from __future__ import annotations

import dataclasses
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tcc_fast.datasets.archive import ZipMembers, tar_parts
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
from tcc_fast.datasets.reader import Checks, FilePart, Item

DEFAULT_SHORT_SIDE = 112
"""1.15 times the field's 96 pixels, rounded up to a multiple of 16."""
TRAIN = Archive("ILSVRC2012_img_train.tar", 147_897_477_120, "1d675b47d978889d74fa0da5fadfb00e")
FOLDERS = (
    "train",
    "ILSVRC2012_img_train",
    "ILSVRC/Data/CLS-LOC/train",
    "Data/CLS-LOC/train",
    "CLS-LOC/train",
)
_GIVE_UP = 2000
"""Names of a tar without synset tars that are looked at before it is called another one."""
_OTHERS = (
    (
        r"(^|/)n\d{8}-\w",
        "that is the Stanford Dogs archive (120 breeds, 20 580 images), which is not what the field calls "
        "ImageNet-Dogs: that is 15 synsets of the ImageNet training images, 19 500 in all. Get "
        "ILSVRC2012_img_train.tar from https://image-net.org (free, with registration)",
    ),
    (
        r"(^|/)wnids\.txt$|(^|/)n\d{8}/(images|n\d{8}_boxes\.txt)",
        "that is Tiny-ImageNet, 64 pixels wide; this data set needs the full-size images: get "
        "ILSVRC2012_img_train.tar from https://image-net.org (free, with registration)",
    ),
    (
        r"ILSVRC2012_(val|test)_\d{8}\.JPEG$",
        "those are the validation or test images; the field uses the training images, ILSVRC2012_img_train.tar",
    ),
    (
        r"ILSVRC2012_devkit|(^|/)meta\.mat$",
        "that is the development kit, without images; get ILSVRC2012_img_train.tar from the same page",
    ),
    (
        r"(^|/)(train_data_batch_\d+|Imagenet\d+_train)",
        "that is a downsampled ImageNet; this data set needs the full-size images, ILSVRC2012_img_train.tar",
    ),
    (
        r"^(n\d{8})_\d+\.JPEG$",
        "that is the tar of a single synset; name the folder that holds the tars of all of them",
    ),
)
Image = tuple[str, Path | FilePart]


def official(name: str, title: str, synsets: Mapping[str, str]) -> Official:
    """The subset of these synsets: id -> English name."""

    def is_extracted(folder: Path) -> bool:
        return any((folder / synset).is_dir() or (folder / f"{synset}.tar").is_file() for synset in synsets)

    return Official(
        name=name,
        title=title,
        home="https://image-net.org/download",
        fetch=f"{TRAIN.name} (148 GB; free, with registration) or the tars of the {len(synsets)} synsets "
        f"({next(iter(synsets))}.tar and so on)",
        archives=(TRAIN,),
        folders=FOLDERS,
        is_extracted=is_extracted,
        mistakes=(*_OTHERS, (r"(^|/)n\d{8}(\.tar)?$", f"but needed are the synsets {', '.join(sorted(synsets))}")),
        per_class={"train": 1300},
        about={
            "description": f"{title}: training images of ILSVRC2012, synsets {' '.join(sorted(synsets))}.",
            "licence": "ImageNet terms of access: non-commercial research and education",
            "citation": "O. Russakovsky et al.: ImageNet large scale visual recognition challenge, IJCV 115, 2015; "
            "subset: J. Chang et al.: Deep adaptive image clustering, ICCV 2017",
        },
    )


def open_ilsvrc(official: Official, synsets: Mapping[str, str], src: Path | None, checks: Checks) -> OfficialReader:
    """The images of the synsets.

    Raises:
        ValueError: not the training images, incomplete or damaged.
    """
    source = find_source(official, src)
    wanted = sorted(synsets)
    names = [f"{synset} {synsets[synset]}" for synset in wanted]
    with reading(official, source):
        if source.is_dir():
            found = {synset: _in_folder(official, source, synset) for synset in wanted}
        else:
            found = _in_tar(official, source, wanted)
    counts = {"train": np.array([len(found[synset]) for synset in wanted], dtype=np.int64)}
    deviations = check_counts(official, source, names, counts, checks)
    if source.is_dir():
        verdict = "MD5 not compared: none is published for the files of a synset"
    else:
        verdict = check_md5(official, source, checks)

    def items() -> Iterator[Item]:
        for label, synset in enumerate(wanted):
            for name, payload in found[synset]:
                yield Item(f"{synset}/{name}", payload, label, "train")

    total = int(counts["train"].sum())
    return OfficialReader(
        official, source, names, items, total, deviations, verdict, checks, default_short_side=DEFAULT_SHORT_SIDE
    )


def _in_tar(official: Official, path: Path, wanted: list[str]) -> dict[str, list[Image]]:
    """Images of each synset in the tar of tars."""
    if zipfile.is_zipfile(path):
        raise not_it(official, path, ZipMembers(path).names)
    with open(path, "rb") as file:
        if file.read(2) == b"\x1f\x8b":
            raise ValueError(f"{path}: is compressed, but the images are read from its middle; run gunzip on it first")
    found: dict[str, list[Image]] = {synset: [] for synset in wanted}
    seen: list[str] = []
    is_it = False
    for name, part in tar_parts(path):
        synset, end = os.path.splitext(name.rpartition("/")[2])
        if end == ".tar" and re.fullmatch(r"n\d{8}", synset):
            is_it = True
            if synset in found:
                found[synset] = _sorted(tar_parts(part.path, part.offset, part.length))
        elif len(seen) < _GIVE_UP:
            seen.append(name)
        elif not is_it:
            break
    if not is_it:
        raise not_it(official, path, seen)
    return found


def _in_folder(official: Official, folder: Path, synset: str) -> list[Image]:
    """Images of one synset, from its tar or its folder; none if there is neither."""
    tar, tree = folder / f"{synset}.tar", folder / synset
    if tar.is_file():
        with reading(_without_size(official), tar):
            return _sorted(tar_parts(tar))
    if not tree.is_dir():
        return []
    entries = [entry for entry in os.scandir(tree) if not entry.name.startswith(".")]
    strange = [f"{synset}/{entry.name}" for entry in entries if entry.is_dir()]
    if strange:
        raise not_it(official, folder, strange)
    return _sorted((entry.name, Path(entry.path)) for entry in entries if entry.is_file())


def _sorted(images: Iterator[tuple[str, Any]]) -> list[Image]:
    plain = ((name.rpartition("/")[2], payload) for name, payload in images)
    return sorted((p for p in plain if not p[0].startswith(".")), key=lambda pair: os.fsencode(pair[0]))


def _without_size(official: Official) -> Official:
    """The same, for messages about one synset's tar, whose official size is not published."""
    return dataclasses.replace(official, archives=())
