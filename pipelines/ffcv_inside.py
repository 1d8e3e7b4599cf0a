"""Operations inside FFCV's loader: where a batch's images lie, and one decode for both views of each.

FFCV's own decoders cut one crop from each decode. Here its loader only fetches the encoded bytes and says where they
are; threads then decode every image once, with FFCV's decoder, and make both views while the pixels are in the cache.
The threads are ours and stay: FFCV starts a thread for each epoch, and whatever decoded under it would be left behind.
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from ffcv.fields.rgb_image import SimpleRGBImageDecoder
from ffcv.libffcv import ctypes_imdecode, ctypes_memcopy
from ffcv.loader import Loader
from ffcv.loader.epoch_iterator import EpochIterator
from ffcv.memory_managers.os_cache import OSCacheManager
from ffcv.memory_managers.process_cache.manager import ProcessCacheManager
from ffcv.pipeline.allocation_query import AllocationQuery
from ffcv.pipeline.compiler import Compiler
from ffcv.pipeline.operation import Operation
from ffcv.pipeline.pipeline_spec import PipelineSpec
from ffcv.pipeline.state import State
from numpy.typing import NDArray

BATCHES_AHEAD = 2
HEIGHT, WIDTH = 3, 4  # columns of the locations
_RAW = 1  # ffcv.fields.rgb_image.IMAGE_MODES

Locations = NDArray[np.int64]


@numba.njit(nogil=True)
def _fetch(address: Any, state: Any) -> Any:
    """The encoded bytes at an address of the file."""
    file, addresses, sizes = state
    return file[address : address + sizes[np.searchsorted(addresses, address)]]


@cache
def _fetch_from_pages(page_bits: int) -> Any:
    """A function like `_fetch` for pages in memory, of 2 to the power of `page_bits` bytes."""
    bits = np.uint64(page_bits)

    def fetch(address, state):  # type: ignore[no-untyped-def]
        pages, addresses, sizes, slots = state
        page = address >> bits
        at = address - (page << bits)
        return pages[slots[page], at : at + sizes[np.searchsorted(addresses, address)]]

    return numba.njit(nogil=True)(fetch)


# In place of FFCV's own. One marks types as read-only that numba shares with everybody else in the process: they
# cannot find their compiled functions again. The other is compiled anew for every loader.
OSCacheManager.compile_reader = lambda _: _fetch
ProcessCacheManager.compile_reader = lambda manager: _fetch_from_pages(int(manager.reader.page_size).bit_length() - 1)

# FFCV's loader sets how many threads torch and numba use, and its own thread does so again whenever it gets there.
Compiler.set_num_threads = classmethod(lambda cls, count: None)


@cache
def _locate_with(fetch: Any) -> Any:
    """The work of `Locate`, compiled once for all loaders that read in the same way."""

    def locate(batch_indices, destination, metadata, storage_state):  # type: ignore[no-untyped-def]
        for i in range(len(batch_indices)):
            field = metadata[batch_indices[i]]
            data = fetch(field["data_ptr"], storage_state)
            destination[i, 0] = data.ctypes.data
            destination[i, 1] = data.size
            destination[i, 2] = field["mode"]
            destination[i, 3] = field["height"]
            destination[i, 4] = field["width"]
        return destination[: len(batch_indices)]

    return numba.njit(nogil=True)(locate)


class Locate(SimpleRGBImageDecoder):  # type: ignore[misc]
    """In place of a decoder: (B, 5) int64 address, length in bytes, mode, height and width of each image."""

    def declare_state_and_memory(self, previous_state: State) -> tuple[State, AllocationQuery]:
        shape, dtype = (5,), np.dtype(np.int64)
        return replace(previous_state, jit_mode=True, shape=shape, dtype=dtype), AllocationQuery(shape, dtype)

    def generate_code(self) -> Callable[..., Any]:
        work = _locate_with(self.memory_read)

        def locate(batch_indices, destination, metadata, storage_state):  # type: ignore[no-untyped-def]
            return work(batch_indices, destination, metadata, storage_state)  # FFCV compiles this

        return locate


class Apply(Operation):  # type: ignore[misc]
    """Calls a function of ours with what `Locate` found, in the thread that FFCV works ahead in."""

    def __init__(self, function: Callable[[Locations], Any]) -> None:
        super().__init__()
        self.function = function
        self.stopped = False

    def declare_state_and_memory(self, previous_state: State) -> tuple[State, None]:
        return replace(previous_state, jit_mode=False), None

    def generate_code(self) -> Callable[..., Any]:
        return self._call

    def _call(self, locations: Locations, _: None) -> Any:
        if self.stopped:
            raise StopIteration  # the one exception that ends FFCV's thread properly
        return self.function(locations)


@numba.njit(nogil=True)
def decode_images(locations: Any, start: int, stop: int, offsets: Any, pixels: Any, failed: Any) -> None:
    """Decode images start .. stop into `pixels`, image i at offsets[i - start]; `failed` says which did not work.

    Not kept on disk, unlike our other compiled functions: it holds addresses of FFCV's functions.
    """
    for i in range(start, stop):
        target = pixels.ctypes.data + offsets[i - start]
        address, length, mode, height, width = locations[i]
        if mode == _RAW:
            failed[i] = length != 3 * height * width
            if not failed[i]:
                ctypes_memcopy(address, target, length)
        else:
            failed[i] = (
                ctypes_imdecode(address, length, height, width, target, height, width, 0, 0, 1, 1, False, False) != 0
            )


class WorkAhead:
    """FFCV's loader, whose batches are what `make` returns for the locations of their images.

    Args:
        beton: the file.
        batch_size: B.
        os_cache: through the file cache of the system; else FFCV reads pages into memory of its own.
        make: called in order, in a thread, a few batches ahead. It must not raise.
    """

    def __init__(self, beton: Path, batch_size: int, os_cache: bool, make: Callable[[Locations], Any]) -> None:
        self._apply = Apply(make)
        pipeline = PipelineSpec("image", decoder=Locate(), transforms=[self._apply])
        self._loader = Loader(
            str(beton),
            batch_size,
            num_workers=1,
            os_cache=os_cache,
            pipelines={"image": pipeline},
            batches_ahead=BATCHES_AHEAD,
            seed=0,  # otherwise it takes one from numpy's global generator; the order is not FFCV's anyway
        )
        self._run: EpochIterator | None = None

    @property
    def is_running(self) -> bool:
        """Whether a run was started, and neither stopped nor taken to its end."""
        return self._run is not None

    def start(self, order: NDArray[np.uint64]) -> None:
        """Begin a run: the images of `order`, batch after batch."""
        self.stop()
        self._apply.stopped = False
        self._run = EpochIterator(self._loader, order)

    def take(self) -> Any:
        """The next batch, or None at the end of the run."""
        run = self._run
        assert run is not None, "nothing was started"
        while True:
            try:
                result = run.output_queue.get(timeout=1.0)
                break
            except queue.Empty:
                if not run.is_alive() and run.output_queue.empty():
                    raise RuntimeError("FFCV's thread ended without a word") from None
        if result is None:
            self.stop()
            return None
        slot, (made,) = result
        if run.cuda_streams[slot] is not None:
            torch.cuda.current_stream().wait_stream(run.cuda_streams[slot])
        return made

    def stop(self) -> None:
        """End a run wherever it is, and its threads."""
        run, self._run = self._run, None
        if run is None:
            return
        self._apply.stopped = True
        while run.is_alive():
            try:
                run.output_queue.get(timeout=0.01)  # it may wait for room, for ever
            except queue.Empty:
                continue
        run.join()
        run.close()
        executor = getattr(run.memory_context, "executor", None)  # of the process cache
        for reader in executor.threads if executor else ():
            reader.join()
