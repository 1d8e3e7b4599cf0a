"""One image to one view, and a chunk of a batch to its views: what a thread does."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from tcc_fast.pipelines.cpu.blur import blur, make_blur_scratch
from tcc_fast.pipelines.cpu.colour import before_contrast, from_contrast, interleave, split_planes, to_levels
from tcc_fast.pipelines.cpu.compile import compiled
from tcc_fast.pipelines.cpu.draw import draw_view, key_of, recipe_row
from tcc_fast.pipelines.cpu.mix import LANES, PAIR
from tcc_fast.pipelines.cpu.place import affine_region, crop_rows, lay_columns, max_taps, resize_taps, stored_box
from tcc_fast.settings import AugmentConfig
from tcc_fast.views.numbers import BLUR, FLIP, NUM_PARAMETERS, SIGMA
from tcc_fast.views.resample import blur_kernel_size

_BLOCK = 256
"""Pixels, about, that go through all their operations at a time: small enough for the nearest cache."""


class Plan(NamedTuple):
    """What is the same for every view of a run."""

    recipe: Any
    """`recipe_row`."""
    active: Any
    """(4,) bool: the parts of the jitter that change anything."""
    affine: bool
    blur_size: int
    """0: there is no blur in the recipe."""
    size: int
    """S."""
    gain: Any
    """(3,) float32: a channel is normalised as x · gain + offset."""
    offset: Any


def make_plan(recipe: AugmentConfig, size: int, mean: Tensor, std: Tensor) -> Plan:
    """The plan for a recipe, views of S × S, and the data set's moments, (3,) each."""
    strengths = (recipe.brightness, recipe.contrast, recipe.saturation, recipe.hue)
    gain, offset = (1 / std).float().cpu().numpy(), (-mean / std).float().cpu().numpy()
    kernel = blur_kernel_size(size) if recipe.blur else 0
    return Plan(recipe_row(recipe), np.array(strengths) > 0, recipe.has_affine, kernel, size, gain, offset)


