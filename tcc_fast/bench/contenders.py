"""The contenders: each pipeline, and decoding alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tcc_fast.batch import Pipeline
from tcc_fast.bench.decoding import open_decoding
from tcc_fast.bench.rounds import Source
from tcc_fast.compiling import compile_mode
from tcc_fast.cores import default_workers
from tcc_fast.datasets import Dataset
from tcc_fast.pipelines import Choice, choose_pipeline, open_backend
from tcc_fast.pipelines.order import SINGLE, EpochOrder
from tcc_fast.precision import Precision
from tcc_fast.settings import Config

DECODE = "decode only"
BASELINE = "torch"
# `torch` first: its workers are forked, which is best done before there are threads.
PIPELINES = (BASELINE, "resident", "ffcv", "dali")
LONG_EPOCH = 4096
"""Batches."""

Openers = dict[str, Callable[[], Source]]


class LongEpochs(EpochOrder):
    """Epochs strung together to long ones, so that none ends while a small data set stands in for a large one."""

    def __init__(self, order: EpochOrder) -> None:
        super().__init__(order.images, order.batch_size, order.seed, order.rank_share)
        self._inner = order
        self.batches_per_epoch = LONG_EPOCH

    def indices(self, epoch: int, batch: int) -> Tensor:
        """Indices of a batch, as `EpochOrder.indices` has them for the epoch and batch that lie there."""
        return self._inner.indices(*divmod(epoch * LONG_EPOCH + batch, self._inner.batches_per_epoch))


@dataclass(frozen=True)
class Task:
    """What every contender is given.

    Attributes:
        dataset: the images.
        config: recipe, image size, batch size, seed and threads; its choice of a pipeline is not looked at.
        device: where views go.
        precision: of the encoder, and so of the views.
        long_epochs: leave the ends of epochs out; else they come as in training.
    """

    dataset: Dataset
    config: Config
    device: torch.device
    precision: Precision = Precision.FP32
    long_epochs: bool = False

    @property
    def threads(self) -> int:
        """Threads, or processes of `torch`, that each contender has."""
        workers = self.config.data.workers
        return default_workers() if workers is None else workers

    def order(self) -> EpochOrder:
        """Which images come when.

        Raises:
            ValueError: the batch does not fit the data set.
        """
        images = self.dataset.split(self.config.data.split)
        order = EpochOrder(images, self.config.train.batch_size, self.config.seed, SINGLE)
        return LongEpochs(order) if self.long_epochs else order


def openers(task: Task, pipelines: tuple[str, ...] = PIPELINES, decoding: bool = True) -> Openers:
    """How each contender is opened, by name. They raise `ValueError` if they cannot work here.

    Raises:
        ValueError: a pipeline has no such name, or the batch does not fit the data set.
    """
    for name in pipelines:
        if name not in PIPELINES:
            raise ValueError(f"no pipeline is called {name!r}; there are {', '.join(PIPELINES)}")
    task.order()  # a batch that is too large is nothing that one contender alone cannot do

    def of(name: str) -> Callable[[], Source]:
        return lambda: open_pipeline_source(task, name)

    found = {name: of(name) for name in PIPELINES if name in pipelines}
    return found | ({DECODE: lambda: open_decoding(task.dataset, task.order(), task.threads)} if decoding else {})


def open_pipeline_source(task: Task, name: str) -> Source:
    """A pipeline as a contender.

    Raises:
        ValueError: it cannot work here; says why.
    """
    compiled = compile_mode(task.config.train.compile, task.device, 1) != "off"  # views are made as training makes them
    pipeline, choice = open_feed(task, name, compiled)
    stride = max(1, task.threads) if name == "torch" else 1
    return Source(_count_images(pipeline), choice.reason, ahead(name, task.threads), stride, pipeline.close)


def open_feed(task: Task, name: str | None = None, compiled: bool = False) -> tuple[Pipeline, Choice]:
    """A pipeline; None: the one that the settings choose.

    Raises:
        ValueError: it cannot work here; says why.
    """
    data = task.config.data.model_copy(update={"pipeline": name or task.config.data.pipeline})
    config = task.config.model_copy(update={"data": data})
    choice = choose_pipeline(task.dataset, config, task.device)
    order = task.order()
    return open_backend(choice.name, task.dataset, config, task.device, order, task.precision.dtype, compiled), choice


def _count_images(pipeline: Pipeline) -> Iterator[int]:
    while True:
        for batch in pipeline:  # kept until the next one is there, as by the loop that trains
            yield len(batch.index)


def ahead(name: str, threads: int) -> int:
    """Batches that a pipeline has ready at most, unasked."""
    if name == "torch":
        return 2 * threads  # DataLoader's `prefetch_factor`
    if name == "ffcv":
        from tcc_fast.pipelines.ffcv_inside import BATCHES_AHEAD

        return BATCHES_AHEAD + 1  # one more waits for room
    if name == "dali":
        from tcc_fast.pipelines.dali_views import DEPTH

        return DEPTH
    return 0
