"""stl10: the 13 000 labelled photographs of STL-10, 96x96 pixels in 10 classes: training, then test images.

The 100 000 unlabelled images are passed over, unless labels are "partial": MiCE trains on the 13 000 alone. CC, SPICE
and ProPos also train on the unlabelled ones; which of the two TCC did is not known here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from tcc_fast.datasets.archive import Members, open_members, read_whole
from tcc_fast.datasets.official import (
    Archive,
    Official,
    OfficialReader,
    check_counts,
    check_file_md5s,
    check_md5,
    find_source,
    not_it,
    reading,
)
from tcc_fast.datasets.reader import Checks, Item, LabelMode

SIDE = 96
_PIXELS = 3 * SIDE * SIDE
_BLOCK = 1 << 20
SPLITS = ("train", "test")
UNLABELLED_FILE = "unlabeled_X.bin"
NUM_UNLABELLED = 100_000
CLASSES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
MD5S = {
    "train_X.bin": "918c2871b30a85fa023e0c44e0bee87f",
    "train_y.bin": "5a34089d4802c674881badbb80307741",
    "test_X.bin": "7f263ba9f9e0b06b93213547f721ac82",
    "test_y.bin": "36f9794fa4beb8a2c72628de14fa638e",
    UNLABELLED_FILE: "5242ba1fed5e4be9e1e742405eb56ca4",
}
OFFICIAL = Official(
    name="stl10",
    title="STL-10",
    home="https://cs.stanford.edu/~acoates/stl10/",
    fetch="stl10_binary.tar.gz (2.6 GB)",
    archives=(Archive("stl10_binary.tar.gz", 2_640_397_119, "91f7769df0f17e558f3565bffb0c7dfb"),),
    folders=("stl10_binary",),
    is_extracted=lambda folder: any((folder / name).is_file() for name in MD5S),
    mistakes=(
        (r"\.mat$", "that is the MATLAB version; take the binary version"),
        (r"\.(png|jpe?g)$", "that is a copy as image files, whose labels and order are not the official ones"),
    ),
    per_class={"train": 500, "test": 800},
    about={
        "description": "STL-10, binary version: labelled training images, then test images; 96x96 pixels.",
        "licence": None,
        "citation": "A. Coates, H. Lee, A. Y. Ng: An analysis of single-layer networks in unsupervised feature "
        "learning, AISTATS 2011",
    },
)


def open_reader(src: Path | None, labels: LabelMode, checks: Checks) -> OfficialReader:
    """The labelled images, read one by one.

    Raises:
        ValueError: not this data set, incomplete or damaged.
    """
    partial = labels == "partial"
    source = find_source(OFFICIAL, src)
    with reading(OFFICIAL, source):
        members = open_members(source)
        places = {name.rpartition("/")[2]: name for name in members.names}
        if not any(name in places for name in MD5S):
            raise not_it(OFFICIAL, source, members.names)
        wanted = [name for name in MD5S if name != UNLABELLED_FILE or partial]
        missing = [name for name in wanted if name not in places]
        if missing:
            raise ValueError(f"{source}: {', '.join(missing)} is missing; {OFFICIAL.how_to_get}")
        _check_names(source, members, places)
        classes = {split: _labels(source, members, places, split) for split in SPLITS}
        unlabelled = members.size(places[UNLABELLED_FILE]) // _PIXELS if UNLABELLED_FILE in places else 0
        if source.is_file():
            verdict = check_md5(OFFICIAL, source, checks)
        else:
            verdict = check_file_md5s({name: _md5(members, places[name]) for name in wanted}, MD5S)
    counts = {split: np.bincount(found, minlength=len(CLASSES)) for split, found in classes.items()}
    known = []
    if partial and unlabelled != NUM_UNLABELLED:
        known.append(f"unlabelled: {unlabelled} of {NUM_UNLABELLED} images")
    deviations = check_counts(OFFICIAL, source, CLASSES, counts, checks, known)

    def items() -> Iterator[Item]:
        for split, found in classes.items():
            with members.open(places[f"{split}_X.bin"]) as stream:
                for index, label in enumerate(found):
                    yield Item(f"{split}_X/{index:05d}", _image(stream), int(label), split)
        if partial:
            with members.open(places[UNLABELLED_FILE]) as stream:
                for index in range(unlabelled):
                    yield Item(f"unlabeled_X/{index:05d}", _image(stream), None, "unlabelled")

    reader = OfficialReader(
        OFFICIAL,
        source,
        CLASSES,
        items,
        sum(map(len, classes.values())) + (unlabelled if partial else 0),
        deviations,
        verdict,
        checks,
        lossless=True,
        skipped={"unlabelled": unlabelled} if unlabelled and not partial else {},
    )
    if partial:
        reader.about = {**reader.about, "description": f"{reader.about['description']} Then the unlabelled images."}
    return reader


def _image(stream: IO[bytes]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The next image, (row, column, channel); the file holds (channel, column, row)."""
    data = stream.read(_PIXELS)
    if len(data) < _PIXELS:
        raise EOFError
    return np.ascontiguousarray(np.frombuffer(data, np.uint8).reshape(3, SIDE, SIDE).transpose(2, 1, 0))


def _labels(source: Path, members: Members, places: dict[str, str], split: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Labels from 0 on; the file counts from 1. The number of images must be the same."""
    labels = np.frombuffer(read_whole(members, places[f"{split}_y.bin"]), np.uint8).astype(np.int64) - 1
    beyond = np.flatnonzero((labels < 0) | (labels >= len(CLASSES)))
    if beyond.size:
        raise ValueError(
            f"{source}: {split}_y.bin: image {beyond[0]} has the label {labels[beyond[0]] + 1}, but STL-10 has 1 to "
            f"{len(CLASSES)}: the file is damaged; {OFFICIAL.how_to_get}"
        )
    size = members.size(places[f"{split}_X.bin"])
    if size != len(labels) * _PIXELS:
        raise ValueError(
            f"{source}: {split}_X.bin: has {size} bytes, which are {size / _PIXELS:.6g} images, but {split}_y.bin "
            f"has {len(labels)} labels: one of them is cut off; {OFFICIAL.how_to_get}"
        )
    return labels


def _check_names(source: Path, members: Members, places: dict[str, str]) -> None:
    if "class_names.txt" not in places:
        return
    found = tuple(read_whole(members, places["class_names.txt"]).decode("latin1").split())
    if found != CLASSES:
        raise ValueError(f"{source}: class_names.txt: lists other classes than STL-10; {OFFICIAL.how_to_get}")


def _md5(members: Members, name: str) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with members.open(name) as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