@compiled
def make_scratch(plan: Any, height: int, width: int) -> Any:
    """Working memory of a thread for images of at most height × width pixels."""
    size = plan.size
    padded = -(-size // LANES) * LANES
    taps_y = (np.empty(size, np.int64), np.empty(size, np.int64), np.empty((size, max_taps(height, size)), np.float32))
    taps_x = (np.empty(size, np.int64), np.empty(size, np.int64), np.empty((size, max_taps(width, size)), np.float32))
    max_pairs = (max_taps(width, size) + 1) // 2
    columns = (np.zeros(padded, np.int64), np.zeros((padded, PAIR * max_pairs), np.float32))
    # Output pixels at the border have fewer taps than those that are mixed together with them: the rest weighs nothing,
    # but is read. It must be there, and finite.
    row = np.zeros(3 * (width + 2 * max_pairs) + PAIR, np.float32)
    planes = np.empty((3, size * size + LANES), np.float32)
    warped = np.empty((height, 3 * width) if plan.affine else (1, 1), np.float32)
    blurring = make_blur_scratch(size if plan.blur_size else 1, plan.blur_size)
    return taps_y, taps_x, columns, row, planes, warped, blurring


@compiled
def _place(source: Any, height: float, width: float, parameters: Any, plan: Any, scratch: Any, colours: bool) -> Any:
    """Fill the planes with the crop; with `colours`, do what comes before the contrast and return the sum of grey."""
    taps_y, taps_x, (at, columns), row, planes, warped, _ = scratch
    size = plan.size
    stored_h, stored_w = source.shape[0], source.shape[1] // 3
    box = stored_box(parameters, height, width, stored_h, stored_w)
    resize_taps(box[0], box[2], size, 1 / 255, *taps_y)
    resize_taps(box[1], box[3], size, 1.0, *taps_x)
    pairs = lay_columns(taps_x, parameters[FLIP] != 0, at, columns)
    x = taps_x[0][0]
    n = taps_x[0][size - 1] + taps_x[1][size - 1] - x
    if plan.affine:
        affine_region(source, parameters, width / height, box, warped)
    rows = max(1, _BLOCK // size)
    grey = 0.0
    for start in range(0, size, rows):
        stop = min(start + rows, size)
        if plan.affine:
            crop_rows(warped, taps_y, at, columns, pairs, start, stop, x, n, row, planes, size)
        else:
            crop_rows(source, taps_y, at, columns, pairs, start, stop, x, n, row, planes, size)
        if colours:
            grey += before_contrast(planes, start * size, stop * size, parameters, plan.active)
    return grey


@compiled
def _finish(parameters: Any, plan: Any, scratch: Any, grey: float, out: Any) -> None:
    """The contrast and all that follows, from the planes to `out`, (S · S · 3,) float32."""
    planes, blurring = scratch[4], scratch[6]
    pixels = plan.size * plan.size
    blurs = plan.blur_size > 0 and parameters[BLUR] != 0
    for start in range(0, pixels, _BLOCK):
        stop = min(start + _BLOCK, pixels)
        from_contrast(planes, start, stop, parameters, plan.active, grey / pixels)
        if not blurs:
            interleave(planes, start, stop, plan.gain, plan.offset, out)
    if blurs:
        blur(planes, plan.size, plan.blur_size, parameters[SIGMA], blurring)
        interleave(planes, 0, pixels, plan.gain, plan.offset, out)


@compiled
def make_view(source: Any, height: float, width: float, parameters: Any, plan: Any, scratch: Any, out: Any) -> None:
    """One view of one image.

    Args:
        source: (H, 3 W) uint8, as the image is stored.
        height: of the image's own geometry, in which its crop was drawn.
        width: likewise.
        parameters: (NUM_PARAMETERS,) of the view.
        plan: `make_plan`.
        scratch: `make_scratch` for images at least this large.
        out: (S · S · 3,) float32.
    """
    grey = _place(source, height, width, parameters, plan, scratch, True)
    _finish(parameters, plan, scratch, grey, out)


@compiled
def stored_views(
    images: Any,
    sizes: Any,
    index: Any,
    bases: Any,
    first: int,
    plan: Any,
    start: int,
    stop: int,
    out_1: Any,
    out_2: Any,
) -> None:
    """Both views of images index[start:stop] out of those in memory.

    Args:
        images: (N, H, 3 W) uint8.
        sizes: (N, 2) int64, own height and width.
        index: (B,) int64.
        bases: (2,) int64, `scalar_key` of each view without the image.
        first: index of the first of the N images.
        plan: `make_plan`.
        start: first of the images of the batch to do.
        stop: the one after the last.
        out_1: (B, S · S · 3) float32.
        out_2: likewise.
    """
    scratch = make_scratch(plan, images.shape[1], images.shape[2] // 3)
    parameters = np.empty(NUM_PARAMETERS)
    for i in range(start, stop):
        image, row = index[i], index[i] - first
        height, width = np.float64(sizes[row, 0]), np.float64(sizes[row, 1])
        draw_view(key_of(bases[0], image), height, width, plan.recipe, parameters)
        make_view(images[row], height, width, parameters, plan, scratch, out_1[i])
        draw_view(key_of(bases[1], image), height, width, plan.recipe, parameters)
        make_view(images[row], height, width, parameters, plan, scratch, out_2[i])


@compiled
def finished_views(crops: Any, parameters: Any, plan: Any, start: int, stop: int, out: Any) -> None:
    """Views of crops that were made elsewhere: (B, S · S · 3) uint8, (B, NUM_PARAMETERS), to (B, S · S · 3) float32."""
    scratch = make_scratch(plan, 1, 1)
    planes, pixels = scratch[4], plan.size * plan.size
    for i in range(start, stop):
        grey = 0.0
        for first in range(0, pixels, _BLOCK):
            last = min(first + _BLOCK, pixels)
            split_planes(crops[i], first, last, planes)
            grey += before_contrast(planes, first, last, parameters[i], plan.active)
        _finish(parameters[i], plan, scratch, grey, out[i])


@compiled
def decoded_views(
    pixels: Any,
    offsets: Any,
    shapes: Any,
    index: Any,
    bases: Any,
    plan: Any,
    start: int,
    stop: int,
    parameters: Any,
    views: Any,
    crops: Any,
) -> None:
    """Both views of images start .. stop, which have just been decoded, each at its own size.

    One of `views` and `crops` has no images; the other is filled.

    Args:
        pixels: (bytes,) uint8, in which image i lies at offsets[i - start].
        offsets: (stop - start,) int64.
        shapes: (B, 2) int64, height and width in pixels.
        index: (B,) int64.
        bases: (2,) int64, `scalar_key` of each view without the image.
        plan: `make_plan`.
        start: first of the images of the batch to do.
        stop: the one after the last.
        parameters: (2, B, NUM_PARAMETERS), filled.
        views: (2, B, S · S · 3) float32.
        crops: (2, B, S · S · 3) uint8, views whose colours are left for later.
    """
    highest, widest = 1, 1
    for i in range(start, stop):
        highest, widest = max(highest, shapes[i, 0]), max(widest, shapes[i, 1])
    scratch = make_scratch(plan, highest, widest)
    for i in range(start, stop):
        h, w = shapes[i, 0], shapes[i, 1]
        height, width = float(h), float(w)
        source = pixels[offsets[i - start] : offsets[i - start] + 3 * h * w].reshape(h, 3 * w)
        for view in range(2):
            drawn = parameters[view, i]
            draw_view(key_of(bases[view], index[i]), height, width, plan.recipe, drawn)
            if crops.shape[1] > 0:
                _place(source, height, width, drawn, plan, scratch, False)
                to_levels(scratch[4], crops[view, i])
            else:
                make_view(source, height, width, drawn, plan, scratch, views[view, i])
