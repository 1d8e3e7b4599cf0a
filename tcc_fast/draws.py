"""Random numbers as a pure function of what they are for: (seed, epoch, image, view), never of worker timing.

Every random choice of a run is a hash of the coordinates that name it, so nothing has to be stored to resume
a run, and neither the number of workers nor the number of ranks can change what an image gets. The generator
is SplitMix64's finaliser (Steele, Lea & Flood, OOPSLA 2014) over a chain of coordinates, written with wrapping
int64 arithmetic: the same bits on every device, and compilable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# Streams keep the uses of one coordinate apart.
STREAM_ORDER = 1
STREAM_AUGMENT = 2
STREAM_GUMBEL = 3

GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as int64
MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
MIX_2 = -7723592293110705685  # 0x94D049BB133111EB
_MASK_64 = (1 << 64) - 1


def _logical_shift(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _logical_shift(x, 30)) * MIX_1
    x = (x ^ _logical_shift(x, 27)) * MIX_2
    return x ^ _logical_shift(x, 31)


def _mix_int(x: int) -> int:
    x = ((x ^ (x >> 30)) * (MIX_1 & _MASK_64)) & _MASK_64
    x = ((x ^ (x >> 27)) * (MIX_2 & _MASK_64)) & _MASK_64
    return x ^ (x >> 31)


def scalar_key(*coordinates: int) -> int:
    """Hash of a tuple of integers, as a signed 64-bit integer."""
    key = 0
    for value in coordinates:
        key = _mix_int((key + (value + 1) * (GOLDEN & _MASK_64)) & _MASK_64)
    return key - (1 << 64) if key >= 1 << 63 else key


def keys(base: int, values: Tensor) -> Tensor:
    """One key for each value: ``keys(scalar_key(a, b), v)[i] == scalar_key(a, b, v[i])``.

    Args:
        base: result of :func:`scalar_key`.
        values: int64, any shape.
    """
    return keys_of_each((base,), values).squeeze(0)


def keys_of_each(bases: Sequence[int], values: Tensor) -> Tensor:
    """:func:`keys` for several bases, in as many operations as for one: (n,) and (...,) to (n, ...)."""
    scaled = (values + 1) * GOLDEN
    return _mix(torch.stack([base + scaled for base in bases]))


def _bits(key: Tensor, slots: int, bits: int) -> Tensor:
    slot = torch.arange(1, slots + 1, dtype=torch.int64, device=key.device)
    return _logical_shift(_mix(key.unsqueeze(-1) + slot * GOLDEN), 64 - bits).to(torch.float32)


def uniform(key: Tensor, slots: int) -> Tensor:
    """Independent uniform numbers in [0, 1): key (...,) int64 to (..., slots) float32, on a grid of 2^-24."""
    return _uniform(_bits(key, slots, UNIFORM_BITS))


def gumbel(key: Tensor, slots: int) -> Tensor:
    """Independent Gumbel(0, 1) numbers: key (...,) int64 to (..., slots) float32, always finite."""
    return _gumbel(_bits(key, slots, GUMBEL_BITS))


UNIFORM_BITS, GUMBEL_BITS = 24, 23


def _uniform(bits: Tensor) -> Tensor:
    return bits * 2.0**-UNIFORM_BITS


def _gumbel(bits: Tensor) -> Tensor:
    u = (bits + 0.5) * 2.0**-GUMBEL_BITS  # strictly inside (0, 1) in float32
    return -torch.log(-torch.log(u))


def bits_of_each(bases: Sequence[int], values: Tensor, slots: int, bits: int) -> Tensor:
    """Random whole numbers below 2^bits: n bases and (B,) values to (n, B, slots) float32."""
    return _bits(keys_of_each(bases, values), slots, bits)


BitsOfEach = Callable[[Sequence[int], Tensor, int, int], Tensor]


def uniform_of_each(bases: Sequence[int], values: Tensor, slots: int, by: BitsOfEach = bits_of_each) -> Tensor:
    """:func:`uniform` of the keys of each base: (n, B, slots). ``by``: who makes the bits."""
    return _uniform(by(bases, values, slots, UNIFORM_BITS))


def gumbel_of_each(bases: Sequence[int], values: Tensor, slots: int, by: BitsOfEach = bits_of_each) -> Tensor:
    """:func:`gumbel` of the keys of each base: (n, B, slots). ``by``: who makes the bits."""
    return _gumbel(by(bases, values, slots, GUMBEL_BITS))


def fastest_bits(device: torch.device, compiled: bool) -> BitsOfEach:
    """Who makes the bits: a kernel of our own where steps are compiled on a GPU, which shows that there is Triton."""
    if compiled and device.type == "cuda":
        from tcc_fast import draws_kernel

        return draws_kernel.bits_of_each
    return bits_of_each


def permutation(length: int, *coordinates: int) -> Tensor:
    """The permutation of 0..length-1 that belongs to the coordinates: (length,) int64 on the CPU."""
    generator = torch.Generator().manual_seed(scalar_key(STREAM_ORDER, *coordinates) % (1 << 63))
    return torch.randperm(length, generator=generator)
