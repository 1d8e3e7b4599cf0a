"""How the functions of this package are compiled.

The first use compiles for some seconds; the result is kept on disk. numba looks for a change in the file of a function,
but not in those of the functions it calls, so here a stamp of all sources decides whether it is still good.

Every function is inlined into those that call it. With calls between them (numba 0.68) the process that compiles rounds
otherwise than later ones, which load what it kept, and a run that is continued would not be the one that was begun.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numba

from tcc_fast import views

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """A function compiled on first use; it runs without Python's lock; arithmetic as written."""
    return _compile(function, fastmath=False)


def vectorised(function: Function) -> Function:
    """Like `compiled`, but sums may be reordered, so that loops become vector instructions."""
    return _compile(function, fastmath={"nsz", "arcp", "contract", "reassoc", "nnan", "ninf"})


def _compile(function: Function, fastmath: Any) -> Function:
    options = {"nogil": True, "error_model": "numpy", "fastmath": fastmath, "forceinline": True}
    try:
        dispatcher = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # nowhere to keep it: a read-only installation without a home folder
        return numba.njit(**options)(function)  # type: ignore[no-any-return]
    cache = dispatcher._cache
    cache._cache_file._source_stamp = source_stamp()
    save = cache.save_overload

    def save_if_there_is_room(*arguments: Any) -> None:
        with contextlib.suppress(OSError):
            save(*arguments)

    cache.save_overload = save_if_there_is_room
    return dispatcher  # type: ignore[no-any-return]


@cache
def source_stamp() -> str:
    """sha256 of the sources that compiled functions are made of: of this package, and of the recipe's constants."""
    packages = (Path(__file__).parent, Path(views.__file__).parent)
    sources = [source for package in packages for source in sorted(package.glob("*.py"))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
