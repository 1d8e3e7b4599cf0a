"""Decoding alone, by the fastest decoder that is installed: no pipeline that reads files can be faster."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tcc_fast.bench.rounds import Source
from tcc_fast.datasets import Dataset
from tcc_fast.pipelines.cpu.threads import Threads
from tcc_fast.pipelines.installed import installed
from tcc_fast.pipelines.order import EpochOrder

PART = 8
"""Images that a thread decodes at a time."""

Part = Callable[[NDArray[np.int64], int, int], None]
"""Decodes images start .. stop of those with these indices."""


def open_decoding(dataset: Dataset, order: EpochOrder, threads: int) -> Source:
    """Every image to RGB at its stored size, in threads, and forgotten at once.

    FFCV's libjpeg-turbo is taken if the data set has a beton of which at least half are JPEGs (others lie there
    undecoded), else Pillow.
    """
    pngs = int(dataset.is_png().sum())
    if dataset.manifest.beton is not None and installed("ffcv") and 2 * pngs <= len(dataset):
        part, note = _by_ffcv(dataset, dataset.path / dataset.manifest.beton), "libjpeg-turbo, as FFCV calls it"
        note += f"; {pngs} images are no JPEGs and are only copied" if pngs else ""
    else:
        part, note = _by_pillow(dataset), "Pillow"
    pool = Threads(threads)
    note += f", {pool.count} thread{'s' if pool.count > 1 else ''}"
    return Source(_batches(order, part, pool), note, close=pool.close)


def _batches(order: EpochOrder, part: Part, pool: Threads) -> Iterator[int]:
    epoch = 0
    while True:
        for batch in range(order.batches_per_epoch):
            index = order.indices(epoch, batch).numpy()
            pool.parallel_for(lambda start, stop, index=index: part(index, start, stop), len(index), PART)  # type: ignore[misc]
            yield len(index)
        epoch += 1


def _by_pillow(dataset: Dataset) -> Part:
    def part(index: NDArray[np.int64], start: int, stop: int) -> None:
        for image in index[start:stop].tolist():
            with contextlib.suppress(ValueError):  # a damaged one; the pipelines report it
                dataset.decode(image)

    return part


def _by_ffcv(dataset: Dataset, path: Path) -> Part:
    from tcc_fast.datasets.beton import check_beton
    from tcc_fast.datasets.ffcv_import import import_ffcv

    reader = import_ffcv().reader
    from tcc_fast.pipelines.ffcv_inside import HEIGHT, WIDTH, decode_images

    check_beton(path, len(dataset))
    found = reader.Reader(str(path))
    rows: Any = found.metadata[found.metadata.dtype.names[0]]
    table = found.alloc_table[np.argsort(found.alloc_table["sample_id"])]
    file = np.memmap(path, dtype=np.uint8, mode="r")
    columns = (rows["data_ptr"], table["size"], rows["mode"], rows["height"], rows["width"])
    places = np.stack([column.astype(np.int64) for column in columns], axis=1)
    memory = threading.local()

    def part(index: NDArray[np.int64], start: int, stop: int) -> None:
        some = places[index[start:stop]]
        some[:, 0] += file.ctypes.data  # from places in the file to addresses
        sizes = 3 * some[:, HEIGHT] * some[:, WIDTH]
        if len(getattr(memory, "pixels", ())) < sizes.sum():
            memory.pixels = np.empty(sizes.sum(), dtype=np.uint8)
        failed = np.zeros(len(some), dtype=np.bool_)
        decode_images(some, 0, len(some), np.cumsum(sizes) - sizes, memory.pixels, failed)

    return part
