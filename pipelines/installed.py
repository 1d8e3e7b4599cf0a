"""Which optional packages are there."""

from __future__ import annotations

import importlib.util


def installed(module: str) -> bool:
    """Whether a package is installed; nothing is imported but what it lies in."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
