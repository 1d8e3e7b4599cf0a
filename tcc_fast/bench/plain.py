"""What a user has today: views by a DataLoader with PIL transforms, and a step that is written without a thought for
speed (eager, fp32, NCHW, one tensor of the moving average after the other)."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler
from torch.utils.data import Dataset as TorchDataset
from torchvision import transforms

from tcc_fast.batch import Batch
from tcc_fast.bench.contenders import Task
from tcc_fast.bench.single_process import SingleProcess
from tcc_fast.datasets import Dataset
from tcc_fast.method.model import TCC, momentum_at, momentum_twin
from tcc_fast.method.step import Losses, TrainingStep, build_queues
from tcc_fast.pipelines.decoded import channel_moments, common_geometry, decode
from tcc_fast.settings import Config
from tcc_fast.views.resample import blur_kernel_size
from tcc_fast.views.view_parameters import BLUR_SIGMA

Item = tuple[Tensor, Tensor, int]
SHARED = Path("/dev/shm")
"""Where the workers of a DataLoader put their batches, on Linux."""
AHEAD = 2
"""Batches that each worker has ready, as `DataLoader` has it."""
LEAST = 8
"""Images in a batch that can still be called one."""


class PlainViews(TorchDataset[Item]):
    """Two views of an image, as most code makes them: images from an array, or else decoded by Pillow."""

    def __init__(
        self, dataset: Dataset, indices: range, images: NDArray[np.uint8] | None, transform: Callable[[Any], Tensor]
    ) -> None:
        self.dataset, self.indices, self.images, self.transform = dataset, indices, images, transform

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> Item:
        if self.images is not None:
            image = Image.fromarray(self.images[place])
        else:
            image = Image.open(io.BytesIO(self.dataset.read(self.indices[place]))).convert("RGB")
        return self.transform(image), self.transform(image), self.indices[place]


def plain_loader(task: Task, from_memory: bool) -> DataLoader[Item]:
    """A DataLoader that makes the recipe by torchvision's older transforms, nothing seeded.

    Args:
        task: what it works on.
        from_memory: read decoded images from an array, as torchvision's CIFAR10 does; else decode by Pillow.

    Raises:
        ValueError: there is too little shared memory for its workers.
    """
    dataset, recipe, size = task.dataset, task.config.augment, task.config.data.image_size
    jitter = transforms.ColorJitter(recipe.brightness, recipe.contrast, recipe.saturation, recipe.hue)
    mean, std = channel_moments(dataset)
    blur = transforms.GaussianBlur(blur_kernel_size(size), BLUR_SIGMA)
    affine = [transforms.RandomAffine(recipe.rotation, scale=recipe.zoom, shear=recipe.shear)]
    transform = transforms.Compose(
        [
            *(affine if recipe.has_affine else []),
            transforms.RandomResizedCrop(size, recipe.crop_area, recipe.crop_aspect),
            transforms.RandomHorizontalFlip(recipe.flip),
            transforms.RandomApply([jitter], recipe.jitter),
            transforms.RandomGrayscale(recipe.grey),
            *([transforms.RandomApply([blur], recipe.blur)] if recipe.blur else []),
            transforms.ToTensor(),
            transforms.Normalize(mean.tolist(), std.tolist()),
        ]
    )
    indices, images = dataset.split(task.config.data.split), None
    if from_memory:
        images = decode(dataset, indices, common_geometry(dataset, size)).numpy()
    views = PlainViews(dataset, indices, images, transform)
    batch = fitting_batch(task)
    return DataLoader(
        views,
        batch,
        sampler=RandomSampler(views, num_samples=batch * task.order().batches_per_epoch),
        num_workers=task.threads,
        prefetch_factor=AHEAD if task.threads else None,
        pin_memory=task.device.type == "cuda",
        persistent_workers=task.threads > 0,
    )


def fitting_batch(task: Task) -> int:
    """The batch size, halved until what the workers have ready fits into half of the shared memory that is free.

    Raises:
        ValueError: hardly an image would be left.
    """
    batch = asked = task.config.train.batch_size
    if task.threads == 0 or not SHARED.exists():
        return batch
    free = shutil.disk_usage(SHARED).free
    image = 2 * 3 * 4 * task.config.data.image_size**2  # two views in fp32
    while AHEAD * task.threads * batch * image > free / 2:
        batch //= 2
        if batch < LEAST:
            raise ValueError(
                f"{SHARED} has {free / 1e9:.2g} GB free, too little for batches of {min(asked, LEAST)} from "
                f"{task.threads} workers: give it more (docker run --shm-size), or set fewer data.workers"
            )
    return batch


def loader_note(loader: DataLoader[Item], task: Task) -> str:
    """What was done to make a loader's batches fit, to be added to a note; nothing if they do."""
    asked, made = task.config.train.batch_size, loader.batch_size
    return "" if made == asked else f"; batches are of {made}, since {SHARED} is too small for {asked}"


def plain_batches(loader: DataLoader[Item], device: torch.device) -> Iterator[Batch]:
    """Batches without end, on the device."""
    while True:
        for view_1, view_2, index in loader:
            there = [part.to(device, non_blocking=True) for part in (view_1, view_2, index)]
            yield Batch(there[0], there[1], there[2])


class PlainStep(TrainingStep):
    """The step of Algorithm 1, eager and in full precision."""

    def __call__(self, batch: Batch, step: int) -> Losses:
        losses, new_keys = self.contrast(batch, step)
        self.optimizer.zero_grad()
        losses.loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.enqueue(new_keys, self.clusters_on(step))
        decay = momentum_at(step, self.config.momentum.decay, self.config.momentum.warmup)
        with torch.no_grad():
            for slow, fast in zip(self.twin.parameters(), self.model.parameters(), strict=True):
                slow.mul_(decay).add_(fast, alpha=1.0 - decay)
        return losses


def build_plain_step(config: Config, device: torch.device) -> PlainStep:
    """The plain step of these settings; K must be set."""
    assert config.model.num_clusters is not None
    torch.manual_seed(config.seed)
    model = TCC(config.model, config.loss).to(device)
    queues = build_queues(config, config.model.num_clusters, device=device)
    optim = config.optim
    optimizer: torch.optim.Optimizer
    if optim.name == "sgd":
        optimizer = torch.optim.SGD(model.parameters(), optim.lr, optim.sgd_momentum, weight_decay=optim.weight_decay)
    else:
        kind = torch.optim.AdamW if optim.name == "adamw" else torch.optim.Adam
        optimizer = kind(model.parameters(), optim.lr, weight_decay=optim.weight_decay)
    return PlainStep(config, model, momentum_twin(model), queues, optimizer, SingleProcess())
