"""The resize along x, as explicit vector instructions.

Left to itself the compiler gathers single numbers here. Two neighbouring pixels of a row are one load of eight numbers:
red, green, blue, twice, and two to ignore. Four pixels of the result, transposed, are four neighbours in each plane.
"""

# mypy: ignore-errors
from __future__ import annotations

from functools import partial, reduce

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 4
"""Pixels of the result that are made together."""
PAIR = 8
"""Numbers that are read for two pixels of the row."""

_FLOAT, _INDEX, _WHOLE = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_EIGHT = ir.VectorType(_FLOAT, PAIR)


@intrinsic
def mix_one(typing, row, at, weights, first, planes, z):
    """planes[c, z + p] = Σ_k w[f + p, k] · row[at[f + p] + 3 k + c], for 4 pixels p and 3 channels c, k < 2.

    Args:
        row: (n,) float32, channels side by side; 8 numbers are read for each pair of taps, whatever their weights.
        at: (S,) int64.
        weights: (S, 8 · most pairs) float32: w[o, k] three times, w[o, k + 1] three times, twice 0, for each pair.
        first: f, of the four pixels.
        planes: (3, m) float32.
        z: where the four go.
    """
    return types.void(row, at, weights, types.int64, planes, types.int64), partial(_emit, unrolled=1)


@intrinsic
def mix_two(typing, row, at, weights, first, planes, z):
    """Like `mix_one` with two pairs of taps: k < 4."""
    return types.void(row, at, weights, types.int64, planes, types.int64), partial(_emit, unrolled=2)


@intrinsic
def mix_many(typing, row, at, weights, first, planes, z, pairs):
    """Like `mix_one` with any number of pairs, at least two."""
    return types.void(row, at, weights, types.int64, planes, types.int64, types.int64), partial(_emit, unrolled=2)


def _emit(context, builder, signature, arguments, unrolled):
    row, at, weights, first, planes, z, *pairs = (
        context.make_array(kind)(context, builder, value) if isinstance(kind, types.Array) else value
        for kind, value in zip(signature.args, arguments, strict=True)
    )

    def vector_at(pointer, kind):
        return builder.bitcast(pointer, kind.as_pointer())

    length = builder.extract_value(weights.shape, 1)
    lane = [builder.add(first, _WHOLE(p)) for p in range(LANES)]
    sources = [builder.gep(row.data, [builder.load(builder.gep(at.data, [lane[p]]))]) for p in range(LANES)]
    factors = [builder.gep(weights.data, [builder.mul(lane[p], length)]) for p in range(LANES)]

    def pair(p, k):
        """The weighted pixels of two taps."""
        pixels = vector_at(builder.gep(sources[p], [builder.mul(k, _WHOLE(6))]), _EIGHT)
        weight = vector_at(builder.gep(factors[p], [builder.mul(k, _WHOLE(PAIR))]), _EIGHT)
        return builder.fmul(builder.load(pixels, align=4), builder.load(weight, align=4), flags=["contract"])

    def plus(one, two):
        return builder.fadd(one, two, flags=["contract"])

    def shuffled(one, two, order):
        return builder.shuffle_vector(one, two, ir.Constant(ir.VectorType(_INDEX, len(order)), order))

    sums = [reduce(plus, [pair(p, _WHOLE(k)) for k in range(unrolled)]) for p in range(LANES)]
    if pairs:
        totals = [cgutils.alloca_once_value(builder, one) for one in sums]
        with cgutils.for_range(builder, pairs[0], start=_WHOLE(unrolled)) as loop:
            for p in range(LANES):
                builder.store(plus(builder.load(totals[p]), pair(p, loop.index)), totals[p])
        sums = [builder.load(one) for one in totals]
    pixels = [plus(shuffled(one, one, [0, 1, 2, 6]), shuffled(one, one, [3, 4, 5, 7])) for one in sums]
    low = [shuffled(pixels[p], pixels[p + 1], [0, 4, 1, 5]) for p in (0, 2)]  # r r g g
    high = [shuffled(pixels[p], pixels[p + 1], [2, 6, 3, 7]) for p in (0, 2)]  # b b . .
    channels = [shuffled(*low, [0, 1, 4, 5]), shuffled(*low, [2, 3, 6, 7]), shuffled(*high, [0, 1, 4, 5])]
    width = builder.extract_value(planes.shape, 1)
    for channel, values in enumerate(channels):
        place = builder.gep(planes.data, [builder.add(z, builder.mul(width, _WHOLE(channel)))])
        builder.store(values, vector_at(place, values.type), align=4)
    return context.get_dummy_value()
