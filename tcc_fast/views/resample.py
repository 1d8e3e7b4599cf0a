"""What moves pixels: crops, affine maps and blurs of a whole batch, as products of matrices where that can be.

Shapes: B images of H × W pixels, S the side of a view, V views of each image.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def affine(images: Tensor, angle: Tensor, shear: Tensor, zoom: Tensor, aspect: Tensor | float | None = None) -> Tensor:
    """RandomAffine about the centre, bilinear, black outside: (B, 3, H, W), (B,) each, to (B, 3, H, W).

    ``aspect`` is the width / height in which the map is meant, when images are stored squeezed; None: W / H.
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


def resize_weights(start: Tensor, length: Tensor, source: int, size: int, flip: Tensor | None = None) -> Tensor:
    """Rows of an antialiased (triangle) resize of pixels [start, start + length) to ``size``.

    Args:
        start: (B,) pixels; may be fractional.
        length: (B,) pixels.
        source: pixels along the side.
        size: S.
        flip: (B,) bool, whether the last row shall be the first.

    Returns:
        (B, S, source), every row summing to 1. Equal to torchvision's antialiased bilinear resize of the crop.
    """
    device = start.device
    scale = (length / size).view(-1, 1, 1)
    support = scale.clamp(min=1.0)
    output = torch.arange(size, device=device, dtype=torch.float32).view(1, -1, 1) + 0.5
    if flip is not None:
        output = torch.where(flip.view(-1, 1, 1), size - output, output)
    pixel = torch.arange(source, device=device, dtype=torch.float32).view(1, 1, -1) + 0.5
    start, end = start.view(-1, 1, 1), (start + length).view(-1, 1, 1)
    weights = (1.0 - (pixel - (start + output * scale)).abs() / support).clamp(min=0.0)
    weights = torch.where((pixel >= start) & (pixel < end), weights, 0.0)
    return weights / weights.sum(dim=2, keepdim=True).clamp(min=1e-8)


def crop_resize(
    images: Tensor, top: Tensor, left: Tensor, box_h: Tensor, box_w: Tensor, flip: Tensor, size: int
) -> Tensor:
    """Crop, antialiased resize and horizontal flip: (B, 3, H, W) and (V B,) each to (V, B, 3, S, S), in their dtype."""
    count, (height, width) = len(images), images.shape[-2:]
    top, left, box_h, box_w, flip = (_by_image(values, count) for values in (top, left, box_h, box_w, flip))
    rows = resize_weights(top, box_h, height, size)
    columns = resize_weights(left, box_w, width, size, flip)
    return _products(images, rows.to(images.dtype), columns.to(images.dtype))


def _by_image(values: Tensor, count: int) -> Tensor:
    """Values of V views of each of ``count`` images, from view by view to image by image: (V B,) to (B V,)."""
    return values.view(-1, count).t().flatten()


def _products(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """rows · image · columnsᵀ for each channel, in V views of each image.

    Two products of matrices, which hold the channels side by side, and the rows of all views of an image one below the
    other: no image is there twice, and no matrix three times.

    Args:
        images: (B, 3, H, W); nothing is copied if a row's three channels are beside each other in memory.
        rows: (B V, S, H), all views of the first image first.
        columns: (B V, T, W).

    Returns:
        (V, B, 3, S, T); in memory an image's views lie one after the other, and a row's channels beside each other.
    """
    count, _, height, width = images.shape
    views, size = len(rows) // count, rows.shape[1]
    lines = images.transpose(1, 2).reshape(count, height, 3 * width)
    lines = rows.view(count, views * size, height) @ lines
    lines = lines.view(count * views, size * 3, width)  # of a view, a row has three lines
    made = lines @ columns.transpose(1, 2)
    return made.view(count, views, size, 3, -1).permute(1, 0, 3, 2, 4)


def blur_kernel_size(size: int) -> int:
    """Kernel of GaussianBlur for views of this size: odd, about a tenth of it, at least 3."""
    return max(3, size // 10 | 1)


def gaussian_blur(images: Tensor, sigma: Tensor) -> Tensor:
    """GaussianBlur with a sigma for each image and reflected borders: (B, 3, S, S) to the same, in their dtype."""
    weights = _blur_matrix(sigma, images.shape[-1]).to(images.dtype)
    return _products(images, weights, weights)[0]


def _blur_matrix(sigma: Tensor, size: int) -> Tensor:
    """The blur as matrices, (B,) to (B, S, S): row o holds the weights of the input pixels of output pixel o."""
    half = blur_kernel_size(size) // 2
    bell = torch.exp(-0.5 * (torch.arange(half + 1, device=sigma.device) / sigma.unsqueeze(1)) ** 2)  # by distance
    bell = bell / (2.0 * bell.sum(dim=1, keepdim=True) - 1.0)  # both sides sum to 1
    bell = F.pad(bell, (0, 1))  # nothing further away
    source = torch.arange(size, device=sigma.device)
    output, last = source.unsqueeze(1), size - 1

    def weights(offset: Tensor) -> Tensor:
        return bell[:, offset.abs().clamp(max=half + 1)]

    # What lies beyond a border is what lies as far on this side of it; the border itself is there once.
    beyond_first = torch.where(source > 0, source + output, size)
    beyond_last = torch.where(source < last, 2 * last - source - output, size)
    return weights(source - output) + weights(beyond_first) + weights(beyond_last)
