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
"""Both views of three batches: one that trains, one that waits, one that is made."""
_OURS = 3  # references to an array that only we hold: the list, the loop variable, and the question itself


class Buffers:
    """Gives out tensors, and knows by the references to an array whether its last tensor is gone."""

    def __init__(self) -> None:
        self._arrays: list[NDArray[Any]] = []

    def take(self, *shape: int, dtype: Any = np.float32) -> Tensor:
        """A tensor of any content. It is nobody else's until it and all its views are gone."""
        size = math.prod(shape)
        for array in self._arrays:
            if array.size == size and array.dtype == dtype and sys.getrefcount(array) == _OURS:
                return torch.from_numpy(array).view(shape)
        fresh = np.empty(size, dtype=dtype)
        self._arrays = [*self._arrays, fresh][-KEPT:]
        return torch.from_numpy(fresh).view(shape)
