"""What decoders say beside their results, put away while they work: of images that are refused, the reason is told."""

from __future__ import annotations

import contextlib
import os
import threading
import warnings
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def _without_stderr() -> Iterator[None]:
    try:
        kept = os.dup(2)
    except OSError:  # closed already
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class _Shared:
    """A context of the whole process that threads are in together: the first one enters it, the last one leaves it.

    If each entered it, one would find what another has put aside, and leave it so.
    """

    def __init__(self, context: Callable[[], contextlib.AbstractContextManager[None]]) -> None:
        self._context, self._lock, self._inside = context, threading.Lock(), 0
        self._leave = contextlib.ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._leave.enter_context(self._context())
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._leave.close()


silent_pillow = _Shared(_without_warnings)
"""Pillow warns about odd metadata, which says nothing about the pixels."""

silent_libtiff = _Shared(_without_stderr)
"""libtiff prints its complaints on the process's stderr, past Python."""
