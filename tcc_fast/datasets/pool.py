"""Items through worker processes: results in the order of the items, and never more than a few in flight."""

from __future__ import annotations

import collections
import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess

import numpy as np

from tcc_fast.datasets.encode import StorageOptions, Stored, store_item
from tcc_fast.datasets.reader import Item, Rejected

CHUNK_ITEMS = 16
CHUNK_BYTES = 4 << 20
Result = Stored | Rejected


def store_items(
    items: Iterable[Item], options: StorageOptions, workers: int
) -> Generator[tuple[Item, Result], None, None]:
    """Every item with what became of it, in order. `workers` of 0 or 1 works in this process.

    Memory is bounded: 2 chunks a worker (16 items or 4 MiB, whichever comes first) are in flight.

    Raises:
        ValueError: a worker process died.
    """
    if workers <= 1:
        for item in items:
            yield item, store_item(item, options)
        return
    # Spawned, not forked: torch and its threads may be loaded in this process.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker)
    waiting: collections.deque[tuple[list[Item], Future[list[Result]]]] = collections.deque()
    try:
        for chunk in _chunks(items):
            waiting.append((chunk, _submit(pool, chunk, options)))
            if len(waiting) >= 2 * workers:
                yield from _next_results(waiting)
        while waiting:
            yield from _next_results(waiting)
    except BrokenProcessPool as error:
        near = waiting[0][0][0].source if waiting else "the start"
        raise ValueError(
            f"a worker process died near {near!r} (killed, or out of memory, or this is a script without "
            'if __name__ == "__main__": around what it does); nothing was written: try fewer workers, or 1 to convert '
            "in one process"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _next_results(
    waiting: collections.deque[tuple[list[Item], Future[list[Result]]]],
) -> Iterator[tuple[Item, Result]]:
    chunk, future = waiting[0]
    results = future.result()
    waiting.popleft()
    yield from zip(chunk, results, strict=True)


def _chunks(items: Iterable[Item]) -> Iterator[list[Item]]:
    chunk: list[Item] = []
    size = 0
    for item in items:
        chunk.append(item)
        payload = item.payload
        size += len(payload) if isinstance(payload, bytes) else 0
        size += payload.nbytes if isinstance(payload, np.ndarray) else 0
        if len(chunk) >= CHUNK_ITEMS or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _submit(pool: ProcessPoolExecutor, chunk: list[Item], options: StorageOptions) -> Future[list[Result]]:
    # Ctrl-C goes to the whole process group, but the parent alone answers it: workers are started in here, and
    # inherit that the signal is blocked.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return pool.submit(_store_chunk, chunk, options)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _store_chunk(chunk: list[Item], options: StorageOptions) -> list[Result]:
    return [store_item(item, options) for item in chunk]


def _start_worker() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        # A worker waits on a pipe that it holds open itself: without this it would outlive a killed parent.
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)
