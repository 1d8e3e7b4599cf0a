"""How hard a labelled data set of small images is, before anything is trained: what raw pixels give.

    python tools/how_hard.py data/glyphs

Two bounds to read a clustering against, both on grey pixels and all images:

- k-means with as many clusters as classes, its best of ten starts: what no feature at all gives.
- The nearest neighbour's label, where neighbours of the same origin do not count: what the labels' structure allows.
  The origin is the first part of an image's source (for glyphs: the family of the font), or with `--by word` the first
  word of that, which takes "Latin Modern Roman" and "Latin Modern Sans" for one. Where all images have one origin,
  each counts as its own.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from sklearn.cluster import KMeans

from tcc_fast.datasets import open_dataset
from tcc_fast.evaluation.metrics import score

ROWS = 500
"""Images whose distances to all others are in memory at once."""


def nearest_labels(pixels: np.ndarray, labels: np.ndarray, origins: np.ndarray) -> np.ndarray:
    """(N,) label of each image's nearest neighbour of another origin.

    `pixels` is float32 (N, D), `labels` and `origins` are whole numbers (N,) of at least two origins.
    """
    squares = (pixels**2).sum(1)
    found = np.empty_like(labels)
    for start in range(0, len(pixels), ROWS):
        rows = slice(start, start + ROWS)
        distances = squares - 2 * pixels[rows] @ pixels.T  # and the square of the row's own, the same for all
        distances[origins[rows, None] == origins] = np.inf
        found[rows] = labels[distances.argmin(1)]
    return found


def origins_of(sources: list[str], by: str) -> np.ndarray:
    """(N,) number of each image's origin; a number each where there is but one."""
    names = [source.partition("/")[0].casefold() for source in sources]
    if by == "word":
        names = [name.split()[0] if name.split() else "" for name in names]
    origins = np.unique(names, return_inverse=True)[1]
    return origins if origins.any() else np.arange(len(names))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="of k-means")
    parser.add_argument("--by", nargs="+", default=["source", "word"], choices=["source", "word"])
    options = parser.parse_args()
    dataset = open_dataset(options.data)
    labels = dataset.labels()
    if labels is None or labels.min() < 0:
        parser.error(f"{options.data}: has not a label for every image")
    grey = np.stack([dataset.decode(index).mean(2, dtype=np.float32) for index in range(len(dataset))])
    pixels = grey.reshape(len(grey), -1) / 255
    classes = len(np.unique(labels))
    print(f"{dataset.manifest.name}: {len(labels):,} images of {pixels.shape[1]} pixels in {classes} classes")
    for by in options.by:
        origins = origins_of(dataset.sources(), by)
        found = nearest_labels(pixels, labels, origins)
        print(f"nearest neighbour of another origin (by {by}: {origins.max() + 1}): {np.mean(found == labels):.4f}")
    clusters = KMeans(classes, n_init=10, random_state=options.seed).fit(pixels).labels_
    result = score(labels, clusters)
    print(f"k-means on pixels, seed {options.seed}: ACC {result['acc']:.4f} NMI {result['nmi']:.4f}")


if __name__ == "__main__":
    from plainly import plainly

    with plainly():
        main()
