"""The two-view recipe as pure functions on a whole uint8 batch, on any device.

Two steps: `tcc_fast.view_parameters.draw` turns keys into parameters (what happens to each view), :func:`apply` turns
pictures and parameters into views. The meaning of every operation is torchvision's (`RandomAffine`,
`RandomResizedCrop` with antialiasing, `RandomHorizontalFlip`, `ColorJitter` inside `RandomApply`, `RandomGrayscale`,
`GaussianBlur`), in that order and on float images; `pipelines/torch_views.py` builds the same recipe from torchvision
itself.

Shapes: B pictures, stored at H × W pixels, S the side of a view.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tcc_fast.config import AugmentConfig
from tcc_fast.view_parameters import ViewParameters

GREY_WEIGHTS = (0.2989, 0.587, 0.114)
JITTER_PARTS = ("brightness", "contrast", "saturation", "hue")
CONTRAST = JITTER_PARTS.index("contrast")


def apply(
    pictures: Tensor,
    parameters: ViewParameters,
    recipe: AugmentConfig,
    size: int,
    mean: Tensor,
    std: Tensor,
    geometry: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Make V views of each picture: :func:`place`, then :func:`finish`.

    Args:
        pictures: (B, 3, H, W) uint8.
        parameters: of V B views, the first of every picture, then the second of every picture, and so on.
        recipe: only which operations occur at all is read from it, so that absent ones cost nothing.
        size: S.
        mean: (3,) of the data set, pixels in 0..1.
        std: (3,).
        geometry: (heights, widths), (V B,) each, that ``parameters.box`` refers to, when the pictures are stored
            squeezed to H × W; None: H × W itself.

    Returns:
        (V B, 3, S, S) float32, normalised, channels-last.
    """
    return finish(place(pictures, parameters, recipe, size, geometry), parameters, recipe, mean, std)


