"""What moves pixels: affine map, crop, antialiased resize, flip. See `tcc_fast.views.resample`.

Sources are (H, 3 W) arrays of levels 0..255, uint8 or float32, red, green and blue side by side. Results are planes:
(3, S · S) float32 in 0..1."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tcc_fast.pipelines.cpu.blend import blend
from tcc_fast.pipelines.cpu.compile import compiled
from tcc_fast.pipelines.cpu.mix import LANES, PAIR, mix_many, mix_one, mix_two
from tcc_fast.views.numbers import ANGLE, HEIGHT, LEFT, SHEAR, TOP, WIDTH, ZOOM

Floats = NDArray[np.float32]
Source = NDArray[Any]


@compiled
def stored_box(parameters: Any, height: float, width: float, stored_h: float, stored_w: float) -> Any:
    """Top, left, height, width of the crop in stored pixels, of an image whose own geometry is height × width."""
    h = max(parameters[HEIGHT] * stored_h / height, 1.0)
    w = max(parameters[WIDTH] * stored_w / width, 1.0)
    top = min(parameters[TOP] * stored_h / height, stored_h - h)
    left = min(parameters[LEFT] * stored_w / width, stored_w - w)
    return top, left, h, w


@compiled
def max_taps(length: int, size: int) -> int:
    """Most pixels that one output pixel can be made of, when at most `length` of them become `size`."""
    return 2 * max(1, math.ceil(length / size)) + 1


@compiled
def resize_taps(start: float, length: float, size: int, gain: float, first: Any, count: Any, weights: Any) -> None:
    """The taps of an antialiased (triangle) resize of pixels [start, start + length) to `size`.

    Output pixel o is the sum of weights[o, k] times pixel first[o] + k, for k < count[o]. Weights sum to `gain`.
    """
    scale = length / size
    support = max(scale, 1.0)
    for o in range(size):
        centre = start + (o + 0.5) * scale
        low = math.ceil(max(start, centre - support) - 0.5)
        high = math.ceil(min(start + length, centre + support) - 0.5)
        total = 0.0
        for k in range(high - low):
            weight = max(0.0, 1.0 - abs(low + k + 0.5 - centre) / support)
            weights[o, k] = weight
            total += weight
        share = gain / total
        for k in range(high - low):
            weights[o, k] *= share
        first[o], count[o] = low, high - low


@compiled
def lay_columns(taps_x: Any, flip: bool, at: Any, columns: Any) -> int:
    """The taps along x in the layout of `mix_one`: starts of triples, and the weights of each pair of taps.

    They are relative to the first pixel that is read. What is not written was 0 and stays it: the last two numbers of
    each pair, and what lies beyond the view's S columns. Returns the number of pairs.
    """
    first, count, weights = taps_x
    size = len(first)
    pairs = (count.max() + 1) // 2
    for o in range(size):
        to = size - 1 - o if flip else o
        at[to] = 3 * (first[o] - first[0])
        for pair in range(pairs):
            k = 2 * pair
            one = weights[o, k] if k < count[o] else np.float32(0)
            two = weights[o, k + 1] if k + 1 < count[o] else np.float32(0)
            for channel in range(3):
                columns[to, PAIR * pair + channel] = one
                columns[to, PAIR * pair + 3 + channel] = two
    return pairs


@compiled
def crop_rows(
    source: Source,
    taps_y: Any,
    at: Any,
    columns: Any,
    pairs: int,
    start: int,
    stop: int,
    x: int,
    n: int,
    row: Floats,
    planes: Any,
    size: int,
) -> None:
    """Rows start .. stop of the view, made of columns x .. x + n of the source.

    Args:
        source: (H, 3 W).
        taps_y: first, count, weights of `resize_taps`.
        at: of `lay_columns`, like `columns` and `pairs`.
        row: scratch of `make_scratch`: beyond 3 n, all that is read has no weight.
        planes: (3, S · S + 4): the last 4 may be written.
        size: S.
    """
    first, count, weights = taps_y
    width = source.shape[1]
    for y in range(start, stop):
        blend(source, first[y] * width + 3 * x, width, 3 * n, count[y], weights, y, row, 0)
        at_row = y * size
        if pairs == 1:
            for o in range(0, size, LANES):
                mix_one(row, at, columns, o, planes, at_row + o)  # type: ignore[call-arg]
        elif pairs == 2:
            for o in range(0, size, LANES):
                mix_two(row, at, columns, o, planes, at_row + o)  # type: ignore[call-arg]
        else:
            for o in range(0, size, LANES):
                mix_many(row, at, columns, o, planes, at_row + o, pairs)  # type: ignore[call-arg]


@compiled
def affine_region(source: Source, parameters: Any, aspect: float, box: Any, out: Any) -> None:
    """Fill the part of `out`, (H, 3 W) float32, that the crop `box` reads with the affine map of `source`."""
    stored_h, stored_w = source.shape[0], source.shape[1] // 3
    rotation, tilt = math.radians(parameters[ANGLE]), math.radians(parameters[SHEAR])
    zoom = parameters[ZOOM]
    a, b = math.cos(rotation) / zoom, (-math.cos(rotation) * math.tan(tilt) - math.sin(rotation)) / zoom
    c, d = math.sin(rotation) / zoom, (-math.sin(rotation) * math.tan(tilt) + math.cos(rotation)) / zoom
    # The inverse map, about the centre, in pixels: a step right moves the source by (right_x, right_y).
    shape = aspect * stored_h / stored_w  # 1 unless the image is stored squeezed
    right_x, down_x, right_y, down_y = d, -b / shape, -c * shape, a
    top, left, h, w = box
    first, last = math.floor(left), math.ceil(left + w)
    for y in range(math.floor(top), math.ceil(top + h)):
        down = y + 0.5 - stored_h / 2
        for x in range(first, last):
            right = x + 0.5 - stored_w / 2
            u = right_x * right + down_x * down + stored_w / 2 - 0.5
            v = right_y * right + down_y * down + stored_h / 2 - 0.5
            _sample(source, stored_h, stored_w, u, v, out[y], 3 * x)


@compiled
def _sample(source: Source, height: int, width: int, u: float, v: float, out: Any, at: int) -> None:
    """The bilinear pixel at (u, v), black outside, to out[at : at + 3]."""
    x, y = math.floor(u), math.floor(v)
    right, down = np.float32(u - x), np.float32(v - y)
    if 0 <= x < width - 1 and 0 <= y < height - 1:
        upper, lower = source[y], source[y + 1]
        for i in range(3 * x, 3 * x + 3):
            above = upper[i] + right * (np.float32(upper[i + 3]) - upper[i])
            below = lower[i] + right * (np.float32(lower[i + 3]) - lower[i])
            out[at] = above + down * (below - above)
            at += 1
        return
    for channel in range(3):
        total = np.float32(0)
        for dy in range(2):
            for dx in range(2):
                if 0 <= x + dx < width and 0 <= y + dy < height:
                    weight = (right if dx else 1 - right) * (down if dy else 1 - down)
                    total += weight * source[y + dy, 3 * (x + dx) + channel]
        out[at + channel] = total
