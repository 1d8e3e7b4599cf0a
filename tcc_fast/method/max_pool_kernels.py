"""Max pooling 3 × 3 with stride 2 and padding 1, and its gradient, by Triton: a program for some pixels of a line.

Images are (N, C, H, W), channels-last: H × W at the input, OH × OW at the output.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from tcc_fast.method.max_pool import empty

ELEMENTS = 512
"""Pixels times channels of a program: 8 pixels of the 64 channels of a ResNet, which its lines are multiples of."""


@triton.jit
def _pool(
    x, largest, places, H, W, OH, OW, C: tl.constexpr, PIXELS: tl.constexpr, WIDE: tl.constexpr, EXACT: tl.constexpr
):
    """Grid: (N OH, ceil(OW / PIXELS)). WIDE: C or more, a power of two; EXACT: what is compared and added in."""
    line = tl.program_id(0).to(tl.int64)
    image, row = line // OH, line % OH
    column = tl.program_id(1) * PIXELS + tl.arange(0, PIXELS)[:, None]
    channel = tl.arange(0, WIDE)[None, :]
    inside = (column < OW) & (channel < C)
    best = tl.full([PIXELS, WIDE], float("-inf"), EXACT)
    # As torch: the first of the largest, and where nothing is larger than -inf, the first that there is.
    place = tl.where(row > 0, 0, 3) + tl.where(column > 0, 0, 1) + tl.zeros([PIXELS, WIDE], tl.int32)
    for dy in tl.static_range(3):
        for dx in tl.static_range(3):
            y, at = 2 * row - 1 + dy, 2 * column - 1 + dx
            there = inside & (y >= 0) & (y < H) & (at >= 0) & (at < W)
            value = tl.load(x + ((image * H + y) * W + at) * C + channel, there, other=float("-inf")).to(EXACT)
            better = (value > best) | (value != value)
            best, place = tl.where(better, value, best), tl.where(better, 3 * dy + dx, place)
    to = (line * OW + column) * C + channel
    tl.store(largest + to, best.to(largest.dtype.element_ty), inside)
    tl.store(places + to, place.to(tl.uint8), inside)


@triton.jit
def _gradient(
    of_output,
    places,
    of_input,
    H,
    W,
    OH,
    OW,
    C: tl.constexpr,
    PIXELS: tl.constexpr,
    WIDE: tl.constexpr,
    EXACT: tl.constexpr,
):
    """Grid: (N H, ceil(W / PIXELS)). A pixel lies in one window or in two along each side: the one that begins at or
    before it, and, from odd places, the one after."""
    line = tl.program_id(0).to(tl.int64)
    image, y = line // H, line % H
    x = tl.program_id(1) * PIXELS + tl.arange(0, PIXELS)[:, None]
    channel = tl.arange(0, WIDE)[None, :]
    inside = (x < W) & (channel < C)
    total = tl.zeros([PIXELS, WIDE], EXACT)
    for down in tl.static_range(2):
        row = y // 2 + down
        if (row < OH) & ((down == 0) | (y % 2 == 1)):
            for right in tl.static_range(2):
                column = x // 2 + right
                place = 3 * (y + 1 - 2 * row) + (x + 1 - 2 * column)
                there = inside & (column < OW) & ((right == 0) | (x % 2 == 1))
                at = ((image * OH + row) * OW + column) * C + channel
                hit = tl.load(places + at, there, other=255).to(tl.int32) == place
                total += tl.where(hit, tl.load(of_output + at, there, other=0.0).to(EXACT), 0.0)
    tl.store(of_input + (line * W + x) * C + channel, total.to(of_input.dtype.element_ty), inside)


def _constants(x: Tensor) -> dict[str, Any]:
    channels = x.shape[1]
    wide = triton.next_power_of_2(channels)
    exact = tl.float64 if x.dtype == torch.float64 else tl.float32
    return {"C": channels, "WIDE": wide, "PIXELS": max(1, ELEMENTS // wide), "EXACT": exact, "num_warps": 2}


def pool(x: Tensor) -> tuple[Tensor, Tensor]:
    """The largest values, and at which of a window's nine places each was: (N, C, OH, OW) each, the latter uint8."""
    count, _, height, width = x.shape
    rows, columns = (height + 1) // 2, (width + 1) // 2
    largest = empty(x, rows, columns, x.dtype)
    places = empty(x, rows, columns, torch.uint8)
    constants = _constants(x)
    with torch.cuda.device_of(x):
        _pool[count * rows, triton.cdiv(columns, constants["PIXELS"])](
            x, largest, places, height, width, rows, columns, **constants
        )
    return largest, places


def gradient(of_output: Tensor, places: Tensor, height: int, width: int) -> Tensor:
    """The gradient of the input, (N, C, H, W), from that of the output and the places, (N, C, OH, OW) each."""
    count, _, rows, columns = places.shape
    of_input = empty(of_output, height, width, of_output.dtype)
    constants = _constants(of_output)
    with torch.cuda.device_of(places):
        _gradient[count * height, triton.cdiv(width, constants["PIXELS"])](
            of_output, places, of_input, height, width, rows, columns, **constants
        )
    return of_input
