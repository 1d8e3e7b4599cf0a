"""GaussianBlur of the views that have one, a square of them at a time, then normalise. See `gaussian_blur` in
`tcc_fast.views.resample`."""

from __future__ import annotations

import triton
import triton.language as tl

from tcc_fast.views import numbers as at

_COLUMNS = tl.constexpr(at.NUM_PARAMETERS)
_BLUR, _SIGMA = tl.constexpr(at.BLUR), tl.constexpr(at.SIGMA)


def tiling(half: int) -> tuple[int, int]:
    """Side of the square that a program makes, and of the one that it reads for that: `blur`'s TILE and WINDOW."""
    if half <= 8:
        return 16, 32
    return (32, 64) if half <= 16 else (16, 64)


@triton.jit
def _weights(distance, scale, HALF: tl.constexpr):
    """exp(scale · distance²); 0 further away than HALF pixels."""
    return tl.where(tl.abs(distance) <= HALF, tl.exp(scale * (distance * distance).to(tl.float32)), 0.0)


@triton.jit
def _reflected(place, SIZE: tl.constexpr):
    """What lies beyond a border is what lies as far on this side of it; the border itself is there once."""
    last: tl.constexpr = SIZE - 1
    return last - tl.abs(last - tl.abs(place))


@triton.jit
def blur(
    planes,
    rows,
    moments,
    views,
    SIZE: tl.constexpr,
    HALF: tl.constexpr,
    TILE: tl.constexpr,
    WINDOW: tl.constexpr,
):
    """Blur and normalise TILE × TILE pixels of a view, by two products of matrices, if the view is to be blurred.

    Grid: (V B, ceil(S / TILE), ceil(S / TILE)).

    Args:
        planes: (V B, 3, S, S) in 0..1; products are in their dtype, sums in float32.
        rows: (V B, NUM_PARAMETERS) float32, `ViewParameters.pack`.
        moments: (2, 3) float32, mean and std.
        views: (V B, S, S, 3), normalised, written for the views that are to be blurred.
        SIZE: S.
        HALF: how far the kernel reaches.
        WINDOW: TILE + 2 HALF or more, a power of two.
    """
    view = tl.program_id(0)
    row = rows + view * _COLUMNS
    if tl.load(row + _BLUR) == 0.0:
        return
    first = view.to(tl.int64)
    top, left = tl.program_id(1) * TILE, tl.program_id(2) * TILE
    output, source = tl.arange(0, TILE), tl.arange(0, WINDOW)

    sigma = tl.load(row + _SIGMA)
    scale = -0.5 / (sigma * sigma)
    total = 1.0
    for distance in tl.static_range(1, HALF + 1):
        total += 2.0 * tl.exp(scale * (distance * distance))
    along_y = _weights(source[None, :] - HALF - output[:, None], scale, HALF) / total
    along_x = _weights(source[:, None] - HALF - output[None, :], scale, HALF) / total
    dtype = planes.dtype.element_ty

    line = _reflected(top - HALF + source, SIZE)
    column = _reflected(left - HALF + source, SIZE)
    near = source < TILE + 2 * HALF
    seen = (near & (line >= 0))[:, None] & (near & (column >= 0))[None, :]
    window = line[:, None] * SIZE + column[None, :]
    pixel = (top + output)[:, None] * SIZE + (left + output)[None, :]
    inside = (top + output < SIZE)[:, None] & (left + output < SIZE)[None, :]
    for channel in range(3):
        around = tl.load(planes + (first * 3 + channel) * (SIZE * SIZE) + window, seen, other=0.0)
        lines = tl.dot(along_y.to(dtype), around, input_precision="ieee").to(dtype)
        made = tl.dot(lines, along_x.to(dtype), input_precision="ieee").to(dtype).to(tl.float32)
        made = (made - tl.load(moments + channel)) / tl.load(moments + 3 + channel)
        tl.store(views + (first * (SIZE * SIZE) + pixel) * 3 + channel, made.to(views.dtype.element_ty), inside)
