"""Threads that share the images of a batch."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

from tcc_fast.cores import default_workers

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
        self._pool = ThreadPoolExecutor(max(1, self.count - 1), thread_name_prefix="views")

    def parallel_for(self, work: Callable[[int, int], None], total: int, largest: int | None = None) -> None:
        """Call ``work(start, stop)`` in threads, the calling one among them, until 0 .. total is done.

        `largest` limits the length of a part. Raises what ``work`` raises, once no thread is at it any more.
        """
        length = -(-total // (self.count * _PARTS_EACH))
        length = min(length, largest or length)
        starts = iter(range(0, total, length))  # of all threads: each takes the next one when it is done with its last

        def run() -> None:
            for start in starts:
                work(start, min(start + length, total))

        others = [self._pool.submit(run) for _ in range(self.count - 1)]
        try:
            run()
        finally:
            wait(others)
        for other in others:
            other.result()

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()
