"""Waiting until this process and its children have nothing to do: what works ahead has then filled its queues."""

from __future__ import annotations

import os
import time
from pathlib import Path

INTERVAL = 0.1
"""Seconds over which CPU time is looked at; the system counts it in hundredths."""
QUIET = 0.015
"""Seconds of CPU time in an interval that still pass for nothing."""
_TICK = 1 / os.sysconf("SC_CLK_TCK")


def wait_until_idle(limit: float) -> bool:
    """Wait for two quiet intervals in a row, for `limit` seconds at most; returns whether they came."""
    deadline = time.monotonic() + limit
    processes = family()
    before, quiet = cpu_seconds(processes), 0
    while True:
        time.sleep(INTERVAL)
        now = cpu_seconds(processes)
        quiet = quiet + 1 if now - before <= QUIET else 0
        before = now
        if quiet == 2:
            return True
        if time.monotonic() >= deadline:
            return False


def family() -> list[int]:
    """This process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [os.getpid()]
    for process in found:  # grows as it goes
        found += children.get(process, [])
    return found


def cpu_seconds(processes: list[int]) -> float:
    """CPU time that they have used together, all threads; of those that have ended, none."""
    every = (_stat(process) for process in processes)
    return _TICK * sum(int(fields[11]) + int(fields[12]) for fields in every if fields)


def _stat(process: int) -> list[str]:
    """The fields of /proc/PID/stat from `state` on; empty if the process has ended."""
    try:
        text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()  # the name before it may hold anything
