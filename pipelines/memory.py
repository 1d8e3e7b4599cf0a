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


_CONTROL_GROUPS = (
    ("memory.max", "memory.current", "memory.stat", ""),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_"),
)
"""Of version 2 and of version 1: files of the limit, of what is used, and of what for; how names begin there."""


def _left_in_container(root: Path = Path("/sys/fs/cgroup")) -> int:
    """What control groups leave of their limit; more than there is without one.

    What is used for copies of files does not count: it is given back when it is wanted, as in MemAvailable.
    """
    for limit_file, used_file, stat_file, prefix in _CONTROL_GROUPS:
        try:
            limit = (root / limit_file).read_text().strip()
            used = int((root / used_file).read_text())
            uses = dict(line.split() for line in (root / stat_file).read_text().splitlines())
        except (OSError, ValueError):
            continue
        files = sum(int(uses.get(f"{prefix}{kind}_file", 0)) for kind in ("active", "inactive"))
        return sys.maxsize if limit == "max" else max(0, int(limit) - max(0, used - files))
    return sys.maxsize
