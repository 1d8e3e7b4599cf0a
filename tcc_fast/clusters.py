"""What a user does with clusters: a table of which picture is in which, sheets to look at, features to search in."""

from __future__ import annotations

import csv
from pathlib import Path

from PIL import Image, ImageOps
from safetensors.torch import save_file
from torch import Tensor

from tcc_fast.datasets import Dataset
from tcc_fast.distributed import rank
from tcc_fast.trained import open_trained

COLUMNS = ROWS = 10
"""Of a contact sheet."""
THUMBNAIL, GAP = 64, 4
"""Pixels."""


def assign(
    ckpt: str | Path,
    table: Path,
    data: Path | None = None,
    sheets: Path | None = None,
    features: Path | None = None,
    split: str = "all",
) -> list[int]:
    """Cluster pictures by argmax of π and write down what came of it; a matter of all ranks, of which one writes.

    Args:
        ckpt: a run, a checkpoint folder, or `latest`.
        table: CSV file: index, source (the picture's file within what was converted), cluster, confidence (its π).
        data: the data set folder, also one that was not trained on; None: the one that was.
        sheets: folder that gets a PNG for every cluster that has pictures, see :func:`contact_sheet`.
        features: safetensors file: ``features`` f (n, d) and ``assignment`` π (n, K), float32, in the table's order.
        split: one of the manifest's splits.

    Returns:
        Pictures of each cluster.

    Raises:
        ValueError: no such checkpoint, data set or split, or a damaged one.
    """
    trained = open_trained(ckpt, data, split)
    f, pi = trained.embed()
    confidence, cluster = pi.max(dim=1)
    if rank() == 0:
        write_table(table, trained.dataset, trained.indices, cluster, confidence)
        if features is not None:
            save_file({"features": f, "assignment": pi}, features)
        if sheets is not None:
            sheets.mkdir(parents=True, exist_ok=True)
            for k in range(pi.shape[1]):
                members = (cluster == k).nonzero().flatten()
                if len(members):
                    order = members[confidence[members].argsort(descending=True, stable=True)]
                    indices = [trained.indices[i] for i in order.tolist()]
                    contact_sheet(trained.dataset, indices).save(
                        sheets / f"cluster-{k:0{len(str(pi.shape[1] - 1))}}.png"
                    )
    return cluster.bincount(minlength=pi.shape[1]).tolist()


def write_table(file: Path, dataset: Dataset, indices: range, cluster: Tensor, confidence: Tensor) -> None:
    """Write a row for each picture, in the order of the data set."""
    sources = dataset.sources()
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["index", "source", "cluster", "confidence"])
        for index, k, p in zip(indices, cluster.tolist(), confidence.tolist(), strict=True):
            writer.writerow([index, sources[index], k, f"{p:.4f}"])


def contact_sheet(dataset: Dataset, indices: list[int]) -> Image.Image:
    """Thumbnails of at most `ROWS` × `COLUMNS` of these pictures, evenly spread over them, row by row.

    Given in order of confidence, the surest are at the top and the most doubtful at the bottom. One that cannot be
    decoded stays blank, as it was black to the model.
    """
    count = min(len(indices), ROWS * COLUMNS)
    rows, step = -(-count // COLUMNS), THUMBNAIL + GAP
    sheet = Image.new("RGB", (COLUMNS * step + GAP, rows * step + GAP), "white")
    for place in range(count):
        try:
            picture = Image.fromarray(dataset.decode(indices[place * len(indices) // count]))
        except ValueError:
            continue
        fitted = ImageOps.pad(picture, (THUMBNAIL, THUMBNAIL), color="white")
        sheet.paste(fitted, (GAP + place % COLUMNS * step, GAP + place // COLUMNS * step))
    return sheet
