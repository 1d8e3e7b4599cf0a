"""The innermost loop of the resize, as explicit vector instructions.

Left to itself the compiler gathers single numbers here. Four pixels that lie anywhere in a row are each one load of
four numbers (red, green, blue, and one to ignore); transposed, they are four neighbours in each plane.
"""

# mypy: ignore-errors
from __future__ import annotations

from functools import partial, reduce

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 4

_FLOAT = ir.FloatType()
_FOUR = ir.VectorType(_FLOAT, LANES)


@intrinsic
def mix_two(typing, row, at, weights, first, planes, z):
    """planes[c, z + p] = Σ_k weights[k, f + p] · row[at[f + p] + 3 k + c], for 4 pixels p and 3 channels c, k < 2.

    Args:
        row: (n,) float32, channels side by side; 4 numbers are read for each tap, whatever its weight.
        at: (S,) int64.
        weights: (most taps, S) float32.
        first: f, of the four pixels.
        planes: (3, m) float32.
        z: where the four go.
    """
    return types.void(row, at, weights, types.int64, planes, types.int64), partial(_emit, unrolled=2)


@intrinsic
def mix_three(typing, row, at, weights, first, planes, z):
    """Like `mix_two` with k < 3."""
    return types.void(row, at, weights, types.int64, planes, types.int64), partial(_emit, unrolled=3)


@intrinsic
def mix_four(typing, row, at, weights, first, planes, z):
    """Like `mix_two` with k < 4."""
    return types.void(row, at, weights, types.int64, planes, types.int64), partial(_emit, unrolled=4)


@intrinsic
def mix_many(typing, row, at, weights, first, planes, z, taps):
    """Like `mix_two` with k < `taps`, which is at least 4."""
    return types.void(row, at, weights, types.int64, planes, types.int64, types.int64), partial(_emit, unrolled=4)


def _emit(context, builder, signature, arguments, unrolled):
    row, at, weights, first, planes, z, *taps = (
        context.make_array(kind)(context, builder, value) if isinstance(kind, types.Array) else value
        for kind, value in zip(signature.args, arguments, strict=True)
    )
    whole, index = ir.IntType(64), ir.IntType(32)
    splat = ir.Constant(ir.VectorType(index, LANES), [0] * LANES)

    def vector_at(pointer):
        return builder.bitcast(pointer, _FOUR.as_pointer())

    columns = builder.extract_value(weights.shape, 1)
    lane = [builder.add(first, whole(p)) for p in range(LANES)]
    sources = [builder.load(builder.gep(at.data, [lane[p]])) for p in range(LANES)]

    def tap(p, k):
        """The weighted pixel of one tap."""
        place = builder.add(sources[p], builder.mul(k, whole(3)))
        pixel = builder.load(vector_at(builder.gep(row.data, [place])), align=4)
        weight = builder.load(builder.gep(weights.data, [builder.add(lane[p], builder.mul(k, columns))]))
        spread = builder.insert_element(ir.Constant(_FOUR, ir.Undefined), weight, index(0))
        return builder.fmul(pixel, builder.shuffle_vector(spread, spread, splat), flags=["contract"])

    def plus(one, two):
        return builder.fadd(one, two, flags=["contract"])

    pixels = [reduce(plus, [tap(p, whole(k)) for k in range(unrolled)]) for p in range(LANES)]
    if taps:
        sums = [cgutils.alloca_once_value(builder, pixel) for pixel in pixels]
        with cgutils.for_range(builder, taps[0], start=whole(unrolled)) as loop:
            for p in range(LANES):
                builder.store(plus(builder.load(sums[p]), tap(p, loop.index)), sums[p])
        pixels = [builder.load(pixel) for pixel in sums]

    def shuffled(one, two, order):
        return builder.shuffle_vector(one, two, ir.Constant(ir.VectorType(index, LANES), order))

    low = [shuffled(pixels[p], pixels[p + 1], [0, 4, 1, 5]) for p in (0, 2)]  # r r g g
    high = [shuffled(pixels[p], pixels[p + 1], [2, 6, 3, 7]) for p in (0, 2)]  # b b . .
    channels = [shuffled(*low, [0, 1, 4, 5]), shuffled(*low, [2, 3, 6, 7]), shuffled(*high, [0, 1, 4, 5])]
    length = builder.extract_value(planes.shape, 1)
    for channel, values in enumerate(channels):
        place = builder.add(z, builder.mul(length, whole(channel)))
        builder.store(values, vector_at(builder.gep(planes.data, [place])), align=4)
    return context.get_dummy_value()
