"""What a user does with clusters: a table of which image is in which, sheets, sorted folders, features to search in."""

from __future__ import annotations

import csv
import io
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image, ImageOps
from safetensors import SafetensorError
from torch import Tensor

from tcc_fast.cores import default_workers
from tcc_fast.datasets import Dataset
from tcc_fast.distributed import decide, rank
from tcc_fast.evaluation.sort import link_by_cluster, make_sort_folder, source_files, source_folder
from tcc_fast.evaluation.trained import Trained, open_trained, undecodable
from tcc_fast.pipelines.damage import Damage
from tcc_fast.runs.tensor_file import save_tensors
from tcc_fast.whole_file import write_whole

COLUMNS = ROWS = 10
"""Of a contact sheet."""
SHEET = r"cluster-\d+\.png"
"""Names of sheets."""
THUMBNAIL, GAP = 64, 4
"""Pixels."""


def write_clusters(
    ckpt: str | Path,
    table: Path,
    data: Path | None = None,
    sheets: Path | None = None,
    features: Path | None = None,
    split: str = "all",
    sort: Path | None = None,
    src: Path | None = None,
) -> list[int]:
    """Cluster images by argmax of π and write down what came of it; a matter of all ranks, of which one writes.

    Args:
        ckpt: a run, a checkpoint folder, or `latest`.
        table: CSV file, see :func:`_write_table`; ``-``: standard output.
        data: the data set folder, also one that was not trained on; None: the one that was.
        sheets: folder that gets a PNG for every cluster that has images, see :func:`contact_sheet`; those of an
            earlier call go.
        features: safetensors file: ``features`` f (n, d) and ``assignment`` π (n, K), float32, in the table's order.
        split: one of the manifest's splits.
        sort: folder to make, with links to the images' own files in a folder for each cluster, by confidence.
        src: with ``sort``: the folder that was converted, where the files are.

    Returns:
        Images of each cluster, without those that cannot be decoded.

    Raises:
        ValueError: no such checkpoint, data set or split, or a damaged one; or the features cannot be written, or the
            files to link to are not there.
        OSError: the table, a sheet or a link cannot be written.
    """
    trained = open_trained(ckpt, data, split)
    files: list[bytes | None] = []
    if sort is not None:  # what is missing is said before the work
        decide(lambda: files.extend(_files_to_sort(trained, sort, src)))
    damage = Damage(trained.dataset)
    f, pi = trained.embed(damage=damage)
    confidence, cluster = pi.max(dim=1)
    cluster[undecodable(trained, damage)] = -1
    num_clusters = pi.shape[1]
    if rank() == 0:
        _write_table(table, trained, cluster, confidence)
        if features is not None:
            try:
                save_tensors({"features": f, "assignment": pi}, features)
            except SafetensorError as error:
                raise ValueError(f"{features} cannot be written ({error})") from None
        if sheets is not None:
            _write_sheets(sheets, trained, cluster, confidence, num_clusters)
        if sort is not None:
            by_confidence = confidence.argsort(descending=True, stable=True).tolist()
            link_by_cluster(sort, [(files[place], int(cluster[place])) for place in by_confidence], num_clusters)
    return (cluster + 1).bincount(minlength=num_clusters + 1)[1:].tolist()


def _files_to_sort(trained: Trained, sort: Path, src: Path | None) -> list[bytes | None]:
    folder = source_folder(trained.dataset, src)
    files = source_files(trained.dataset, trained.indices, folder)
    make_sort_folder(sort, folder)
    return files


def _write_table(file: Path, trained: Trained, cluster: Tensor, confidence: Tensor) -> None:
    """A row for each image, in the order of the data set: index, source, cluster and confidence.

    The source is the image's name within what was converted, escaped where it is not printable; the confidence is π
    of the cluster. Both last are empty for an image that cannot be decoded.
    """
    sources = trained.dataset.sources()
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["index", "source", "cluster", "confidence"])
    for index, k, p in zip(trained.indices, cluster.tolist(), confidence.tolist(), strict=True):
        writer.writerow([index, sources[index], *((k, f"{p:.6g}") if k >= 0 else ("", ""))])
    if str(file) == "-":
        sys.stdout.write(stream.getvalue())
    else:
        write_whole(file, stream.getvalue())


def _write_sheets(folder: Path, trained: Trained, cluster: Tensor, confidence: Tensor, num_clusters: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("cluster-*.png"):
        if re.fullmatch(SHEET, old.name):  # of another time; the user's own files stay
            old.unlink()
    digits = len(str(num_clusters - 1))
    for k in range(num_clusters):
        members = (cluster == k).nonzero().flatten()
        if len(members):
            order = members[confidence[members].argsort(descending=True, stable=True)]
            indices = [trained.indices[place] for place in order.tolist()]
            contact_sheet(trained.dataset, indices).save(folder / f"cluster-{k:0{digits}}.png")


def contact_sheet(dataset: Dataset, indices: list[int]) -> Image.Image:
    """Thumbnails of at most `ROWS` × `COLUMNS` of these images, evenly spread from the first to the last.

    Given in order of confidence, the surest is at the top left and the most doubtful at the bottom right.
    """
    count = min(len(indices), ROWS * COLUMNS)
    shown = [indices[place * (len(indices) - 1) // max(1, count - 1)] for place in range(count)]
    rows, step = -(-count // COLUMNS), THUMBNAIL + GAP
    sheet = Image.new("RGB", (COLUMNS * step + GAP, rows * step + GAP), "white")

    def thumbnail(index: int) -> Image.Image:
        return ImageOps.pad(Image.fromarray(dataset.decode(index)), (THUMBNAIL, THUMBNAIL), color="white")

    with ThreadPoolExecutor(default_workers()) as threads:
        for place, image in enumerate(threads.map(thumbnail, shown)):
            sheet.paste(image, (GAP + place % COLUMNS * step, GAP + place // COLUMNS * step))
    return sheet
