"""How many processor cores there are to work on."""

from __future__ import annotations

import os


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_workers() -> int:
    """This process's share of them, at most 16: ranks on one machine share them."""
    return min(max(1, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))), 16)
