"""Weighted sums of a few neighbours, for a row of places at once: what resize along y and blur are made of.

The sums of a block of places stay in registers while its neighbours go by, as explicit vector instructions. Left to
itself the compiler goes over the whole row once for each neighbour.
"""

# mypy: ignore-errors
from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tcc_fast.pipelines.cpu.compile import compiled

BLOCK = 32
"""Places whose sums are made side by side."""

_FLOATS = ir.VectorType(ir.FloatType(), BLOCK)


@compiled
def blend(source, place, step, n, count, weights, o, out, at):
    """out[at + j] = Σ_k weights[o, k] · source[place + j + k · step], for j < n and k < count.

    Args:
        source: uint8 or float32 in order of C, of any shape; elements are counted from its beginning.
        place: of the first neighbour of the first sum.
        step: from one neighbour to the next.
        n: sums.
        count: neighbours, at least 1.
        weights: (rows, most neighbours) float32.
        o: row of `weights`.
        out: (m,) float32.
        at: place of the first sum.
    """
    if n < BLOCK:
        flat = source.reshape(-1)
        for j in range(n):
            total = np.float32(0)
            for k in range(count):
                total += weights[o, k] * np.float32(flat[place + j + k * step])
            out[at + j] = total
        return
    for j in range(0, n - BLOCK + 1, BLOCK):
        _blend_block(source, place + j, step, count, weights, o, out, at + j)
    if n % BLOCK:  # the last block once more, as far as it goes
        j = n - BLOCK
        _blend_block(source, place + j, step, count, weights, o, out, at + j)


@intrinsic
def _blend_block(typing, source, place, step, count, weights, o, out, at):
    """`blend` of n = `BLOCK`."""
    whole = types.int64
    return types.void(source, whole, whole, whole, weights, whole, out, whole), _emit


def _emit(context, builder, signature, arguments):
    source, place, step, count, weights, o, out, at = (
        context.make_array(kind)(context, builder, value) if isinstance(kind, types.Array) else value
        for kind, value in zip(signature.args, arguments, strict=True)
    )
    levels = signature.args[0].dtype == types.uint8
    block = ir.VectorType(ir.IntType(8) if levels else ir.FloatType(), BLOCK)
    row = builder.gep(weights.data, [builder.mul(o, builder.extract_value(weights.shape, 1))])
    everywhere = ir.Constant(ir.VectorType(ir.IntType(32), BLOCK), [0] * BLOCK)

    def weighted(k):
        """The k-th neighbours of all places, weighted."""
        first = builder.gep(source.data, [builder.add(place, builder.mul(k, step))])
        values = builder.load(builder.bitcast(first, block.as_pointer()), align=1 if levels else 4)
        if levels:
            values = builder.uitofp(values, _FLOATS)
        weight = builder.load(builder.gep(row, [k]))
        spread = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), weight, ir.IntType(32)(0))
        return builder.fmul(values, builder.shuffle_vector(spread, spread, everywhere), flags=["contract"])

    total = cgutils.alloca_once_value(builder, weighted(ir.IntType(64)(0)))
    with cgutils.for_range(builder, count, start=ir.IntType(64)(1)) as loop:
        builder.store(builder.fadd(builder.load(total), weighted(loop.index), flags=["contract"]), total)
    target = builder.bitcast(builder.gep(out.data, [at]), _FLOATS.as_pointer())
    builder.store(builder.load(total), target, align=4)
    return context.get_dummy_value()
