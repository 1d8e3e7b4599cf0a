"""How many processor cores there are to work on, and how many threads."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_workers() -> int:
    """This process's share of them, at most 16: ranks on one machine share them."""
    return min(max(1, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))), 16)


def cpu_threads(device: torch.device) -> int | None:
    """How many threads what is computed on the CPU may have in a process whose networks are on ``device``.

    Beside a GPU its share of the cores, since launchers set OMP_NUM_THREADS to 1; else None: as many as that says.
    """
    return None if device.type == "cpu" else default_workers()
