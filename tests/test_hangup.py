"""Commands whose reader goes away before they end."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from tcc_fast.runs.checkpoint_folder import list_checkpoints
from tcc_fast.runs.run_state import read_state
from tests.conftest import TINY


@pytest.mark.parametrize(
    ("handler", "epochs", "code"),
    [(signal.SIG_DFL, 10_000, 129), (signal.SIG_IGN, 40, 0)],
    ids=["it is told", "as under nohup"],
)
def test_a_closed_terminal_stops_a_training_with_a_checkpoint_or_not_at_all(
    handler: signal.Handlers, epochs: int, code: int, digits: Path, tmp_path: Path
) -> None:
    terminal, inner = os.openpty()

    def begin() -> None:
        signal.signal(signal.SIGHUP, handler)
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    settings = [*TINY, f"train.epochs={epochs}", "train.log_every=1", "start.method=none"]
    command = [sys.executable, "-m", "tcc_fast", "train", "--data", str(digits), "--out", "run", *settings]
    streams = {"stdin": inner, "stdout": inner, "stderr": inner}
    process = subprocess.Popen(command, cwd=tmp_path, start_new_session=True, preexec_fn=begin, **streams)
    os.close(inner)
    said = b""
    while b"images / s" not in said:  # of the panel
        said += os.read(terminal, 4096)
    os.close(terminal)
    assert process.wait(60) == code
    step = read_state(list_checkpoints(tmp_path / "run")[-1]).step
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert step >= len(lines) > 0
    assert (step == 7 * epochs) == (code == 0)


def test_a_training_goes_on_when_nobody_reads_what_it_says(digits: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tcc_fast", "train", "--data", str(digits), "--out", "run", *TINY]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (0, b"")
    assert read_state(list_checkpoints(tmp_path / "run")[-1]).step == 14
