"""The `torch` pipeline: a DataLoader with torchvision transforms on PIL images, twice an image.

This is what the field runs today, and the reference: the other pipelines must draw from the same distributions.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision.transforms import v2

from tcc_fast.batch import Batch
from tcc_fast.cores import default_workers
from tcc_fast.datasets import Dataset
from tcc_fast.draws import STREAM_AUGMENT, scalar_key
from tcc_fast.pipelines.damage import Damage
from tcc_fast.pipelines.decoded import channel_moments
from tcc_fast.pipelines.order import EpochOrder, Position
from tcc_fast.settings import AugmentConfig
from tcc_fast.views.resample import blur_kernel_size
from tcc_fast.views.view_parameters import BLUR_SIGMA


def reference_transform(recipe: AugmentConfig, image_size: int, mean: Tensor, std: Tensor) -> v2.Transform:
    """The recipe built from torchvision: a PIL image or a (3, H, W) tensor to a (3, S, S) float tensor."""
    steps: list[v2.Transform] = []
    if recipe.has_affine:
        steps.append(
            v2.RandomAffine(
                recipe.rotation,
                scale=recipe.zoom,
                shear=recipe.shear or None,
                interpolation=v2.InterpolationMode.BILINEAR,
            )
        )
    steps += [
        v2.RandomResizedCrop(image_size, recipe.crop_area, recipe.crop_aspect, antialias=True),
        v2.RandomHorizontalFlip(recipe.flip),
    ]
    if recipe.jitter:
        jitter = v2.ColorJitter(recipe.brightness, recipe.contrast, recipe.saturation, recipe.hue)
        steps.append(v2.RandomApply([jitter], recipe.jitter))
    if recipe.grey:
        steps.append(v2.RandomGrayscale(recipe.grey))
    if recipe.blur:
        steps.append(v2.RandomApply([v2.GaussianBlur(blur_kernel_size(image_size), BLUR_SIGMA)], recipe.blur))
    steps += [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean.tolist(), std.tolist())]
    return v2.Compose(steps)


_Item = tuple[Tensor, Tensor, int, str]
"""Both views, the index, and why the views are blank: empty when they are not."""


class _TwoViews(TorchDataset[_Item]):
    """Items are asked for by (epoch, index), so that workers that live through all epochs know the epoch."""

    def __init__(self, dataset: Dataset, transform: v2.Transform, image_size: int, seed: int) -> None:
        self.dataset, self.transform, self.seed = dataset, transform, seed
        self.blank = torch.zeros(3, image_size, image_size)

    def __getitem__(self, item: tuple[int, int]) -> _Item:  # type: ignore[override]
        epoch, index = item
        try:
            image = Image.fromarray(self.dataset.decode(index))
        except ValueError as error:
            return self.blank, self.blank, index, str(error)
        views = []
        with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
            for view in (1, 2):
                key = scalar_key(STREAM_AUGMENT, self.seed, epoch, view, index)
                # Not torch.manual_seed, which would seed the accelerator's generator as well.
                torch.default_generator.manual_seed(key % (1 << 63))
                views.append(self.transform(image))
        return views[0], views[1], index, ""


class _RestOfEpoch:
    """Batch sampler over what is left of the current epoch."""

    def __init__(self, order: EpochOrder, position: Position) -> None:
        self.order, self.position = order, position

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self.position.epoch
        for batch in range(self.position.batch, self.order.batches_per_epoch):
            yield [(epoch, index) for index in self.order.indices(epoch, batch).tolist()]

    def __len__(self) -> int:
        return self.order.batches_per_epoch - self.position.batch


def _outlive_signals(worker: int) -> None:
    """Launchers send SIGTERM to all processes of a run, terminals Ctrl-C and SIGHUP; the views are needed until its
    checkpoint is written. Workers end by themselves when the process that feeds on them does."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def end_workers(loader: DataLoader[Any]) -> None:
    """End a loader's processes at once, if it has any."""
    if (iterator := loader._iterator) is not None:
        iterator._shutdown_workers()  # type: ignore[attr-defined]


class TorchPipeline(Position):
    """DataLoader with ``workers`` processes that stay alive from epoch to epoch.

    Args:
        dataset: read lazily, in the workers.
        recipe: the augmentation.
        image_size: S.
        order: which images come when.
        device: where views go.
        workers: processes; 0 works in this one, None takes one per core, at most 16.
        dtype: of the views.
    """

    def __init__(
        self,
        dataset: Dataset,
        recipe: AugmentConfig,
        image_size: int,
        order: EpochOrder,
        device: torch.device,
        workers: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(order.batches_per_epoch)
        if workers is None:
            workers = default_workers()
        self.device, self.dtype = device, dtype
        self.damage = Damage(dataset)
        transform = reference_transform(recipe, image_size, *channel_moments(dataset))
        self._loader: DataLoader[_Item] | None = DataLoader(
            _TwoViews(dataset, transform, image_size, order.seed),
            batch_sampler=_RestOfEpoch(order, self),  # type: ignore[arg-type]
            num_workers=workers,
            pin_memory=device.type == "cuda",
            persistent_workers=workers > 0,
            worker_init_fn=_outlive_signals,
            generator=torch.Generator().manual_seed(order.seed),  # its own: the global one is not touched
        )

    def __iter__(self) -> Iterator[Batch]:
        assert self._loader is not None, "the pipeline is closed"
        for view_1, view_2, index, reasons in self._loader:
            for image, why in zip(index.tolist(), reasons, strict=True):
                if why:
                    self.damage.note(image, why)
            self.batch += 1
            yield Batch(self._place(view_1), self._place(view_2), index.to(self.device, non_blocking=True))
        self.set_epoch(self.epoch + 1)

    def _place(self, view: Tensor) -> Tensor:
        moved = view.to(self.device, non_blocking=True)  # as it is: the host would wait for one that it had to convert
        return moved.to(dtype=self.dtype, memory_format=torch.channels_last)

    def close(self) -> None:
        """Stop the workers, at once: also when a half-used iterator, or the traceback of an error, still holds them."""
        loader, self._loader = self._loader, None
        if loader is not None:
            end_workers(loader)
