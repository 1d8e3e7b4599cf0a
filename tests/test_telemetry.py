"""What a run reports: means over an interval, the step of a NaN, alarms in words."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tcc_fast.config import load_config
from tcc_fast.method.step import Losses
from tcc_fast.settings import Config
from tcc_fast.telemetry import CollapseAlarm, LossLog, NonFiniteLoss


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


def test_a_step_that_was_compiled_counts_for_the_loss_but_not_for_the_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    log = LossLog()
    for seconds, compiled in ((100.0, True), (0.5, False), (0.5, False)):
        now[0] += seconds
        log.add_no_sync(losses(seconds))
        if compiled:
            log.leave_out(seconds, steps=1)
    line = log.read(step=3, images=30)
    assert line["loss"] == pytest.approx(101 / 3)
    assert line["images_per_second"] == pytest.approx(20)  # 20 images in a second
    log.add_no_sync(losses())
    now[0] += 0.5
    assert log.read(step=4, images=10)["images_per_second"] == pytest.approx(20)


def test_what_is_no_training_does_not_count_for_the_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two lines, and steps of another process, whose losses came with a checkpoint."""
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    log = LossLog()
    for _ in range(3):
        now[0] += 0.5
        log.add_no_sync(losses())
    now[0] += 60.0  # the start of the prototypes
    log.leave_out(60.0)
    now[0] += 0.5
    log.add_no_sync(losses())
    assert log.read(step=4, images=40)["images_per_second"] == pytest.approx(20)
    for _ in range(3):
        log.add_no_sync(losses())
    continued = LossLog()
    now[0] += 60.0
    continued.load_tensors(log.tensors(), torch.device("cpu"))
    now[0] += 0.5
    continued.add_no_sync(losses())
    assert continued.read(step=8, images=40)["images_per_second"] == pytest.approx(20)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_the_first_bad_step_and_its_part_are_named(bad: float) -> None:
    log = LossLog()
    for kl in (0.1, bad, bad):
        log.add_no_sync(losses(bad if kl == bad else 1.0, kl=kl)._replace(loss_instance=torch.tensor(1.0)))
    with pytest.raises(NonFiniteLoss, match=f"(loss_cluster|kl_uniform) became {bad} at step 12"):
        log.read(step=13, images=3)


def line(largest: float = 0.2, entropy: float = 0.5) -> dict[str, float]:
    return {"largest_cluster": largest, "entropy": entropy}


def sizes(total: int = 1000, clusters: int = 10, empty: int = 0) -> Tensor:
    """So many images, in all clusters but the last ones."""
    return torch.full((clusters,), total / (clusters - empty)) * (torch.arange(clusters) < clusters - empty)


def recipe(name: str, *overrides: str) -> Config:
    return load_config(name, ["model.num_clusters=10", *overrides])


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        ((line(largest=0.97), sizes()), "one cluster takes 97% of all images"),
        ((line(entropy=2.29), sizes()), "assignments are uniform"),
        ((line(), sizes(empty=3)), "3 of 10 clusters get no image"),
    ],
)
def test_each_collapse_is_said_once_in_words_when_it_persists(
    trouble: tuple[dict[str, float], Tensor], words: str
) -> None:
    alarm = CollapseAlarm(recipe("digits"))
    said = [alarm.check(*trouble) for _ in range(6)]
    assert said[:2] == [[], []]
    assert words in said[2][0]
    assert said[3:] == [[], [], []]
    alarm.check(line(), sizes())
    assert [len(alarm.check(*trouble)) for _ in range(3)] == [0, 0, 1]  # it came back


def test_a_healthy_run_raises_no_alarm() -> None:
    alarm = CollapseAlarm(recipe("digits"))
    assert not any(alarm.check(line(), sizes()) for _ in range(10))


def test_few_images_say_nothing_of_empty_clusters_until_there_are_enough() -> None:
    """Of 10 clusters 200 are enough; the third time they are, the alarm is raised."""
    alarm = CollapseAlarm(recipe("digits"))
    half = sizes(100, empty=5)
    assert not any(alarm.check(line(), part) for part in [half, half.flip(0)] * 10)
    alarm = CollapseAlarm(recipe("digits"))
    assert [len(alarm.check(line(), sizes(100, empty=3))) for _ in range(8)] == [0, 0, 0, 0, 0, 1, 0, 0]


def test_dead_clusters_are_seen_among_many() -> None:
    """A line of 5 120 images is too short for 500 clusters."""
    alarm = CollapseAlarm(recipe("folder", "model.num_clusters=500"))
    said = [alarm.check(line(), sizes(5120, 500, empty=480)) for _ in range(6)]
    assert [len(one) for one in said] == [0, 0, 0, 0, 0, 1]
    assert "480 of 500 clusters get no image" in said[-1][0]
