"""The Gaussian blur of a view. See `gaussian_blur` in `tcc_fast.views.resample`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tcc_fast.pipelines.cpu.blend import blend
from tcc_fast.pipelines.cpu.compile import compiled

_NOTHING = 1e-9
"""A weight, of a sum of about 1, that single precision does not see."""


@compiled
def make_blur_scratch(size: int, kernel_size: int) -> Any:
    """Working memory for a blur of planes of S × S: a plane with its reflected borders, a row with its own, weights."""
    padded = size + kernel_size
    return np.empty((padded, size), np.float32), np.empty(padded, np.float32), np.empty((1, kernel_size), np.float32)


@compiled
def blur(planes: Any, size: int, kernel_size: int, sigma: float, scratch: Any) -> None:
    """Blur three planes in place, along y and then along x.

    Args:
        planes: (3, S · S or more) float32.
        size: S.
        kernel_size: of the Gaussian, odd, in pixels.
        sigma: its standard deviation, in pixels.
        scratch: `make_blur_scratch`.
    """
    tall, row, kernel = scratch
    half = _lay_kernel(kernel_size // 2, sigma, kernel[0])
    count = 2 * half + 1
    for channel in range(3):
        plane = planes[channel]
        for y in range(-half, size + half):
            start = _reflected(y, size) * size
            tall[y + half] = plane[start : start + size]
        for y in range(size):
            blend(tall, y * size, size, size, count, kernel, 0, row, half)
            for x in range(1, half + 1):
                row[half - x] = row[half + _reflected(-x, size)]
                row[half + size - 1 + x] = row[half + _reflected(size - 1 + x, size)]
            blend(row, 0, 1, size, count, kernel, 0, plane, y * size)


@compiled
def _reflected(place: int, size: int) -> int:
    place = abs(place)
    return 2 * (size - 1) - place if place >= size else place


@compiled
def _lay_kernel(half: int, sigma: float, kernel: Any) -> int:
    """Write the weights; returns how many each side has, of `half`, without those that are nothing."""
    total = 1.0
    for k in range(1, half + 1):
        total += 2 * math.exp(-0.5 * (k / sigma) ** 2)
    while half > 0 and math.exp(-0.5 * (half / sigma) ** 2) < _NOTHING:
        half -= 1
    for k in range(-half, half + 1):
        kernel[half + k] = math.exp(-0.5 * (k / sigma) ** 2) / total
    return half
