"""Random numbers as a pure function of what they are for: (seed, epoch, image, view), never of worker timing.

Every random choice of a run is a hash of the coordinates that name it, so nothing has to be stored to resume
a run, and neither the number of workers nor the number of ranks can change what an image gets. The generator
is SplitMix64's finaliser (Steele, Lea & Flood, OOPSLA 2014) over a chain of coordinates, written with wrapping
int64 arithmetic: the same bits on every device, and compilable.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Streams keep the uses of one coordinate apart.
STREAM_ORDER = 1
STREAM_AUGMENT = 2
STREAM_GUMBEL = 3

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as int64
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB
_MASK_64 = (1 << 64) - 1


def _logical_shift(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _logical_shift(x, 30)) * _MIX_1
    x = (x ^ _logical_shift(x, 27)) * _MIX_2
    return x ^ _logical_shift(x, 31)


def _mix_int(x: int) -> int:
    x = ((x ^ (x >> 30)) * (_MIX_1 & _MASK_64)) & _MASK_64
    x = ((x ^ (x >> 27)) * (_MIX_2 & _MASK_64)) & _MASK_64
    return x ^ (x >> 31)


def scalar_key(*coordinates: int) -> int:
    """Hash of a tuple of integers, as a signed 64-bit integer."""
    key = 0
    for value in coordinates:
        key = _mix_int((key + (value + 1) * (_GOLDEN & _MASK_64)) & _MASK_64)
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
    scaled = (values + 1) * _GOLDEN
    return _mix(torch.stack([base + scaled for base in bases]))


def _bits(key: Tensor, slots: int, bits: int) -> Tensor:
    slot = torch.arange(1, slots + 1, dtype=torch.int64, device=key.device)
    return _logical_shift(_mix(key.unsqueeze(-1) + slot * _GOLDEN), 64 - bits)


def uniform(key: Tensor, slots: int) -> Tensor:
    """Independent uniform numbers in [0, 1): key (...,) int64 to (..., slots) float32, on a grid of 2^-24."""
    return _bits(key, slots, 24).to(torch.float32) * 2.0**-24


def gumbel(key: Tensor, slots: int) -> Tensor:
    """Independent Gumbel(0, 1) numbers: key (...,) int64 to (..., slots) float32, always finite."""
    u = (_bits(key, slots, 23).to(torch.float32) + 0.5) * 2.0**-23  # strictly inside (0, 1) in float32
    return -torch.log(-torch.log(u))


def permutation(length: int, *coordinates: int) -> Tensor:
    """The permutation of 0..length-1 that belongs to the coordinates: (length,) int64 on the CPU."""
    generator = torch.Generator().manual_seed(scalar_key(STREAM_ORDER, *coordinates) % (1 << 63))
    return torch.randperm(length, generator=generator)
