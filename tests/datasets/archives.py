"""Writes small archives in the exact official layouts of the paper's data sets, with generated images."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tcc_fast.datasets.cifar import CifarFiles
from tcc_fast.datasets.cifar10 import LAYOUT as CIFAR10
from tcc_fast.datasets.cifar100_20 import LAYOUT as CIFAR100
from tcc_fast.datasets.stl10 import CLASSES as STL10_CLASSES
from tests.datasets.conftest import encoded, smooth

Files = dict[str, bytes]

# Archives.


def write_tar(path: Path, files: Mapping[str, bytes], mode: Any = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def write_tar_gz(path: Path, files: Mapping[str, bytes]) -> Path:
    return write_tar(path, files, "w:gz")


def write_zip(path: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def write_folder(path: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


# CIFAR. Python 2's pickles are written by hand: Python 3 cannot make them.


def _old_text(data: bytes) -> bytes:
    return (b"U" + struct.pack("<B", len(data)) if len(data) < 256 else b"T" + struct.pack("<i", len(data))) + data


def _number(value: int) -> bytes:
    return b"K" + struct.pack("<B", value) if 0 <= value < 256 else b"J" + struct.pack("<i", value)


def _list(parts: Iterable[bytes]) -> bytes:
    return b"](" + b"".join(parts) + b"e"


def _array(images: np.ndarray) -> bytes:
    dtype = b"cnumpy\ndtype\n(" + _old_text(b"u1") + _number(0) + _number(1) + b"tR"
    dtype += b"(" + _number(3) + _old_text(b"|") + b"NNN" + _number(-1) + _number(-1) + _number(0) + b"tb"
    start = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n" + _number(0) + b"\x85" + _old_text(b"b") + b"tR"
    shape = b"(" + _number(images.shape[0]) + _number(images.shape[1]) + b"t"
    return start + b"(" + _number(1) + shape + dtype + b"\x89" + _old_text(images.tobytes()) + b"tb"


def python2_pickle(entries: Mapping[str, bytes]) -> bytes:
    """Protocol 2; `entries` holds values that are written already."""
    pairs = b"".join(_old_text(key.encode()) + value for key, value in entries.items())
    return b"\x80\x02}(" + pairs + b"u."


class Cifar:
    """Images and labels of a small CIFAR: `per_batch` images in each batch, classes in turn."""

    def __init__(self, layout: CifarFiles, per_batch: int = 40, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.layout = layout
        classes = len(layout.class_names)
        self.images = {name: rng.integers(0, 256, (per_batch, 3072), dtype=np.uint8) for name in layout.batches}
        self.labels = {name: rng.permutation(per_batch) % classes for name in layout.batches}

    def pixels(self) -> np.ndarray:
        """(N, 32, 32, 3), in the order of the converted set."""
        return np.concatenate(list(self.images.values())).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)

    def all_labels(self) -> list[int]:
        return [int(label) for labels in self.labels.values() for label in labels]

    def python(self) -> Files:
        """Files of the python version, in the order of the official archive."""
        coarse = self.layout.key == "coarse_labels"
        files: Files = {}
        for name, images in self.images.items():
            labels = [_number(int(label)) for label in self.labels[name]]
            entries = {
                "filenames": _list(_old_text(b"leptodactylus_s_%06d.png" % i) for i in range(len(images))),
                "batch_label": _old_text(b"training batch 1 of 5"),
                self.layout.key: _list(labels),
                "data": _array(images),
            }
            if coarse:
                entries["fine_labels"] = _list(_number(99 - i % 100) for i in range(len(images)))
            files[name] = python2_pickle(entries)
        names = _list(_old_text(name.encode()) for name in self.layout.class_names)
        meta, key, _ = self.layout.meta
        files[meta] = python2_pickle({"num_vis": _number(3072), key: names})
        order = ["data_batch_4", "test_batch", "data_batch_3", "batches.meta", "data_batch_2", "data_batch_5"]
        folder = self.layout.official.folders[0]
        ordered = sorted(files, key=lambda name: order.index(name) if name in order else len(order))
        return {f"{folder}/{name}": files[name] for name in ordered}

    def binary(self) -> Files:
        files: Files = {}
        for name, images in self.images.items():
            labels = self.labels[name].astype(np.uint8)[:, None]
            fine = [np.full_like(labels, 99)] if self.layout.label_bytes == 2 else []
            files[f"{name}.bin"] = np.concatenate([labels, *fine, images], axis=1).tobytes()
        files[self.layout.meta[2]] = "\n".join((*self.layout.class_names, "")).encode()
        return {f"{self.layout.official.folders[1]}/{name}": data for name, data in files.items()}


# STL-10.


class Stl10:
    """`train` and `test` labelled images, and a few without label."""

    def __init__(self, train: int = 20, test: int = 30, unlabelled: int = 3, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        sizes = {"train": train, "test": test}
        self.images = {key: rng.integers(0, 256, (n, 96, 96, 3), dtype=np.uint8) for key, n in sizes.items()}
        self.labels = {key: rng.permutation(n) % 10 for key, n in sizes.items()}
        self.unlabelled = rng.integers(0, 256, (unlabelled, 96, 96, 3), dtype=np.uint8)

    def pixels(self) -> np.ndarray:
        return np.concatenate([self.images["train"], self.images["test"]])

    def all_labels(self) -> list[int]:
        return [int(label) for key in ("train", "test") for label in self.labels[key]]

    def files(self) -> Files:
        files: Files = {}
        for key in ("test", "train"):
            # Channel by channel, each column by column.
            files[f"{key}_X.bin"] = self.images[key].transpose(0, 3, 2, 1).tobytes()
            files[f"{key}_y.bin"] = (self.labels[key] + 1).astype(np.uint8).tobytes()
        files["unlabeled_X.bin"] = self.unlabelled.transpose(0, 3, 2, 1).tobytes()
        files["class_names.txt"] = ("\n".join(STL10_CLASSES) + "\n").encode()
        files["fold_indices.txt"] = b"0 1 2\n"
        return {f"stl10_binary/{name}": data for name, data in files.items()}


# ImageNet.


def photos_of(synsets: Iterable[str], each: int = 3, size: tuple[int, int] = (150, 130)) -> dict[str, Files]:
    """synset -> file name -> JPEG, in the order of the official tars."""
    found: dict[str, Files] = {}
    for row, synset in enumerate(synsets):
        names = sorted(f"{synset}_{10 ** (1 + i % 3) + i}.JPEG" for i in range(each))
        found[synset] = {name: encoded(smooth(*size, seed=100 * row + i), "JPEG") for i, name in enumerate(names)}
    return found


def tar_bytes(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def synset_tars(photos: Mapping[str, Files]) -> Files:
    return {f"{synset}.tar": tar_bytes(files) for synset, files in photos.items()}


def synset_tree(photos: Mapping[str, Files]) -> Files:
    return {f"{synset}/{name}": data for synset, files in photos.items() for name, data in files.items()}


# Tiny-ImageNet.


class TinyImageNet:
    """`classes` synsets with `each` images of 64x64 pixels."""

    def __init__(self, classes: int = 5, each: int = 12) -> None:
        self.synsets = [f"n0{1443537 + 7 * ((i * 7) % classes)}" for i in range(classes)]
        self.images = {
            f"train/{synset}/images/{synset}_{i}.JPEG": self._image(row, i)
            for row, synset in enumerate(self.synsets)
            for i in range(each)
        }

    @staticmethod
    def _image(row: int, index: int) -> bytes:
        image = smooth(64, 64, seed=1000 * row + index)
        return encoded(image.convert("L") if index == 1 else image, "JPEG")  # a few official ones are grey

    def files(self) -> Files:
        files: Files = {f"{synset}/{synset}_boxes.txt": b"0 0 62 62\n" for synset in self.synsets}
        files = {f"train/{name}": data for name, data in files.items()} | self.images
        files["wnids.txt"] = "\n".join(self.synsets).encode()
        words = [f"{synset}\tthing {row}, second name" for row, synset in enumerate(self.synsets)]
        files["words.txt"] = "\n".join(["n00001740\tentity", *words]).encode()
        files["val/images/val_0.JPEG"] = self._image(9, 9)
        files["val/val_annotations.txt"] = b"val_0.JPEG\tn01443537\t0\t32\t44\t62\n"
        files["test/images/test_0.JPEG"] = self._image(9, 8)
        return {f"tiny-imagenet-200/{name}": data for name, data in files.items()}


def decode_jpeg(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def cifar10(**options: Any) -> Cifar:
    return Cifar(CIFAR10, **options)


def cifar100(**options: Any) -> Cifar:
    return Cifar(CIFAR100, **options)


def without(files: Mapping[str, bytes], names: Sequence[str]) -> Files:
    return {name: data for name, data in files.items() if name.rpartition("/")[2] not in names}
