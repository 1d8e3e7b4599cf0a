"""Two trainings never write to one folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tcc_fast.config import load_config
from tcc_fast.runs.checkpoint_folder import list_checkpoints
from tcc_fast.runs.run_lock import RunLock
from tcc_fast.settings import Config
from tcc_fast.train import train
from tests.conftest import TINY

HOLD = """
import os, sys, time
from pathlib import Path
from tcc_fast.runs.run_lock import RunLock
with RunLock(Path(sys.argv[1])):
    if os.fork() == 0:  # a worker, which outlives its killed parent for a while
        time.sleep(60)
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_training_is_refused_and_a_killed_one_leaves_no_lock(
    digits: Path, tiny: Config, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(ValueError, match=rf"another training \(process {holder.pid} on .*\) writes to .*run"):
        train(tiny, digits, run, resume="auto")
    worker = next(iter(Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text().split()))
    holder.kill()
    holder.wait()
    holder.stdin.close()
    holder.stdout.close()
    assert not list_checkpoints(run)
    train(tiny, digits, run, resume="auto")
    assert len(list_checkpoints(run)) == 1
    os.kill(int(worker), signal.SIGKILL)


def test_a_refused_run_leaves_no_folder(digits: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="batch"):
        train(load_config("digits", [*TINY, "train.batch_size=5000"]), digits, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_was_there_before_stays(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with RunLock(tmp_path / "run"):
        assert (tmp_path / "run" / ".lock").read_text().startswith(f"{os.getpid()} on ")
    assert (tmp_path / "run").is_dir()


def test_a_full_disk_is_named(tmp_path: Path, little_room: Callable[[int], None]) -> None:
    little_room(0)
    with pytest.raises(ValueError, match=r"\.lock cannot be written \(File too large\): make room"):
        RunLock(tmp_path).__enter__()
