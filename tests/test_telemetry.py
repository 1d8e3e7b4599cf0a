"""What a run reports: means over an interval, the step of a NaN, alarms in words."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from tcc_fast.step import Losses
from tcc_fast.telemetry import CollapseAlarm, LossLog, MetricsFile, NonFiniteLoss


def losses(loss: float = 1.0, kl: float = 0.5, sizes: tuple[float, ...] = (2, 2)) -> Losses:
    mean_pi = torch.tensor(sizes) / sum(sizes)
    values = [torch.tensor(value) for value in (loss, loss, loss, kl, 0.3, 0.0)]
    return Losses(*values, mean_pi=mean_pi, sizes=torch.tensor(sizes))


def test_a_line_is_the_mean_over_the_steps_since_the_last_one() -> None:
    log = LossLog()
    log.add_no_sync(losses(1.0, sizes=(4, 0)))
    log.add_no_sync(losses(3.0, sizes=(0, 4)))
    line = log.read(step=2, images=8)
    assert line["loss"] == 2.0
    assert line["entropy"] == pytest.approx(0.3)
    assert line["entropy_mean"] == pytest.approx(math.log(2))  # of the mean of π, not the mean of entropies
    assert (line["smallest_cluster"], line["largest_cluster"], line["empty_clusters"]) == (0.5, 0.5, 0)
    assert line["images_per_second"] > 0
    assert len(log) == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_the_first_bad_step_and_its_part_are_named(bad: float) -> None:
    log = LossLog()
    for kl in (0.1, bad, bad):
        log.add_no_sync(losses(bad if kl == bad else 1.0, kl=kl)._replace(loss_instance=torch.tensor(1.0)))
    with pytest.raises(NonFiniteLoss, match=f"(loss_cluster|kl_uniform) became {bad} at step 12"):
        log.read(step=13, images=3)


def line(largest: float = 0.2, entropy: float = 0.5, empty: int = 0) -> dict[str, float]:
    return {"largest_cluster": largest, "entropy": entropy, "empty_clusters": empty}


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (line(largest=0.97), "one cluster takes 97% of all images"),
        (line(entropy=2.29), "assignments are uniform"),
        (line(empty=3), "3 of 10 clusters get no image"),
    ],
)
def test_each_collapse_is_said_once_in_words_when_it_persists(trouble: dict[str, float], words: str) -> None:
    alarm = CollapseAlarm(10)
    said = [alarm.check(trouble, 1000) for _ in range(6)]
    assert said[:2] == [[], []]
    assert words in said[2][0]
    assert said[3:] == [[], [], []]
    alarm.check(line(), 1000)
    assert [len(alarm.check(trouble, 1000)) for _ in range(3)] == [0, 0, 1]  # it came back


def test_a_healthy_run_raises_no_alarm_and_few_images_say_nothing_of_empty_clusters() -> None:
    alarm = CollapseAlarm(10)
    assert not any(alarm.check(line(), 1000) for _ in range(10))
    assert not any(alarm.check(line(empty=3), 100) for _ in range(10))


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
