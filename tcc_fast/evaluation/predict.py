"""A trained model within other code: clusters and features of images that lie in no data set."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tcc_fast.cores import default_workers
from tcc_fast.datasets.decode import as_decoded, decode_image
from tcc_fast.datasets.reader import Rejected
from tcc_fast.distributed import processes
from tcc_fast.evaluation.embed import encode
from tcc_fast.evaluation.trained import open_model
from tcc_fast.pipelines.decoded import moment_tensors
from tcc_fast.precision import rounding_as_tuned
from tcc_fast.views.augment import whole_view

Source = str | Path | bytes | Image.Image | np.ndarray[Any, Any]
"""A file's path or its bytes, an image of Pillow's, or pixels, uint8 (H, W) or (H, W, 3)."""


class Prediction(NamedTuple):
    """What the model says of n images, float32 on the CPU."""

    features: Tensor
    """f, (n, d)."""
    assignment: Tensor
    """π, (n, K)."""

    @property
    def cluster(self) -> Tensor:
        """Cluster of each image, argmax of π: (n,)."""
        return self.assignment.argmax(dim=1)

    @property
    def confidence(self) -> Tensor:
        """Confidence in each image's cluster, its π: (n,)."""
        return self.assignment.amax(dim=1)


class Predictor:
    """Clusters images one by one or many at a time; call it with them.

    Each is decoded as `convert` would, resized whole to the side of the views and normalised as in training. It is not
    stored in between, so features differ a little from those of a data set whose images were reduced and encoded anew,
    and more where `convert` crops (beyond 4:1). Many are decoded in several threads.

    Args:
        ckpt: a run, a checkpoint folder, or `latest`.
        device: where to compute; None: on a GPU, if there is one.

    Raises:
        ValueError: no such checkpoint, or a damaged one.
    """

    def __init__(self, ckpt: str | Path, device: torch.device | str | None = None) -> None:
        self.trained = open_model(ckpt, processes().device if device is None else torch.device(device))
        dataset = self.trained.state.dataset
        self.image_size = self.trained.state.config.data.image_size
        self._mean, self._std = moment_tensors((dataset["mean"], dataset["std"]), self.trained.device)

    def __call__(self, images: Iterable[Source] | Source, batch_size: int = 256) -> Prediction:
        """Features and assignments of images, in their order; a single one is a prediction of n = 1.

        Raises:
            ValueError: there is none, or one is no image, which it says; or an array may be read in two ways.
            OSError: a file cannot be read.
        """
        batches = self._views(_several(images), batch_size)
        with rounding_as_tuned(self.trained.device, self.trained.precision):
            encoded = [encode(self.trained.model, views, self.trained.precision) for views in batches]
        if not encoded:
            raise ValueError("there are no images to predict of")
        return Prediction(*(torch.cat(parts) for parts in zip(*encoded, strict=True)))

    def _views(self, images: Iterable[Source], batch_size: int) -> Iterator[Tensor]:
        """Batches of at most ``batch_size`` views, (B, 3, S, S), on the device."""
        each = self._each_view(images)
        while batch := list(itertools.islice(each, batch_size)):
            yield torch.cat(batch)

    def _each_view(self, images: Iterable[Source]) -> Iterator[Tensor]:
        """The view of each image, (1, 3, S, S). A few are decoded at a time, and few are there at their full size."""
        workers, waiting = default_workers(), deque[Future[Tensor]]()
        with ThreadPoolExecutor(workers) as threads:
            for place, image in enumerate(images):
                if isinstance(image, Image.Image):
                    image.load()  # not by two threads, if it is there twice
                waiting.append(threads.submit(self._view, image, place))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _view(self, image: Source, place: int) -> Tensor:
        """The view of one image, (1, 3, S, S) on the device; ``place`` is the image's among all."""
        pixels = torch.from_numpy(_pixels(image, place, 2 * self.image_size)).to(self.trained.device)
        return whole_view(pixels.permute(2, 0, 1).unsqueeze(0), self.image_size, self._mean, self._std)


def _several(images: Iterable[Source] | Source) -> Iterable[Source]:
    """The images, a single one as a list. An array of shape (H, W) or (H, W, 3) is an image, not a sequence of rows."""
    if isinstance(images, np.ndarray):
        if images.ndim == 3 and images.shape[2] != 3 and min(images.shape[0], images.shape[2]) <= 4:
            raise ValueError(
                f"an array of shape {images.shape} may be an image or several: give (H, W, 3), or a list of images"
            )
        return [images] if images.ndim == 2 or (images.ndim == 3 and images.shape[2] == 3) else iter(images)
    return [images] if isinstance(images, str | Path | bytes | Image.Image) else images


def _pixels(image: Source, place: int, reduce_to: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Pixels of an image, (H, W, 3) uint8; a JPEG may be halved while its short side stays at least ``reduce_to``."""
    name = f"image {place}"
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)) or not image.size:
            raise ValueError(f"{name} is {image.dtype} of shape {image.shape}, not uint8 (H, W) or (H, W, 3)")
        return np.array(Image.fromarray(image).convert("RGB"))
    if isinstance(image, Image.Image):
        found = as_decoded(image)
    else:
        if not isinstance(image, str | Path | bytes):
            kind = type(image).__name__
            raise ValueError(f"{name} is a {kind}: give a path, bytes, an image of Pillow's or an array of numpy's")
        if not isinstance(image, bytes):
            name, image = str(image), Path(image).read_bytes()
        decoded = decode_image(image, reduce_to=reduce_to)
        found = decoded if isinstance(decoded, Rejected) else decoded.image
    if isinstance(found, Rejected):
        raise ValueError(f"{name}: {found}")
    return np.array(found.convert("RGB"))
