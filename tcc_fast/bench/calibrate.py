"""How fast the machine is at this moment: a small fixed piece of work on all cores, timed again and again."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
from numpy.typing import NDArray

from tcc_fast.cores import available_cores

_FIRST_CALLS = 10
_NUMBERS = 4096
_PASSES = 50_000


@numba.njit(nogil=True)
def _work(numbers: NDArray[np.float32], passes: int) -> None:
    for _ in range(passes):
        for i in range(numbers.size):
            numbers[i] = numbers[i] * np.float32(0.9) + np.float32(0.1)


class Calibration:
    """Call it to time the work, in seconds: the median of three times some 10 ms. `best` is the shortest so far."""

    def __init__(self) -> None:
        cores = available_cores()
        self._buffers = [np.ones(_NUMBERS, dtype=np.float32) for _ in range(cores)]
        self._pool = ThreadPoolExecutor(cores, "calibration")
        self.best = float("inf")
        _work(self._buffers[0], 1)  # compiles
        for _ in range(_FIRST_CALLS):
            self()

    def __call__(self) -> float:
        seconds = sorted(self._time() for _ in range(3))[1]  # a process that wakes for a moment is no disturbance
        self.best = min(self.best, seconds)
        return seconds

    def _time(self) -> float:
        started = time.perf_counter()
        list(self._pool.map(lambda numbers: _work(numbers, _PASSES), self._buffers))
        return time.perf_counter() - started

    def close(self) -> None:
        """End its threads."""
        self._pool.shutdown()
