"""How well a trained model tells images unlike those it was trained on, by what it says of them.

    python tools/novelty.py runs/a runs/b --others data/glyphs data/digits

Prints a table: for each other data set, the area under the ROC curve by which each quantity tells its images from those
that were trained on (0.5: not at all), as a mean over the runs, and of each run.

- `confidence`: the largest π.
- `nearest`: cosine of an image's features to those of the nearest image that was trained on, other than itself.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from tcc_fast.evaluation.trained import open_trained

QUANTITIES = ("confidence", "nearest")


def nearness(known: Tensor, other: Tensor | None = None) -> np.ndarray:
    """(n,) cosine to the nearest of the ``known`` features, (N, d), of others, or of each of them to another one."""
    neighbours = NearestNeighbors(n_neighbors=1, metric="cosine").fit(known.numpy())
    distances, _ = neighbours.kneighbors(None if other is None else other.numpy())
    return 1.0 - distances[:, 0]


def areas(run: Path, others: list[Path]) -> np.ndarray:
    """(len(others), len(QUANTITIES)) areas under the curve of one run."""
    known, assignment = open_trained(run).embed()
    own = (assignment.amax(dim=1).numpy(), nearness(known))
    found = []
    for data in others:
        features, assignment = open_trained(run, data).embed()
        theirs = (assignment.amax(dim=1).numpy(), nearness(known, features))
        is_known = np.repeat([True, False], [len(known), len(features)])
        found.append([roc_auc_score(is_known, np.concatenate(pair)) for pair in zip(own, theirs, strict=True)])
    return np.array(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--others", type=Path, nargs="+", required=True, help="data sets of unlike images")
    options = parser.parse_args()
    found = np.stack([areas(run, options.others) for run in options.runs])
    print(f"| unlike images | {' | '.join(QUANTITIES)} |\n| --- |{' --- |' * len(QUANTITIES)}")
    for place, data in enumerate(options.others):
        cells = [
            f"{found[:, place, q].mean():.3f} ({' '.join(f'{area:.3f}' for area in found[:, place, q])})"
            for q in range(len(QUANTITIES))
        ]
        print(f"| {data.name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    from plainly import plainly

    with plainly():
        main()
