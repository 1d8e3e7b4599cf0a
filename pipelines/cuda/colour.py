"""What changes colours: jitter, grey, normalise; a program for each view. See `finish` in `tcc_fast.views.augment`."""

from __future__ import annotations

import triton
import triton.language as tl

from tcc_fast.views import colour
from tcc_fast.views import numbers as at

_COLUMNS = tl.constexpr(at.NUM_PARAMETERS)
_JITTER, _FACTORS, _ORDER = tl.constexpr(at.JITTER), tl.constexpr(at.FACTORS), tl.constexpr(at.ORDER)
_GREY, _BLUR = tl.constexpr(at.GREY), tl.constexpr(at.BLUR)
_BRIGHTNESS, _CONTRAST = tl.constexpr(at.BRIGHTNESS), tl.constexpr(at.CONTRAST)
_SATURATION, _HUE = tl.constexpr(at.SATURATION), tl.constexpr(at.HUE)
_RED, _GREEN, _BLUE = (tl.constexpr(weight) for weight in colour.GREY_WEIGHTS)


@triton.jit
def _unit(x):
    return tl.minimum(tl.maximum(x, 0.0), 1.0)


@triton.jit
def _grey(red, green, blue):
    return _RED * red + _GREEN * green + _BLUE * blue


@triton.jit
def _blend(red, green, blue, other, factor):
    rest = (1.0 - factor) * other
    return _unit(factor * red + rest), _unit(factor * green + rest), _unit(factor * blue + rest)


@triton.jit
def _hue_channel(k, value, chroma):
    """value - chroma · trapezoid(k mod 6)."""
    k = tl.where(k >= 6.0, k - 6.0, k)
    return value - chroma * _unit(tl.minimum(k, 4.0 - k))


@triton.jit
def _hue(red, green, blue, shift):
    value = tl.maximum(tl.maximum(red, green), blue)
    chroma = value - tl.minimum(tl.minimum(red, green), blue)
    inverse = 1.0 / tl.where(chroma == 0.0, 1.0, chroma)
    of_green, of_blue = 2.0 + (blue - red) * inverse, 4.0 + (red - green) * inverse
    sector = tl.where(value == red, (green - blue) * inverse, tl.where(value == green, of_green, of_blue))
    turns = sector * (1.0 / 6.0) + shift
    sector = (turns - tl.floor(turns)) * 6.0
    return (
        _hue_channel(5.0 + sector, value, chroma),
        _hue_channel(3.0 + sector, value, chroma),
        _hue_channel(1.0 + sector, value, chroma),
    )


@triton.jit
def _jittered(red, green, blue, row, stop, mean):
    """The first ``stop`` parts of a view's jitter, in its own order; all its pixels take the same branches.

    A part that the recipe leaves out has a factor that changes nothing.
    """
    for turn in range(4):
        part = tl.load(row + _ORDER + turn).to(tl.int32)
        factor = tl.load(row + _FACTORS + part)
        if turn >= stop:
            pass
        elif part == _BRIGHTNESS:
            red, green, blue = _unit(red * factor), _unit(green * factor), _unit(blue * factor)
        elif part == _CONTRAST:
            red, green, blue = _blend(red, green, blue, mean, factor)
        elif part == _SATURATION:
            red, green, blue = _blend(red, green, blue, _grey(red, green, blue), factor)
        elif factor != 0.0:
            red, green, blue = _hue(red, green, blue, factor)
    return red, green, blue


@triton.jit
def _pixels(source, channel_stride, line_stride, column_stride, pixel, inside, SIZE: tl.constexpr):
    """These pixels' channels in 0..1."""
    at_pixel = source + (pixel // SIZE) * line_stride + (pixel % SIZE) * column_stride
    red = tl.load(at_pixel, inside, other=0.0)
    green = tl.load(at_pixel + channel_stride, inside, other=0.0)
    blue = tl.load(at_pixel + 2 * channel_stride, inside, other=0.0)
    unit: tl.constexpr = 1.0 / 255.0
    return red.to(tl.float32) * unit, green.to(tl.float32) * unit, blue.to(tl.float32) * unit


@triton.jit
def change_colours(
    levels,
    rows,
    moments,
    planes,
    views,
    images,
    view_stride,
    image_stride,
    channel_stride,
    line_stride,
    column_stride,
    SIZE: tl.constexpr,
    BLURS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Jitter and grey a view; then normalise it, or leave it to the blur.

    Grid: (V B,), a program for each view.

    Args:
        levels: (V, B, 3, S, S) in 0..255 of any dtype and with any strides, the five that follow.
        rows: (V B, NUM_PARAMETERS) float32, `ViewParameters.pack`.
        moments: (2, 3) float32, mean and std.
        planes: (V B, 3, S, S), in 0..1, written for views that are to be blurred.
        views: (V B, S, S, 3), normalised, written for the others.
        images: B.
        SIZE: S.
        BLURS: whether the recipe blurs at all.
        BLOCK: pixels at a time.
    """
    view = tl.program_id(0)
    first = view.to(tl.int64)
    source = levels + (first // images) * view_stride + (first % images) * image_stride
    row = rows + view * _COLUMNS
    pixels: tl.constexpr = SIZE * SIZE
    parts = tl.where(tl.load(row + _JITTER) != 0.0, 4, 0)

    # The contrast is about the mean of the whole view, as it is when the contrast has its turn.
    mean = 0.0
    if (parts > 0) & (tl.load(row + _FACTORS + _CONTRAST) != 1.0):
        turn = 0
        for place in range(1, 4):
            turn = tl.where(tl.load(row + _ORDER + place) == _CONTRAST, place, turn)
        total = tl.zeros([BLOCK], tl.float32)
        for start in range(0, pixels, BLOCK):
            pixel = start + tl.arange(0, BLOCK)
            inside = pixel < pixels
            red, green, blue = _pixels(source, channel_stride, line_stride, column_stride, pixel, inside, SIZE)
            red, green, blue = _jittered(red, green, blue, row, turn, 0.0)
            total += tl.where(inside, _grey(red, green, blue), 0.0)
        mean = tl.sum(total, 0) / pixels

    to_grey = tl.load(row + _GREY) != 0.0
    to_blur = tl.load(row + _BLUR) != 0.0
    for start in range(0, pixels, BLOCK):
        pixel = start + tl.arange(0, BLOCK)
        inside = pixel < pixels
        red, green, blue = _pixels(source, channel_stride, line_stride, column_stride, pixel, inside, SIZE)
        red, green, blue = _jittered(red, green, blue, row, parts, mean)
        if to_grey:
            luma = _grey(red, green, blue)
            red, green, blue = luma, luma, luma
        if BLURS and to_blur:
            plane = planes + first * (3 * pixels) + pixel
            tl.store(plane, red.to(planes.dtype.element_ty), inside)
            tl.store(plane + pixels, green.to(planes.dtype.element_ty), inside)
            tl.store(plane + 2 * pixels, blue.to(planes.dtype.element_ty), inside)
        else:
            made = views + (first * pixels + pixel) * 3
            for channel in tl.static_range(3):
                value = red if channel == 0 else (green if channel == 1 else blue)
                value = (value - tl.load(moments + channel)) / tl.load(moments + 3 + channel)
                tl.store(made + channel, value.to(views.dtype.element_ty), inside)
