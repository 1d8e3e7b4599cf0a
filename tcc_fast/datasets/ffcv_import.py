"""Imports FFCV, which takes seconds and changes settings of the process, only where it is asked for."""

from __future__ import annotations

import importlib
from types import ModuleType


def import_ffcv() -> ModuleType:
    """The package `ffcv`, with its submodules `types`, `fields`, `reader`, `loader` and so on as attributes.

    FFCV sets torch to one thread when it is imported; the number of threads is put back.

    Raises:
        ValueError: FFCV, or a library that it links to, is not installed; says what to install.
    """
    import torch  # takes seconds as well, and the processes that convert images never need it

    threads = torch.get_num_threads()
    try:
        return importlib.import_module("ffcv")
    except (ImportError, OSError) as error:
        raise ValueError(
            f"FFCV cannot be imported ({error}); install Debian's libturbojpeg0-dev, libopencv-dev and pkg-config, "
            "then: pip install ffcv"
        ) from error
    finally:
        torch.set_num_threads(threads)
