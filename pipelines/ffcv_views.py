"""The `ffcv` pipeline: FFCV's loader on the `.beton`, every image decoded once for both its views.

FFCV fetches the encoded bytes, through the file cache of the system or through a cache of its own, and works batches
ahead. `ffcv_inside.py` holds what happens inside its loader. On a CPU that is everything, up to the finished views;
for a GPU it is the crops, as uint8: a quarter of the bytes to copy. Their colours are done there.

FFCV decodes JPEGs with libjpeg-turbo's fast transform, which differs from the exact one by a grey level or two.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tcc_fast.batch import Batch
from tcc_fast.cores import local_processes
from tcc_fast.datasets import Dataset
from tcc_fast.datasets.beton import check_beton
from tcc_fast.datasets.ffcv_import import import_ffcv
from tcc_fast.pipelines.cpu.buffers import Buffers
from tcc_fast.pipelines.cpu.threads import Threads
from tcc_fast.pipelines.cpu.views import decoded_views, make_plan
from tcc_fast.pipelines.damage import Damage
from tcc_fast.pipelines.decoded import channel_moments
from tcc_fast.pipelines.memory import free_memory
from tcc_fast.pipelines.order import EpochOrder, Position
from tcc_fast.pipelines.view_maker import TensorViews, blank_, to_device
from tcc_fast.settings import AugmentConfig
from tcc_fast.views.numbers import NUM_PARAMETERS

RUN_BATCHES = 256
"""Batches, at least, that FFCV is given at a time: it begins each run with an empty queue."""
PART, PART_BYTES = 8, 3 << 19
"""Images, and bytes of them, that a thread decodes at most before it makes their views (one image in any case): few
enough that a core still has them in its own cache."""
CACHE_SHARE = 0.5
"""Part of the free memory that FFCV's own cache may take."""


@dataclass(frozen=True)
class _Made:
    """A batch on its way to the training step."""

    position: tuple[int, int]
    """Epoch and batch."""
    index: Tensor
    """(B,) int64, on the CPU."""
    views: Tensor
    """(2, B, S, S, 3): float32 views, or uint8 crops on their way to a GPU."""
    parameters: tuple[Tensor, Tensor] | None
    """`ViewParameters.pack` of the crops; None for views."""
    failed: dict[int, str]
    """Row and reason of each image that could not be decoded."""


