"""The `dali` pipeline: NVIDIA DALI decodes each image once, for both its views.

On a GPU it cuts both views out of the image as well; the colours are ours. On a CPU its resize would take most of the
time: there it only decodes, and our compiled pass makes the views.

DALI gets the encoded images (and their crops) from here, not from one of its own readers: those know no order but
their own, while here the order of images and every draw are a function of (seed, epoch, index, view). Nothing is
ever told to DALI about epochs, so their end, its `last_batch_policy` and padded shards do not occur.

Colours stay out of DALI: its contrast is about a fixed grey and its hue is a linear map, which differ from
torchvision's by 7 to 15 grey levels. `view_maker.py` does them, as on every backend.

Where DALI moves pixels, they are torchvision's up to the rounding to whole grey levels, by the crop and, if there is
one, by the affine map. Only the outermost pixels of a crop that is made smaller differ by more: there DALI repeats
the crop's border, where torchvision leaves out what is not there. (A region of interest in the resize, instead of
the cut before it, is 5 to 10 % faster on the CPU, but looks beyond the crop.)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tcc_fast.batch import Batch
from tcc_fast.cores import default_workers
from tcc_fast.datasets import Dataset
from tcc_fast.pipelines.dali_feed import Feed, Feeder, Inputs, blank_image
from tcc_fast.pipelines.dali_graph import build_graph, outputs, whole_images
from tcc_fast.pipelines.damage import Damage
from tcc_fast.pipelines.decoded import channel_moments
from tcc_fast.pipelines.order import EpochOrder, Position
from tcc_fast.pipelines.view_maker import ViewMaker, blank_, to_device, view_maker
from tcc_fast.settings import AugmentConfig

if TYPE_CHECKING:
    from tcc_fast.pipelines.cpu.maker import CpuViews

DEPTH = 2
"""Batches inside DALI while the training step runs."""

Images = list[Any]
"""What it gives: both views' crops, tensors of (B, S, S, 3) uint8 on the device; or B images, arrays of (H, W, 3)."""


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
        cuts: whether DALI cuts the views, as it does on a GPU; on a CPU that is for comparison.

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
        cuts: bool = False,
    ) -> None:
        super().__init__(order.batches_per_epoch)
        _require_dali()
        self.dataset, self.recipe, self.image_size, self.order = dataset, recipe, image_size, order
        self.device, self.dtype = device, dtype
        self.threads = default_workers() if threads is None else max(1, threads)
        self.damage = Damage(dataset)
        mean, std = channel_moments(dataset)
        self._cuts = cuts or device.type != "cpu"
        self._feeder = Feeder(dataset, recipe, order, self.damage, self._cuts)
        self._whole: CpuViews | None = None
        if self._cuts:
            self._maker: ViewMaker = view_maker(recipe, image_size, mean, std, device, dtype, threads, compiled)
        else:
            from tcc_fast.pipelines.cpu.maker import CpuViews

            self._maker = self._whole = CpuViews(recipe, image_size, mean, std, dtype, threads)
        self._graph: Any = None
        self._fed: deque[Feed] = deque()  # in DALI, oldest first
        self._reader = ThreadPoolExecutor(1, "dali-reader")
        self._ahead: Future[Feed] | None = None  # read, or being read, but not yet in DALI
        self._cursor = (0, 0)  # what is read next
        self._closed = False

    def __iter__(self) -> Iterator[Batch]:
        while self.batch < self.batches_per_epoch:
            try:
                feed, images = self._next()
            except BaseException:  # also an interrupt
                self._drop()  # DALI's queue may be half filled; the next attempt starts anew at this position
                raise
            view_1, view_2 = self._views(feed, images)
            self.batch += 1
            yield Batch(view_1, view_2, to_device(feed.index, self.device))
        self.set_epoch(self.epoch + 1)

    def close(self) -> None:
        """End DALI's threads and the reading one."""
        self._closed = True
        self._drop()
        self._reader.shutdown()
        self._maker.close()

    # What becomes of what DALI gives.

    @torch.no_grad()
    def _views(self, feed: Feed, images: Images) -> tuple[Tensor, Tensor]:
        if self._whole is not None:
            view_1, view_2 = self._whole.views_of_decoded(images, feed.index, feed.bases)
        else:
            view_1, view_2 = (self._maker.views_of_crops(*pair) for pair in zip(images, feed.parameters, strict=True))
        for view in (view_1, view_2):
            blank_(view, feed.blank)
        return view_1, view_2

    # What goes into DALI, and when.

    def _next(self) -> tuple[Feed, Images]:
        """The batch at this position, and what DALI made of it."""
        assert not self._closed, "the pipeline is closed"
        wanted = (self.epoch, self.batch)
        while True:  # ends: a pass without success gives up a batch in DALI, or finds an image undecodable
            if not self._fed:
                self._start(wanted)
            feed, images = self._oldest()
            if images is not None and feed.position == wanted:
                self._feed()
                self._graph.schedule_run()
                return feed, images

    def _start(self, position: tuple[int, int]) -> None:
        """Fill DALI's queue, which is empty, from this position on."""
        self._stop_reading()
        self._cursor = position
        is_new = self._graph is None
        if is_new:
            self._graph = self._build(self.order.batch_size // self.order.rank_share.world_size)
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

    def _read_ahead(self) -> Future[Feed]:
        epoch, batch = self._cursor
        self._cursor = (epoch, batch + 1) if batch + 1 < self.batches_per_epoch else (epoch + 1, 0)
        return self._reader.submit(self._feeder.prepare, epoch, batch)

    def _stop_reading(self) -> None:
        if self._ahead is not None and not self._ahead.cancel():
            self._ahead.exception()  # waits
        self._ahead = None

    # What comes out of DALI.

    def _oldest(self) -> tuple[Feed, Images | None]:
        """Take the oldest batch out of DALI; no images, and nothing left in DALI, if it could not decode it."""
        feed = self._fed[0]
        try:
            images = outputs(self._graph, self.device) if self._cuts else whole_images(self._graph)
        except Exception as error:  # RuntimeError or IndexError were met; DALI does not say which there are
            self._drop()  # DALI gives no promise for a graph that has failed
            self._blame(feed, error)
            return feed, None
        self._fed.popleft()
        if not self._cuts:
            self._compare(feed, images)
        return feed, images

    def _compare(self, feed: Feed, images: Images) -> None:
        """Report the images that are not those that were converted."""
        for row, (image, size) in enumerate(zip(images, feed.sizes.tolist(), strict=True)):
            if list(image.shape[:2]) != size:
                index = int(feed.index[row])
                feed.blank.append(row)
                self.damage.note(index, _other_size(image.shape, size))

    def _blame(self, feed: Feed, error: Exception) -> None:
        """Report the images that DALI cannot decode. Raises ``error`` if it is about none of them."""
        indices = feed.index.tolist()
        singles = [{name: values[row : row + 1] for name, values in feed.inputs.items()} for row in range(len(indices))]
        blank = {name: np.ones_like(values) for name, values in singles[0].items() if name != "encoded"}
        objection, *refusals = self._refusals([blank | {"encoded": [blank_image()]}, *singles])
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
        """Why an image cannot be decoded, in Pillow's words, if it cannot do so either."""
        try:
            found = self.dataset.decode(index).shape[:2]
        except ValueError as error:
            return str(error)
        stored = self._feeder.sizes[index].tolist()
        if list(found) != stored:
            return _other_size(found, stored)
        said = refusal.rpartition("encountered:")[2].strip().partition("\n")[0]  # the rest is where in our code
        return f"DALI: {said}"

    # The graph.

    def _build(self, batch_size: int, depth: int = DEPTH) -> Any:
        size = self.image_size if self._cuts else None
        return build_graph(batch_size, depth, self.threads, self.device, size, self.recipe.has_affine)

    def _drop(self) -> None:
        """Let go of DALI and of what is on its way."""
        self._stop_reading()
        self._graph = None  # the last reference: its threads end here
        self._fed.clear()


def _other_size(found: Sequence[int], stored: Sequence[int]) -> str:
    return f"{found[0]} x {found[1]} pixels, not {stored[0]} x {stored[1]}"


def _require_dali() -> None:
    try:
        import nvidia.dali  # noqa: F401
    except ImportError:
        raise ValueError("data.pipeline=dali needs NVIDIA DALI: pip install nvidia-dali-cuda130") from None
