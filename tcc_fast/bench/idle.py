"""Waiting until this process and its children have nothing to do: what works ahead has then filled its queues."""

from __future__ import annotations

import contextlib
import time

import psutil

INTERVAL = 0.1
"""Seconds over which CPU time is looked at; the system counts it in hundredths."""
QUIET = 0.015
"""Seconds of CPU time in an interval that still pass for nothing."""


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


def family() -> list[psutil.Process]:
    """This process and all that descend from it."""
    this = psutil.Process()
    return [this, *this.children(recursive=True)]


def cpu_seconds(processes: list[psutil.Process]) -> float:
    """CPU seconds that processes have used together, all threads; of those that have ended, none."""
    total = 0.0
    for process in processes:
        with contextlib.suppress(psutil.Error):  # it has ended
            times = process.cpu_times()
            total += times.user + times.system
    return total
