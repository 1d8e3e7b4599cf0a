"""How much memory can still be taken."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import torch


def free_memory(device: torch.device) -> int:
    """Bytes that can still be taken on the device. On a CPU, as far as the machine and the control groups allow."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by torch, to use again
        return torch.cuda.mem_get_info(device)[0] + kept
    return min(psutil.virtual_memory().available, _left_in_control_groups())


_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
_VERSION_2 = ("memory.max", "memory.current", "")
"""Files of the limit and of what is used; how names begin in memory.stat."""


def _left_in_control_groups(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """What control groups leave of their limits: this process's own, as a scheduler sets it, and all above it.

    Within a container the file system may begin at the container's group, whatever ``own`` says, so groups that are
    not there are passed over. More than there is where none has a limit.
    """
    left = sys.maxsize
    for line in own.read_text(encoding="utf-8").splitlines() if own.is_file() else ():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        base, files = (root / "memory", _VERSION_1) if controllers else (root, _VERSION_2)
        group = base / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(base):
                left = min(left, _left_in(folder, *files))
    return left


def _left_in(group: Path, limit_file: str, used_file: str, prefix: str) -> int:
    """What one control group leaves of its limit; more than there is without one.

    What is used for copies of files does not count: it is given back when it is wanted, as in MemAvailable.
    """
    try:
        limit = (group / limit_file).read_text().strip()
        used = int((group / used_file).read_text())
        uses = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return sys.maxsize
    files = sum(int(uses.get(f"{prefix}{kind}_file", 0)) for kind in ("active", "inactive"))
    return sys.maxsize if limit == "max" else max(0, int(limit) - max(0, used - files))
