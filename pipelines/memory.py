"""How much memory can still be taken."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch


def free_memory(device: torch.device) -> int:
    """Bytes that can still be taken on the device. On a CPU, as far as the machine and its container allow."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by torch, to use again
        return torch.cuda.mem_get_info(device)[0] + kept
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    with open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
    return min(free, _left_in_container())


def _left_in_container(root: Path = Path("/sys/fs/cgroup")) -> int:
    """What control groups (version 2) leave of their limit; more than there is without one."""
    try:
        limit = (root / "memory.max").read_text().strip()
        used = int((root / "memory.current").read_text())
    except (OSError, ValueError):
        return sys.maxsize
    return sys.maxsize if limit == "max" else max(0, int(limit) - used)
