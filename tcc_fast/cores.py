"""How many processor cores there are to work on, and how many threads."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import joblib

if TYPE_CHECKING:
    import torch


def available_cores() -> int:
    """Cores that this process may use, by its affinity and by its container's share of the time of all."""
    cores: int = joblib.cpu_count()
    return cores


def local_processes() -> int:
    """Processes of this run on this machine, which share its cores and its memory."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def default_workers() -> int:
    """This process's share of the cores, at most 16."""
    return min(max(1, available_cores() // local_processes()), 16)


def cpu_threads(device: torch.device) -> int | None:
    """How many threads what is computed on the CPU may have in a process whose networks are on ``device``.

    Beside a GPU its share of the cores, since launchers set OMP_NUM_THREADS to 1; else None: as many as that says.
    """
    return None if device.type == "cpu" else default_workers()
