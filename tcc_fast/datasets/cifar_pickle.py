"""Reads the pickles of CIFAR's python version without giving them any power.

A pickle is a program: opening one with `pickle.load` may run anything. These files need three names of numpy,
which here mean harmless stand-ins of our own; every other name is refused before anything is called, and numpy
itself never sees what the file says.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np


class UnsafePickle(Exception):
    """The file asks for something that no CIFAR file needs."""


class NotCifar(Exception):
    """The file is no pickle, or not one of CIFAR's."""


class _Dtype:
    """Stands for `numpy.dtype`: remembers the code, such as "u1"."""

    __slots__ = ("code",)

    def __init__(self, code: object, *_: object) -> None:
        self.code = _text(code)

    def __setstate__(self, state: object) -> None:
        pass  # byte order and the like; bytes have none


class _Array:
    """Stands for a `numpy.ndarray` that is being rebuilt: remembers its state."""

    __slots__ = ("state",)

    def __init__(self, *_: object) -> None:
        self.state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state


class _Nothing:
    """Stands for the class `numpy.ndarray`, which is only passed on."""

    __slots__ = ()


def _encode(text: object, encoding: object) -> bytes:
    """Stands for `codecs.encode`, by which Python 3 writes bytes into old pickles."""
    if not isinstance(text, str) or _text(encoding) != "latin1":
        raise NotCifar("text of unknown form")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Callable[..., object]] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Nothing,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise UnsafePickle(f"{module}.{name}")
        make = _ALLOWED[module, name]
        # A new function each time: a pickle can set attributes of what it is given.
        return lambda *arguments: make(*arguments)


def load_dict(data: bytes) -> dict[str, Any]:
    """The dictionary in a CIFAR pickle; the array is still a stand-in, see `pixels`.

    Raises:
        UnsafePickle: it asks for a function or class; names it. Nothing was run.
        NotCifar: it is cut off, damaged, or holds something else.
    """
    try:
        content = _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except (UnsafePickle, NotCifar):
        raise
    except Exception as error:  # a broken pickle can raise nearly anything
        raise NotCifar(f"it cannot be read as a pickle: {type(error).__name__}") from None
    if not isinstance(content, dict):
        raise NotCifar("it holds no table")
    return {_text(key): value for key, value in content.items()}


def pixels(content: dict[str, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Pixels of the entry "data": (N, 3072) uint8.

    Raises:
        NotCifar: there is no such array.
    """
    match content.get("data"):
        case _Array(state=(_, (int(rows), 3072), _Dtype(code="u1" | "|u1" | "uint8"), order, bytes(raw))):
            if len(raw) == rows * 3072:
                return np.frombuffer(raw, np.uint8).reshape(rows, 3072, order="F" if order else "C")
    raise NotCifar("it holds no array of images of 3072 bytes")


def names(content: dict[str, Any], key: str) -> list[str]:
    """The texts of an entry; empty if there are none."""
    values = content.get(key)
    return [_text(value) for value in values] if isinstance(values, list) else []


def numbers(content: dict[str, Any], key: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The whole numbers of an entry: (N,) int64.

    Raises:
        NotCifar: there is no such list.
    """
    values = content.get(key)
    if not isinstance(values, list) or not all(type(value) is int and 0 <= value < 256 for value in values):
        raise NotCifar(f"it holds no list {key!r} of labels")
    return np.array(values, dtype=np.int64)


def _text(value: object) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)