def place(
    pictures: Tensor,
    parameters: ViewParameters,
    recipe: AugmentConfig,
    size: int,
    geometry: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """What moves pixels: affine map, crop, resize, flip. Arguments of :func:`apply`; (V B, 3, S, S) in 0..1."""
    height, width = pictures.shape[-2:]
    images = pictures.to(torch.float32) / 255.0
    top, left, box_h, box_w = parameters.box.unbind(1)
    aspect = None
    if geometry is not None:
        heights, widths = geometry
        aspect = widths / heights
        top, box_h = _stored_span(top, box_h, heights, height)
        left, box_w = _stored_span(left, box_w, widths, width)
    if recipe.has_affine:
        images = images.repeat(len(top) // len(images), 1, 1, 1)
        images = affine(images, parameters.angle, parameters.shear, parameters.zoom, aspect)
    return crop_resize(images, top, left, box_h, box_w, parameters.flip, size)


def finish(images: Tensor, parameters: ViewParameters, recipe: AugmentConfig, mean: Tensor, std: Tensor) -> Tensor:
    """What changes colours: jitter, grey, blur, normalise. (B, 3, S, S) in 0..1 to the same, channels-last."""
    rgb = colour_jitter(channels(images), parameters, recipe)
    if recipe.grey:
        chosen, luma = _for_pixels(parameters.grey), grey(rgb)
        rgb = RGB(*(torch.where(chosen, luma, channel) for channel in rgb))
    images = torch.stack(rgb, dim=1)
    if recipe.blur:
        images = torch.where(parameters.blur.view(-1, 1, 1, 1), gaussian_blur(images, parameters.sigma), images)
    return normalize(images, mean, std)


def _stored_span(start: Tensor, length: Tensor, side: Tensor, stored: int) -> tuple[Tensor, Tensor]:
    """Pixels of the picture's own geometry in stored ones: at least one of them, so that no view is empty."""
    length = (length * stored / side).clamp(min=1.0)
    return torch.minimum(start * stored / side, stored - length), length


def normalize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(x - mean) / std per channel: (B, 3, S, S) to the same, channels-last."""
    images = (images - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
    return images.contiguous(memory_format=torch.channels_last)


def whole_view(pictures: Tensor, size: int, mean: Tensor, std: Tensor) -> Tensor:
    """The un-augmented view of inference: the whole picture resized (antialiased) to S × S and normalised."""
    count, _, height, width = pictures.shape
    zero = torch.zeros(count, device=pictures.device)
    no_flip = torch.zeros(count, dtype=torch.bool, device=pictures.device)
    images = pictures.to(torch.float32) / 255.0
    if (height, width) != (size, size):
        images = crop_resize(images, zero, zero, zero + height, zero + width, no_flip, size)
    return normalize(images, mean, std)


def affine(images: Tensor, angle: Tensor, shear: Tensor, zoom: Tensor, aspect: Tensor | float | None = None) -> Tensor:
    """RandomAffine about the centre, bilinear, black outside: (B, 3, H, W), (B,) each, to (B, 3, H, W).

    ``aspect`` is the width / height in which the map is meant, when pictures are stored squeezed; None: W / H.
    """
    if aspect is None:
        aspect = images.shape[-1] / images.shape[-2]
    xx, xy, yx, yy = inverse_map(angle, shear, zoom).flatten(1).unbind(1)
    # grid_sample's coordinates run from -1 to 1 over each side, hence the aspect.
    theta = F.pad(torch.stack([xx, xy / aspect, yx * aspect, yy], dim=1).view(-1, 2, 2), (0, 1))  # no translation
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def inverse_map(angle: Tensor, shear: Tensor, zoom: Tensor) -> Tensor:
    """The matrix of RandomAffine, from an offset (x, y) in the view to the one it is sampled at: (B,) to (B, 2, 2)."""
    rotation, tilt = torch.deg2rad(angle), torch.deg2rad(shear)
    cosine, sine, slope = torch.cos(rotation), torch.sin(rotation), torch.tan(tilt)
    # torchvision's forward map is R(angle) · Shear · zoom; sampling needs its inverse.
    rows = [cosine - sine * slope, cosine * slope + sine, -sine, cosine]
    return torch.stack(rows, dim=1).view(-1, 2, 2) / zoom.view(-1, 1, 1)


def resize_weights(start: Tensor, length: Tensor, source: int, size: int) -> Tensor:
    """Rows of an antialiased (triangle) resize of pixels [start, start + length) to ``size``.

    Args:
        start: (B,) pixels; may be fractional.
        length: (B,) pixels.
        source: pixels along the side.
        size: S.

    Returns:
        (B, S, source), every row summing to 1. Equal to torchvision's antialiased bilinear resize of the crop.
    """
    device = start.device
    scale = (length / size).view(-1, 1, 1)
    support = scale.clamp(min=1.0)
    output = torch.arange(size, device=device, dtype=torch.float32).view(1, -1, 1) + 0.5
    pixel = torch.arange(source, device=device, dtype=torch.float32).view(1, 1, -1) + 0.5
    start, end = start.view(-1, 1, 1), (start + length).view(-1, 1, 1)
    weights = (1.0 - (pixel - (start + output * scale)).abs() / support).clamp(min=0.0)
    weights = torch.where((pixel >= start) & (pixel < end), weights, 0.0)
    return weights / weights.sum(dim=2, keepdim=True).clamp(min=1e-8)


def crop_resize(
    images: Tensor, top: Tensor, left: Tensor, box_h: Tensor, box_w: Tensor, flip: Tensor, size: int
) -> Tensor:
    """Crop, antialiased resize and horizontal flip: (B, 3, H, W) and (V B,) each to (V B, 3, S, S)."""
    height, width = images.shape[-2:]
    rows = resize_weights(top, box_h, height, size)
    columns = resize_weights(left, box_w, width, size)
    return _products(images, rows, torch.where(flip.view(-1, 1, 1), columns.flip(1), columns))


def _products(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """rows · image · columnsᵀ for each channel, in V views of each image.

    Two products of matrices, which hold the channels side by side, and the rows of all views one below the other: no
    image is there twice, and no matrix three times.

    Args:
        images: (B, 3, H, W).
        rows: (V B, S, H), the first views of all images first.
        columns: (V B, T, W).

    Returns:
        (V B, 3, S, T).
    """
    count, _, height, width = images.shape
    views, size = len(rows) // count, rows.shape[1]
    lines = images.transpose(1, 2).reshape(count, height, 3 * width)
    lines = _by_image(rows, count).reshape(count, views * size, height) @ lines
    lines = lines.view(count * views, size * 3, width)  # of a view, a row has three lines
    made = lines @ _by_image(columns, count).reshape(count * views, -1, width).transpose(1, 2)
    return made.view(count, views, size, 3, -1).permute(1, 0, 3, 2, 4).flatten(0, 1)


def _by_image(matrices: Tensor, count: int) -> Tensor:
    """(V B, ...) to (B, V, ...)."""
    return matrices.view(-1, count, *matrices.shape[1:]).transpose(0, 1)


class RGB(NamedTuple):
    """The channels of B images, (B, S, S) each: apart, since each needs the others, so that a compiler reads them once
    for all three."""

    red: Tensor
    green: Tensor
    blue: Tensor


def channels(images: Tensor) -> RGB:
    """(B, 3, S, S) taken apart."""
    return RGB(*images.unbind(1))


def _for_pixels(values: Tensor) -> Tensor:
    """(B,) to (B, 1, 1)."""
    return values.view(-1, 1, 1)


def grey(rgb: RGB) -> Tensor:
    """Luma, (B, S, S)."""
    return GREY_WEIGHTS[0] * rgb.red + GREY_WEIGHTS[1] * rgb.green + GREY_WEIGHTS[2] * rgb.blue


def colour_jitter(rgb: RGB, parameters: ViewParameters, recipe: AugmentConfig) -> RGB:
    """ColorJitter with a random order for each image. Parts whose strength is 0 in the recipe are left out.

    The contrast needs the mean of the whole image as it is by then; it is taken once, between what an image has before
    it and what it has after it.
    """
    active = [i for i, part in enumerate(JITTER_PARTS) if getattr(recipe, part) > 0]
    if not active or not recipe.jitter:
        return rgb
    pointwise = [part for part in active if part != CONTRAST]
    if CONTRAST not in active:
        for turn in range(len(JITTER_PARTS)):
            rgb = _turn(rgb, parameters, turn, pointwise, parameters.jitter)
        return rgb
    contrast_turn = (parameters.order == CONTRAST).to(torch.uint8).argmax(dim=1)
    for turn in range(len(JITTER_PARTS) - 1):
        rgb = _turn(rgb, parameters, turn, pointwise, parameters.jitter & (contrast_turn > turn))
    rgb = _where(parameters.jitter, _contrast(rgb, _for_pixels(parameters.factors[:, CONTRAST])), rgb)
    for turn in range(1, len(JITTER_PARTS)):
        rgb = _turn(rgb, parameters, turn, pointwise, parameters.jitter & (contrast_turn < turn))
    return rgb


def _turn(rgb: RGB, parameters: ViewParameters, turn: int, parts: list[int], chosen: Tensor) -> RGB:
    """The part that each chosen image has in this turn, if it is one of ``parts``."""
    result = rgb
    for part in parts:
        now = chosen & (parameters.order[:, turn] == part)
        result = _where(now, _JITTER[part](rgb, _for_pixels(parameters.factors[:, part])), result)
    return result


def _where(chosen: Tensor, new: RGB, old: RGB) -> RGB:
    chosen = _for_pixels(chosen)
    return RGB(*(torch.where(chosen, *pair) for pair in zip(new, old, strict=True)))


def _brightness(rgb: RGB, factor: Tensor) -> RGB:
    return RGB(*((channel * factor).clamp(0.0, 1.0) for channel in rgb))


def _blend(rgb: RGB, other: Tensor, factor: Tensor) -> RGB:
    return RGB(*((factor * channel + (1 - factor) * other).clamp(0.0, 1.0) for channel in rgb))


def _contrast(rgb: RGB, factor: Tensor) -> RGB:
    return _blend(rgb, grey(rgb).mean(dim=(1, 2), keepdim=True), factor)


def _saturation(rgb: RGB, factor: Tensor) -> RGB:
    return _blend(rgb, grey(rgb), factor)


def _hue(rgb: RGB, shift: Tensor) -> RGB:
    """Shift the hue by a fraction of a turn, through HSV."""
    red, green, blue = rgb
    value, low = torch.maximum(torch.maximum(red, green), blue), torch.minimum(torch.minimum(red, green), blue)
    chroma = value - low
    divisor = torch.where(chroma == 0, 1.0, chroma)
    hue = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, 2.0 + (blue - red) / divisor, 4.0 + (red - green) / divisor),
    )
    turns = hue / 6.0 + shift
    sector = (turns - turns.floor()) * 6.0

    def channel(offset: int) -> Tensor:
        """value - chroma · trapezoid((offset + sector) mod 6)."""
        k = offset + sector
        k = torch.where(k >= 6.0, k - 6.0, k)
        return value - chroma * torch.minimum(k, 4.0 - k).clamp(0.0, 1.0)

    return RGB(channel(5), channel(3), channel(1))


_JITTER = (_brightness, _contrast, _saturation, _hue)


def blur_kernel_size(size: int) -> int:
    """Kernel of GaussianBlur for views of this size: odd, about a tenth of it, at least 3."""
    return max(3, size // 10 | 1)


def gaussian_blur(images: Tensor, sigma: Tensor) -> Tensor:
    """GaussianBlur with a sigma for each image and reflected borders: (B, 3, S, S) to the same."""
    weights = _blur_matrix(sigma, images.shape[-1])
    return _products(images, weights, weights)


def _blur_matrix(sigma: Tensor, size: int) -> Tensor:
    """(B,) to (B, S, S): row o holds the weights of the input pixels of output pixel o."""
    half = blur_kernel_size(size) // 2
    offset = torch.arange(-half, half + 1, device=sigma.device)
    kernel = torch.softmax(-0.5 * (offset / sigma.unsqueeze(1)) ** 2, dim=1)  # (B, kernel)
    source = (torch.arange(size, device=sigma.device).unsqueeze(1) + offset).abs()  # reflected at 0
    source = torch.where(source >= size, 2 * (size - 1) - source, source)  # and at the far end
    matrix = torch.zeros(len(sigma), size, size, device=sigma.device)
    return matrix.scatter_add_(2, source.expand(len(sigma), -1, -1), kernel.unsqueeze(1).expand(-1, size, -1))
