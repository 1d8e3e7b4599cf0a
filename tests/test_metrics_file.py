"""The lines of a run: written again after a resume, and an epoch's loss from them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tcc_fast.metrics_file import MetricsFile


def test_metrics_after_the_resumed_step_are_written_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = MetricsFile(path, resumed_step=0)
    for step in (1, 2, 3):
        first.write({"step": step, "loss": 1.0})
    first.close()
    path.write_text(path.read_text() + '{"step": 4, "lo')  # killed in the middle of a line
    second = MetricsFile(path, resumed_step=2)
    second.write({"step": 3, "loss": 7.0})
    second.close()
    assert [tuple(json.loads(text).values()) for text in path.read_text().splitlines()] == [
        (1, 1.0),
        (2, 1.0),
        (3, 7.0),
    ]


def test_the_mean_loss_of_an_epoch_is_that_of_its_steps(tmp_path: Path) -> None:
    """Lines stand for unequally many steps, and one of them began in the epoch before."""
    file = MetricsFile(tmp_path / "metrics.jsonl", resumed_step=0)
    for step, loss in ((20, 9.0), (40, 5.0), (60, 4.0), (63, 1.0)):
        file.write({"step": step, "loss": loss})
    assert file.mean_loss(0) == pytest.approx((20 * 9 + 20 * 5 + 20 * 4 + 3 * 1) / 63)
    assert file.mean_loss(31) == pytest.approx((9 * 5 + 20 * 4 + 3 * 1) / 32)
    assert file.mean_loss(60) == 1.0
    assert file.mean_loss(63) is None
    file.close()
