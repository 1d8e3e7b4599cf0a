"""The `dali` pipeline: NVIDIA DALI decodes each image once and cuts both views out of it; the colours are ours.

DALI gets the encoded images and their crops from here, not from one of its own readers: those know no order but
their own, while here the order of images and every draw are a function of (seed, epoch, index, view). Nothing is
ever told to DALI about epochs, so their end, its `last_batch_policy` and padded shards do not occur.

Colours stay out of DALI: its contrast is about a fixed grey and its hue is a linear map, which differ from
torchvision's by 7 to 15 grey levels. `view_maker.py` does them, as on every backend.

What moves pixels is torchvision's up to the rounding of pixels to whole grey levels, by the crop and, if there is
one, by the affine map. Only the outermost pixels of a crop that is made smaller differ by more: there DALI repeats
the crop's border, where torchvision leaves out what is not there. (A region of interest in the resize, instead of
the cut before it, is 5 to 10 % faster on the CPU, but looks beyond the crop.)
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tcc_fast.batch import Batch
from tcc_fast.config import AugmentConfig
from tcc_fast.datasets import Dataset
from tcc_fast.datasets.pool import default_workers
from tcc_fast.draws import STREAM_AUGMENT, keys, scalar_key
from tcc_fast.pipelines.dali_graph import build_graph, inverse_affine, outputs
from tcc_fast.pipelines.damage import Damage
from tcc_fast.pipelines.decoded import channel_moments
from tcc_fast.pipelines.order import EpochOrder, Position
from tcc_fast.pipelines.view_maker import blank_, to_device, view_maker
from tcc_fast.views.view_parameters import draw

DEPTH = 2
"""Batches inside DALI while the training step runs."""

BLANK_SIDE = 16
"""Pixels; the image that stands in for one that cannot be decoded."""

Inputs = dict[str, Any]
"""What DALI reads for one batch, by the name of its source: B arrays in a list, or one array of B rows."""


@dataclass(frozen=True)
class _Feed:
    """One batch on its way through DALI."""

    position: tuple[int, int]
    """Epoch and batch."""
    index: Tensor
    """(B,) int64, on the CPU."""
    inputs: Inputs
    parameters: tuple[Tensor, Tensor]
    """`ViewParameters.pack` of view 1 and view 2, on the CPU."""
    blank: list[int]
    """Rows whose image cannot be decoded."""


class DaliPipeline(Position):
    """DALI works on the next two batches, and a thread reads the one after them, while the training step runs.

    Args:
        dataset: read as views are made.
        recipe: the augmentation.
        image_size: S, the side of a view.
        order: which images come when.
        device: where views go. On CUDA, DALI decodes and crops there as well.
        threads: DALI's, on the CPU, at least 1; None: one per core, at most 16.
        dtype: of the views.
        compiled: on a GPU: use torch.compile for the colours.

    Raises:
        ValueError: DALI is not installed.
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
        compiled: bool = False,
    ) -> None:
        super().__init__(order.batches_per_epoch)
        _require_dali()
        self.dataset, self.recipe, self.image_size, self.order = dataset, recipe, image_size, order
        self.device, self.dtype = device, dtype
        self.threads = default_workers() if threads is None else max(1, threads)
        self.damage = Damage(dataset)
        self._sizes = torch.from_numpy(dataset.sizes())
        mean, std = channel_moments(dataset)
        self._maker = view_maker(recipe, image_size, mean, std, device, dtype, threads, compiled)
        self._graph: Any = None
        self._fed: deque[_Feed] = deque()  # in DALI, oldest first
        self._reader = ThreadPoolExecutor(1, "dali-reader")
        self._ahead: Future[_Feed] | None = None  # read, or being read, but not yet in DALI
        self._cursor = (0, 0)  # what is read next
        self._closed = False

    def __iter__(self) -> Iterator[Batch]:
        while self.batch < self.batches_per_epoch:
            try:
                feed, crops = self._next()
            except BaseException:  # also an interrupt
                self._drop()  # DALI's queue may be half filled; the next attempt starts anew at this position
                raise
            views = [self._view(*pair, feed.blank) for pair in zip(crops, feed.parameters, strict=True)]
            self.batch += 1
            yield Batch(views[0], views[1], to_device(feed.index, self.device))
        self.set_epoch(self.epoch + 1)

    def close(self) -> None:
        """End DALI's threads and the reading one."""
        self._closed = True
        self._drop()
        self._reader.shutdown()
        self._maker.close()

    # What becomes of the crops.

    @torch.no_grad()
    def _view(self, crops: Tensor, parameters: Tensor, blank: list[int]) -> Tensor:
        view = self._maker.finished(crops, parameters)
        blank_(view, blank)
        return view

    # What goes into DALI, and when.

    def _next(self) -> tuple[_Feed, list[Tensor]]:
        """The batch at this position, with its crops: (B, S, S, 3) uint8 on the device, for each view."""
        assert not self._closed, "the pipeline is closed"
        wanted = (self.epoch, self.batch)
        while True:  # ends: a pass without success gives up a batch in DALI, or finds an image undecodable
            if not self._fed:
                self._start(wanted)
            feed, crops = self._oldest()
            if crops is not None and feed.position == wanted:
                self._feed()
                self._graph.schedule_run()
                return feed, crops

    def _start(self, position: tuple[int, int]) -> None:
        """Fill DALI's queue, which is empty, from this position on."""
        self._stop_reading()
        self._cursor = position
        is_new = self._graph is None
        if is_new:
            self._graph = self._build(self.order.batch_size // self.order.shard.world_size)
        for _ in range(DEPTH):
            self._feed()
        for _ in range(1 if is_new else DEPTH):  # the first call of all starts as many runs as the queue is deep
            self._graph.schedule_run()

    def _feed(self) -> None:
        """Give DALI the next batch, and begin to read the one after it."""
        ahead, self._ahead = self._ahead or self._read_ahead(), None
        feed = ahead.result()
        for name, values in feed.inputs.items():
            self._graph.feed_input(name, values)
        self._fed.append(feed)
        self._ahead = self._read_ahead()

    def _read_ahead(self) -> Future[_Feed]:
        epoch, batch = self._cursor
        self._cursor = (epoch, batch + 1) if batch + 1 < self.batches_per_epoch else (epoch + 1, 0)
        return self._reader.submit(self._prepare, epoch, batch)

    def _prepare(self, epoch: int, batch: int) -> _Feed:
        index = self.order.indices(epoch, batch)
        encoded, blank = [], []
        for row, image in enumerate(index.tolist()):
            data = self._read(image)
            if data is None:
                blank.append(row)
            encoded.append(_blank_image() if data is None else data)
        sizes = self._sizes[index]
        sizes[blank] = BLANK_SIDE
        heights, widths = sizes.unbind(1)
        inputs: Inputs = {"encoded": encoded}
        parameters = []
        for view in (1, 2):
            key = keys(scalar_key(STREAM_AUGMENT, self.order.seed, epoch, view), index)
            drawn = draw(self.recipe, key, heights, widths)
            parameters.append(drawn.pack())
            start, shape = drawn.box.to(torch.int32).chunk(2, dim=1)
            inputs[f"start_{view}"], inputs[f"shape_{view}"] = start.contiguous().numpy(), shape.contiguous().numpy()
            inputs[f"flip_{view}"] = drawn.flip.to(torch.int32).numpy()
            if self.recipe.has_affine:
                inputs[f"matrix_{view}"] = inverse_affine(drawn, heights, widths).numpy()
        return _Feed((epoch, batch), index, inputs, (parameters[0], parameters[1]), blank)

    def _read(self, image: int) -> np.ndarray[Any, np.dtype[np.uint8]] | None:
        if image in self.damage.indices:
            return None
        try:
            return np.frombuffer(self.dataset.read(image), dtype=np.uint8)
        except ValueError as error:
            self.damage.note(image, str(error))
            return None

    def _stop_reading(self) -> None:
        if self._ahead is not None and not self._ahead.cancel():
            self._ahead.exception()  # waits
        self._ahead = None

    # What comes out of DALI.

    def _oldest(self) -> tuple[_Feed, list[Tensor] | None]:
        """Take the oldest batch out of DALI; no crops, and nothing left in DALI, if it could not decode it."""
        feed = self._fed[0]
        try:
            crops = outputs(self._graph, self.device)
        except Exception as error:  # RuntimeError or IndexError were met; DALI does not say which there are
            self._drop()  # DALI gives no promise for a graph that has failed
            self._blame(feed, error)
            return feed, None
        self._fed.popleft()
        return feed, crops

    def _blame(self, feed: _Feed, error: Exception) -> None:
        """Report the images that DALI cannot decode. Raises ``error`` if it is about none of them."""
        indices = feed.index.tolist()
        singles = [{name: values[row : row + 1] for name, values in feed.inputs.items()} for row in range(len(indices))]
        blank = {name: np.ones_like(values) for name, values in singles[0].items() if name != "encoded"}
        objection, *refusals = self._refusals([blank | {"encoded": [_blank_image()]}, *singles])
        if objection or not any(refusals):
            raise error
        for index, refusal in zip(indices, refusals, strict=True):
            if refusal:
                self.damage.note(index, self._reason(index, refusal))

    def _refusals(self, singles: list[Inputs]) -> list[str]:
        """What DALI says against each image by itself; empty where it takes it."""
        graph, found = None, []
        for inputs in singles:
            graph = graph or self._build(1, depth=1)
            try:
                graph.run(**inputs)
                found.append("")
            except Exception as error:
                graph = None
                found.append(str(error))
        return found

    def _reason(self, index: int, refusal: str) -> str:
        """In Pillow's words, if it cannot decode the image either."""
        try:
            found = self.dataset.decode(index).shape[:2]
        except ValueError as error:
            return str(error)
        stored = tuple(self._sizes[index].tolist())
        if found != stored:
            return f"{found[0]} x {found[1]} pixels, not {stored[0]} x {stored[1]}"
        said = refusal.rpartition("encountered:")[2].strip().partition("\n")[0]  # the rest is where in our code
        return f"DALI: {said}"

    # The graph.

    def _build(self, batch_size: int, depth: int = DEPTH) -> Any:
        return build_graph(batch_size, depth, self.threads, self.device, self.image_size, self.recipe.has_affine)

    def _drop(self) -> None:
        """Let go of DALI and of what is on its way."""
        self._stop_reading()
        self._graph = None  # the last reference: its threads end here
        self._fed.clear()


def _blank_image() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """An encoded image of BLANK_SIDE x BLANK_SIDE pixels."""
    buffer = io.BytesIO()
    Image.new("RGB", (BLANK_SIDE, BLANK_SIDE)).save(buffer, "JPEG")
    return np.frombuffer(buffer.getvalue(), dtype=np.uint8)


def _require_dali() -> None:
    try:
        import nvidia.dali  # noqa: F401
    except ImportError:
        raise ValueError("data.pipeline=dali needs NVIDIA DALI: pip install nvidia-dali-cuda130") from None