class FfcvPipeline(Position):
    """FFCV works on the next batches, in threads, while the training step runs.

    Args:
        dataset: converted with ``--formats tar,beton``.
        recipe: the augmentation.
        image_size: S, the side of a view.
        order: which images come when.
        device: where views go.
        threads: that decode; None: one per core, at most 16.
        dtype: of the views.
        os_cache: read through the file cache of the system, which all processes share; else FFCV reads the file into
            memory of this process, page by page, for files on a network.
        compiled: on a GPU: use torch.compile for the colours.

    Raises:
        ValueError: FFCV is not installed, or the data set has no beton that it can read; says what to do.
    """

    def __init__(
        self,
        dataset: Dataset,
        recipe: AugmentConfig,
        image_size: int,
        order: EpochOrder,
        device: torch.device,
        threads: int | None = None,
        dtype: torch.dtype = torch.float32,
        os_cache: bool = True,
        compiled: bool = False,
    ) -> None:
        super().__init__(order.batches_per_epoch)
        self._beton = _beton(dataset)
        import_ffcv()
        from tcc_fast.pipelines import ffcv_inside

        self._ffcv = ffcv_inside
        self.dataset, self.image_size, self.order = dataset, image_size, order
        self.device, self.dtype = device, dtype
        self.damage = Damage(dataset)
        self._file = _identity(self._beton)
        if not os_cache:
            _check_memory(self._beton)
        mean, std = channel_moments(dataset)
        self._plan = make_plan(recipe, image_size, mean, std)
        self._finisher: TensorViews | None = None
        if device.type != "cpu":
            self._finisher = TensorViews(recipe, image_size, mean, std, device, dtype, compiled)
        self._threads: Threads | None = Threads(threads)
        self._memory = threading.local()
        self._buffers = Buffers()
        share = order.batch_size // order.rank_share.world_size
        self._ahead = ffcv_inside.WorkAhead(self._beton, share, os_cache, self._make)
        self._due: Iterator[tuple[int, int]] = iter(())  # positions that the run is still to make

    def __iter__(self) -> Iterator[Batch]:
        assert self._threads is not None, "the pipeline is closed"
        while self.batch < self.batches_per_epoch:
            made = self._next()
            for row, why in made.failed.items():
                self.damage.note(int(made.index[row]), why)
            batch = self._placed(made)
            self.batch += 1
            yield batch
        self.set_epoch(self.epoch + 1)

    def close(self) -> None:
        """End FFCV's threads and ours."""
        self._ahead.stop()
        if self._threads is not None:
            self._threads.close()
            self._threads = None

    # The thread that trains.

    def _next(self) -> _Made:
        wanted = (self.epoch, self.batch)
        while True:  # ends: the first batch of a new run is the wanted one
            if not self._ahead.is_running:
                self._start(wanted)
            made = self._ahead.take()
            if isinstance(made, BaseException):
                self._ahead.stop()
                raise made
            if made is not None and made.position == wanted:
                return made
            self._ahead.stop()

    def _placed(self, made: _Made) -> Batch:
        rows = list(made.failed)
        if made.parameters is None or self._finisher is None:
            made.views[:, rows] = 0
            view_1, view_2 = made.views.permute(0, 1, 4, 2, 3).to(self.dtype)
            return Batch(view_1, view_2, made.index)
        views = []
        for crops, parameters in zip(made.views, made.parameters, strict=True):
            if crops.is_cuda:  # made on a stream of FFCV's
                crops.record_stream(torch.cuda.current_stream(crops.device))
            view = self._finisher.views_of_crops(crops, parameters)
            blank_(view, rows)
            views.append(view)
        return Batch(views[0], views[1], to_device(made.index, self.device))

    def _start(self, position: tuple[int, int]) -> None:
        self._check_file()
        positions = self._positions(*position)
        self._due = iter(positions)
        order = torch.cat([self.order.indices(*one) for one in positions]).numpy().astype(np.uint64)
        self._ahead.start(order)

    def _positions(self, epoch: int, batch: int) -> list[tuple[int, int]]:
        """From this position on to the end of an epoch, `RUN_BATCHES` or more."""
        positions: list[tuple[int, int]] = []
        while len(positions) < RUN_BATCHES or batch:
            positions.append((epoch, batch))
            batch = (batch + 1) % self.batches_per_epoch
            epoch += batch == 0
        return positions

    def _check_file(self) -> None:
        """Check the file, before every batch, since reading beyond the end of a mapped one kills the process."""
        try:
            found = _identity(self._beton)
        except OSError as error:
            raise ValueError(f"{self._beton}: cannot be read any more ({error.strerror})") from None
        if found != self._file:
            raise ValueError(f"{self._beton}: is no longer the file that was opened; convert the data set again")

    # FFCV's thread, and ours under it.

    def _make(self, locations: np.ndarray) -> _Made | BaseException:
        """A batch, from where its images lie. Nothing is raised: it would end FFCV's thread without a word."""
        try:
            return self._views_of(locations)
        except BaseException as error:
            return error

    def _views_of(self, locations: np.ndarray) -> _Made:
        epoch, batch = next(self._due)
        self._check_file()
        index = self.order.indices(epoch, batch)
        count, size = len(index), self.image_size
        bases = np.array(self.order.view_keys(epoch))
        on_gpu = self._finisher is not None
        shape = (2, count, size, size, 3)
        if on_gpu:
            out = torch.empty(shape, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        else:
            out = self._buffers.take(*shape)
        nothing = np.empty((2, 0, 0), dtype=np.float32 if on_gpu else np.uint8)
        views, crops = (nothing, out.flatten(2).numpy()) if on_gpu else (out.flatten(2).numpy(), nothing)
        parameters = np.empty((2, count, NUM_PARAMETERS))
        failed = np.zeros(count, dtype=np.bool_)
        shapes = np.ascontiguousarray(locations[:, [self._ffcv.HEIGHT, self._ffcv.WIDTH]])

        def part(start: int, stop: int) -> None:
            pixels, offsets = self._room(shapes[start:stop])
            self._ffcv.decode_images(locations, start, stop, offsets, pixels, failed)
            put(pixels, offsets, shapes, start, stop)

        def put(pixels: np.ndarray, offsets: np.ndarray, shapes: np.ndarray, start: int, stop: int) -> None:
            decoded_views(
                pixels, offsets, shapes, index.numpy(), bases, self._plan, start, stop, parameters, views, crops
            )

        assert self._threads is not None
        largest = 3 * int(shapes.prod(axis=1).max())
        self._threads.parallel_for(part, count, max(1, min(PART, PART_BYTES // largest)))
        reasons = {}
        for row in np.flatnonzero(failed).tolist():
            # The decoder also says so of images that it merely found odd: those that Pillow reads are good.
            try:
                image = self.dataset.decode(int(index[row]))
            except ValueError as error:
                reasons[row] = str(error)
                continue
            shapes[row] = image.shape[:2]
            put(image.reshape(-1), np.zeros(1, dtype=np.int64), shapes, row, row + 1)
        drawn = (torch.from_numpy(parameters[0]), torch.from_numpy(parameters[1])) if on_gpu else None
        if self.device.type == "cuda":
            out = out.to(self.device, non_blocking=True)
        return _Made((epoch, batch), index, out, drawn, reasons)

    def _room(self, shapes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """This thread's memory for decoded images of these shapes, (n, 2), and where each of them goes."""
        sizes = 3 * shapes.prod(axis=1)
        needed = int(sizes.sum())
        if len(getattr(self._memory, "pixels", ())) < needed:
            self._memory.pixels = np.empty(needed, dtype=np.uint8)
        return self._memory.pixels, np.cumsum(sizes) - sizes


def _identity(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _check_memory(beton: Path) -> None:
    size, processes, free = beton.stat().st_size, local_processes(), free_memory(torch.device("cpu"))
    if processes * size > CACHE_SHARE * free:  # images come in random order, so nearly every page is needed
        times = f" by each of {processes} processes" if processes > 1 else ""
        raise ValueError(
            f"data.ffcv_cache=process would read all {size / 2**20:,.0f} MiB of {beton} into memory{times}, where "
            f"{free / 2**20:,.0f} MiB are free: choose data.ffcv_cache=os"
        )


def _beton(dataset: Dataset) -> Path:
    """The data set's beton, looked at.

    Raises:
        ValueError: there is none that FFCV can read; says what to do.
    """
    name = dataset.manifest.beton
    if name is None:
        raise ValueError(
            f"{dataset.path} has no beton, which data.pipeline=ffcv reads: convert it again with "
            "--overwrite --formats tar,beton, or choose another data.pipeline"
        )
    check_beton(dataset.path / name, len(dataset))
    return dataset.path / name
