"""Threads that share the pictures of a batch."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

from tcc_fast.datasets.pool import default_workers

_PARTS_EACH = 4
"""Parts of a batch for each thread: so that one that is held up does not hold up the batch."""


class Threads:
    """A few threads for compiled functions, which hold no lock of Python's.

    Not OpenMP: its threads spin while they wait, and stand in the way of those of the training step.

    Args:
        count: of threads, at least 1; None: one for each core that this process may use, at most 16.
    """

    def __init__(self, count: int | None = None) -> None:
        self.count = default_workers() if count is None else max(1, count)
        self._pool = ThreadPoolExecutor(self.count, thread_name_prefix="views")

    def share(self, work: Callable[[int, int], None], total: int, largest: int | None = None) -> None:
        """Call ``work(start, stop)`` in threads until 0 .. total is done; raises what it raises.

        `largest` limits the length of a part.
        """
        length = -(-total // (self.count * _PARTS_EACH))
        length = min(length, largest or length)
        parts = [self._pool.submit(work, start, min(start + length, total)) for start in range(0, total, length)]
        wait(parts)
        for part in parts:
            part.result()

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()
