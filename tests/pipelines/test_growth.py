"""Fifty epochs cost what one costs: no thread, no open file and no memory is left behind by any."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from tcc_fast.pipelines import ffcv_views

WARM_UP, EPOCHS = 10, 40
BATCH, SIZE = 24, 96
BATCH_BYTES = 2 * BATCH * 3 * SIZE * SIZE * 4
"""Both views: 5.3 MB. One that is left behind in every epoch makes 212 MB."""
BOUND = EPOCHS * BATCH_BYTES // 3
"""`ffcv` is some batches ahead, or not yet, and holds 8 MB of its file."""
ONLY_CROP: dict[str, Any] = {"rotation": 0, "shear": 0, "zoom": (1, 1), "jitter": 0, "grey": 0, "blur": 0}


class Used(NamedTuple):
    """By this process and those that it has started."""

    threads: int
    files: int
    memory: int
    """Bytes. Of this process those that `malloc` has given out, or that it shares with others: what is in RAM says
    little, since threads keep up to 64 MB each that they have freed."""


class _Mallinfo(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def used() -> Used:
    gc.collect()
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = _Mallinfo
    info = libc.mallinfo2()
    others = [str(child.pid) for child in multiprocessing.active_children()]
    threads = sum(len(os.listdir(f"/proc/{process}/task")) for process in ("self", *others))
    files = sum(len(os.listdir(f"/proc/{process}/fd")) for process in ("self", *others))
    in_ram = sum(kilobytes(process, "VmRSS") for process in others)
    memory = info.uordblks + info.hblkhd + 1024 * (in_ram + kilobytes("self", "RssShmem"))
    return Used(threads, files, memory)


def kilobytes(process: str, name: str) -> int:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def growth(made: Any, keep: list[Any] | None = None) -> Used:
    """From the tenth epoch to the fiftieth."""
    for _ in range(WARM_UP):
        list(made)
    before = used()
    for _ in range(EPOCHS):
        batches = list(made)
        assert len(batches) == 1
        if keep is not None:
            keep.append(batches[0])
    del batches
    after, patience = used(), time.monotonic() + 30
    while (after.threads > before.threads or after.files > before.files) and time.monotonic() < patience:
        time.sleep(0.05)  # a thread may be about to end
        after = used()
    return Used(*(last - first for first, last in zip(before, after, strict=True)))


@pytest.mark.parametrize(
    "backend",
    [("resident", 2), ("torch", 0), ("torch", 2), ("dali", 2), ("ffcv", 2), ("ffcv", 2, "process")],
    ids=lambda backend: "-".join(map(str, backend)),
)
def test_nothing_grows_from_epoch_to_epoch(
    pipeline: Any, frames: Path, monkeypatch: pytest.MonkeyPatch, backend: tuple[Any, ...]
) -> None:
    monkeypatch.setattr(ffcv_views, "RUN_BATCHES", 5)  # else fifty epochs are one run
    made = pipeline(frames, *backend, batch_size=BATCH, image_size=SIZE, augment=ONLY_CROP)
    threads, files, memory = growth(made)
    assert threads <= 0
    assert files <= 0
    assert memory < BOUND


def test_a_batch_that_is_left_behind_in_every_epoch_would_be_seen(pipeline: Any, frames: Path) -> None:
    made = pipeline(frames, "resident", 2, batch_size=BATCH, image_size=SIZE, augment=ONLY_CROP)
    kept: list[Any] = []
    assert growth(made, kept).memory > BOUND
    assert len(kept) == EPOCHS
    assert torch.isfinite(kept[0].view_1).all()
