"""Memory for views that is used again once nobody holds the views any more.

A batch of large views takes more than the C library keeps when it is given back: every batch would get fresh pages
from the system, and touching them for the first time takes as long as half of the work.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

KEPT = 6
"""Tensors that may be in use at once, two a batch at most: one batch trains, one waits, one is made."""


def _is_ours_alone(arrays: list[NDArray[Any]], place: int, references: int) -> bool:
    return sys.getrefcount(arrays[place]) <= references


def _references_when_ours_alone() -> int:
    """What `sys.getrefcount` says of an array that nobody but its list holds: not the same in every Python."""
    arrays = [np.empty(1)]
    return next(count for count in range(10) if _is_ours_alone(arrays, 0, count))


_OURS = _references_when_ours_alone()


class Buffers:
    """Gives out tensors, and knows by the references to an array whether its last tensor is gone."""

    def __init__(self) -> None:
        self._arrays: list[NDArray[Any]] = []

    def take(self, *shape: int) -> Tensor:
        """A float32 tensor of any content. It is nobody else's until it and all its views are gone."""
        size = math.prod(shape)
        for place in range(len(self._arrays)):  # by place, since a variable would be one more reference
            if self._arrays[place].size == size and _is_ours_alone(self._arrays, place, _OURS):
                return torch.from_numpy(self._arrays[place]).view(shape)
        fresh = np.empty(size, dtype=np.float32)
        self._arrays = [*self._arrays, fresh][-KEPT:]
        return torch.from_numpy(fresh).view(shape)
