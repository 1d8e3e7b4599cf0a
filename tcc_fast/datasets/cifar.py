"""What CIFAR-10 and CIFAR-100 share: their python and binary versions, packed or extracted."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tcc_fast.datasets import cifar_pickle
from tcc_fast.datasets.archive import Members, open_members, read_whole
from tcc_fast.datasets.official import (
    Official,
    OfficialReader,
    check_counts,
    check_file_md5s,
    check_md5,
    find_source,
    not_it,
    reading,
)
from tcc_fast.datasets.reader import Checks, Item

HOME = "https://www.cs.toronto.edu/~kriz/cifar.html"
SIDE = 32
_PIXELS = 3 * SIDE * SIDE
MATLAB = (r"\.mat$", "that is the MATLAB version; take the python or the binary version")


@dataclass(frozen=True)
class CifarFiles:
    """The files of one CIFAR.

    Attributes:
        official: what is known of it.
        class_names: in label order.
        batches: file name of the python version -> split, in order; the binary ones end in ``.bin``.
        key: where the labels are in the python version.
        label_bytes: label bytes before each image of the binary version; ours is the first.
        meta: file with class names: python name, key in it, binary name.
        md5s: file name of the python version -> published MD5.
    """

    official: Official
    class_names: tuple[str, ...]
    batches: Mapping[str, str]
    key: str
    label_bytes: int
    meta: tuple[str, str, str]
    md5s: Mapping[str, str]


@dataclass(frozen=True)
class _Batch:
    name: str
    split: str
    images: np.ndarray[Any, np.dtype[np.uint8]]  # (N, 3072): planes of red, green, blue, each row by row
    labels: np.ndarray[Any, np.dtype[np.int64]]  # (N,)


def open_cifar(layout: CifarFiles, src: Path | None, checks: Checks) -> OfficialReader:
    """All batches, training before test, in memory: 184 MB.

    Raises:
        ValueError: not this data set, incomplete, damaged, or dangerous.
    """
    official = layout.official
    source = find_source(official, src)
    with reading(official, source):
        batches, md5s = _read(layout, source, open_members(source))
        if source.is_file():
            verdict = check_md5(official, source, checks)
        else:
            verdict = check_file_md5s(md5s, layout.md5s if set(md5s) <= set(layout.batches) else {})
    classes = len(layout.class_names)
    empty = np.zeros(classes, dtype=np.int64)
    counts = {split: empty.copy() for split in official.per_class}
    for batch in batches:
        counts[batch.split] += np.bincount(batch.labels, minlength=classes)
    here = {batch.name for batch in batches}
    absent = [f"{name} is missing" for name in layout.batches if name not in here]
    deviations = check_counts(official, source, layout.class_names, counts, checks, absent)

    def items() -> Iterator[Item]:
        for batch in batches:
            planes = batch.images.reshape(-1, 3, SIDE, SIDE)
            for index, (plane, label) in enumerate(zip(planes, batch.labels, strict=True)):
                image = np.ascontiguousarray(plane.transpose(1, 2, 0))
                yield Item(f"{batch.name}/{index:05d}", image, int(label), batch.split)

    total = sum(len(batch.labels) for batch in batches)
    return OfficialReader(
        official, source, layout.class_names, items, total, deviations, verdict, checks, lossless=True
    )


def _read(layout: CifarFiles, source: Path, members: Members) -> tuple[list[_Batch], dict[str, str]]:
    """The batches that are there, and the MD5 of each file read."""
    places = {name.rpartition("/")[2]: name for name in members.names}
    suffix = "" if any(name in places for name in layout.batches) else ".bin"
    here = {name: split for name, split in layout.batches.items() if name + suffix in places}
    if not here:
        raise not_it(layout.official, source, members.names)
    _check_names(layout, source, members, places)
    batches, md5s = [], {}
    for name, split in here.items():
        data = read_whole(members, places[name + suffix])
        md5s[name + suffix] = hashlib.md5(data, usedforsecurity=False).hexdigest()
        read = _from_binary if suffix else _from_pickle
        images, labels = read(layout, f"{source}: {name}{suffix}", data)
        if len(labels) != len(images):
            raise ValueError(f"{source}: {name}{suffix}: has {len(images)} images, but {len(labels)} labels")
        beyond = np.flatnonzero(labels >= len(layout.class_names))
        if beyond.size:
            raise ValueError(
                f"{source}: {name}{suffix}: image {beyond[0]} has the label {labels[beyond[0]]}, but "
                f"{layout.official.title} has {len(layout.class_names)} classes: damaged, or another data set; "
                f"{layout.official.how_to_get}"
            )
        batches.append(_Batch(name, split, images, labels))
    return batches, md5s


def _from_binary(layout: CifarFiles, where: str, data: bytes) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    record = layout.label_bytes + _PIXELS
    if len(data) % record:
        raise ValueError(
            f"{where}: has {len(data)} bytes, no multiple of the {record} of one image, so it is cut off or another "
            f"data set; {layout.official.how_to_get}"
        )
    table = np.frombuffer(data, np.uint8).reshape(-1, record)
    return table[:, layout.label_bytes :], table[:, 0].astype(np.int64)


def _from_pickle(layout: CifarFiles, where: str, data: bytes) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    content = _load(layout, where, data)
    try:
        return cifar_pickle.pixels(content), cifar_pickle.numbers(content, layout.key)
    except cifar_pickle.NotCifar as error:
        raise _odd(layout, where, error) from None


def _check_names(layout: CifarFiles, source: Path, members: Members, places: Mapping[str, str]) -> None:
    """Check that class names, if the files bring any, are ours in our order, or labels would mean something else."""
    python, key, binary = layout.meta
    name = python if python in places else binary
    if name not in places:
        return
    data = read_whole(members, places[name])
    if name == python:
        found = cifar_pickle.names(_load(layout, f"{source}: {name}", data), key)
    else:
        found = data.decode("latin1").split()
    if found != list(layout.class_names):
        raise ValueError(
            f"{source}: {name}: lists other classes than {layout.official.title}; {layout.official.how_to_get}"
        )


def _load(layout: CifarFiles, where: str, data: bytes) -> dict[str, Any]:
    try:
        return cifar_pickle.load_dict(data)
    except cifar_pickle.UnsafePickle as error:
        raise ValueError(
            f"{where}: asks for {str(error)!r} when opened, which no official file does, so it may be meant to harm "
            f"you; nothing was run. Delete it, and {layout.official.how_to_get}"
        ) from None
    except cifar_pickle.NotCifar as error:
        raise _odd(layout, where, error) from None


def _odd(layout: CifarFiles, where: str, error: Exception) -> ValueError:
    return ValueError(
        f"{where}: is damaged or no file of {layout.official.title} ({error}); {layout.official.how_to_get}"
    )
