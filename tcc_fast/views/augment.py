"""The two-view recipe as pure functions on a whole uint8 batch, on any device.

Two steps: `view_parameters.draw` turns keys into parameters (what happens to each view), :func:`apply` turns images
and parameters into views. The meaning of every operation is torchvision's (`RandomAffine`,
`RandomResizedCrop` with antialiasing, `RandomHorizontalFlip`, `ColorJitter` inside `RandomApply`, `RandomGrayscale`,
`GaussianBlur`), in that order and on float images; `pipelines/torch_views.py` builds the same recipe from torchvision
itself.

Shapes: B images, stored at H × W pixels, S the side of a view.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tcc_fast.settings import AugmentConfig
from tcc_fast.views.colour import RGB, channels, colour_jitter, grey, where
from tcc_fast.views.resample import affine, crop_resize, gaussian_blur
from tcc_fast.views.view_parameters import ViewParameters


def apply(
    images: Tensor,
    parameters: ViewParameters,
    recipe: AugmentConfig,
    size: int,
    mean: Tensor,
    std: Tensor,
    geometry: tuple[Tensor, Tensor] | None = None,
    products: torch.dtype = torch.float32,
) -> Tensor:
    """Make V views of each image: :func:`place`, then :func:`finish`.

    Args:
        images: (B, 3, H, W) uint8.
        parameters: of V B views, the first of every image, then the second of every image, and so on.
        recipe: only which operations occur at all is read from it, so that absent ones cost nothing.
        size: S.
        mean: (3,) of the data set, pixels in 0..1.
        std: (3,).
        geometry: (heights, widths), (V B,) each, that ``parameters.box`` refers to, when the images are stored
            squeezed to H × W; None: H × W itself.
        products: what crops and blurs are multiplied in. float16 holds all 256 levels, and weights in 11 bits, as TF32
            does: half the bytes, at 0.2 levels' difference. (bfloat16 would be off by a level and more.)

    Returns:
        (V B, 3, S, S) float32, normalised, channels-last.
    """
    placed = place(images, parameters, recipe, size, geometry, products)
    return finish(placed.flatten(0, 1), parameters, recipe, mean, std, products)


def place(
    images: Tensor,
    parameters: ViewParameters,
    recipe: AugmentConfig,
    size: int,
    geometry: tuple[Tensor, Tensor] | None = None,
    products: torch.dtype = torch.float32,
) -> Tensor:
    """Do what moves pixels: affine map, crop, resize, flip. Arguments of :func:`apply`.

    Returns:
        (V, B, 3, S, S) in 0..255, in ``products``.
    """
    height, width = images.shape[-2:]
    levels = images.to(torch.float32)
    top, left, box_h, box_w = parameters.box.unbind(1)
    aspect = None
    if geometry is not None:
        heights, widths = geometry
        aspect = widths / heights
        top, box_h = _stored_span(top, box_h, heights, height)
        left, box_w = _stored_span(left, box_w, widths, width)
    if recipe.has_affine:
        levels = levels.repeat(len(top) // len(images), 1, 1, 1)  # each view has an image of its own from here on
        levels = affine(levels, parameters.angle, parameters.shear, parameters.zoom, aspect)
    placed = crop_resize(levels.to(products), top, left, box_h, box_w, parameters.flip, size)
    return placed[0].unflatten(0, (-1, len(images))) if recipe.has_affine else placed


def finish(
    levels: Tensor,
    parameters: ViewParameters,
    recipe: AugmentConfig,
    mean: Tensor,
    std: Tensor,
    products: torch.dtype = torch.float32,
) -> Tensor:
    """Do what changes colours: jitter, grey, blur, normalise.

    Args:
        levels: (B, 3, S, S) in 0..255, of any dtype.
        parameters: of these views; the others as for :func:`apply`.

    Returns:
        (B, 3, S, S) float32, normalised, channels-last.
    """
    rgb = colour_jitter(channels(levels.to(torch.float32) / 255.0), parameters, recipe)
    if recipe.grey:
        luma = grey(rgb)
        rgb = where(parameters.grey, RGB(luma, luma, luma), rgb)
    if recipe.blur:
        rgb = RGB(*(channel.to(products) for channel in rgb))
    images = torch.stack(rgb, dim=2).transpose(1, 2)  # a row's channels beside each other, as the blur wants them
    if recipe.blur:
        images = torch.where(parameters.blur.view(-1, 1, 1, 1), gaussian_blur(images, parameters.sigma), images)
    return normalize(images.to(torch.float32), mean, std)


def _stored_span(start: Tensor, length: Tensor, side: Tensor, stored: int) -> tuple[Tensor, Tensor]:
    """Pixels of the image's own geometry in stored ones: at least one of them, so that no view is empty."""
    length = (length * stored / side).clamp(min=1.0)
    return torch.minimum(start * stored / side, stored - length), length


def normalize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Normalise, (x - mean) / std per channel: (B, 3, S, S) to the same, channels-last."""
    images = (images - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
    return images.contiguous(memory_format=torch.channels_last)


def whole_view(images: Tensor, size: int, mean: Tensor, std: Tensor) -> Tensor:
    """The un-augmented view of inference: the whole image resized (antialiased) to S × S and normalised."""
    count, _, height, width = images.shape
    zero = torch.zeros(count, device=images.device)
    no_flip = torch.zeros(count, dtype=torch.bool, device=images.device)
    levels = images.to(torch.float32) / 255.0
    if (height, width) != (size, size):
        (levels,) = crop_resize(levels, zero, zero, zero + height, zero + width, no_flip, size)
    return normalize(levels, mean, std)
