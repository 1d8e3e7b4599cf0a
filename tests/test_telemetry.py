"""What a run reports: means over an interval, the step of a NaN, alarms in words."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tcc_fast.config import built_in_names, load_config
from tcc_fast.method.step import Losses
from tcc_fast.settings import Config
from tcc_fast.telemetry import (
    FEW_A_CLUSTER,
    CollapseAlarm,
    LossLog,
    MetricsFile,
    NonFiniteLoss,
    batch_advice,
    collapse_advice,
)


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


LITERAL = ("start.method=none", "loss.kl_weight=1", "model.feature_batch_norm=false", "model.assignment_temperature=1")


@pytest.mark.parametrize(
    ("settings", "advised"),
    [
        (["model.feature_batch_norm=false"], "model.feature_batch_norm=true"),
        (["loss.kl_weight=0.5"], "loss.kl_weight=0"),
        (["model.assignment_temperature=0.2"], "model.assignment_temperature=0.1"),
        (["start.method=kmeans"], "start.method=spectral"),
        (["start.method=none", "loss.swap_weight=1"], "start.method=spectral"),
        (
            ["start.method=none"],
            "start.method=spectral (loss.swap_weight=1 loss.swap_neighbours=5 can take the place of a start)",
        ),
        (
            LITERAL,
            "model.feature_batch_norm=true loss.kl_weight=0 start.method=spectral model.assignment_temperature=0.1 "
            "(loss.swap_weight=1 loss.swap_neighbours=5 can take the place of a start)",
        ),
        ([], "another seed (seed=1), or fewer clusters (model.num_clusters)"),
        (["seed=4"], "another seed (seed=5), or fewer clusters (model.num_clusters)"),
    ],
)
def test_what_is_advised_is_what_is_not_set_already(settings: list[str], advised: str) -> None:
    assert collapse_advice(recipe("digits", *settings), 10) == f"start anew with {advised}"


def test_a_batch_that_shows_little_of_each_cluster_is_named() -> None:
    few = f"train.batch_size={10 * FEW_A_CLUSTER - 1}"
    assert f"{few} shows too little of each of 10 clusters" in collapse_advice(recipe("digits", few), 10)


def test_a_batch_that_suits_its_clusters_is_not_spoken_of() -> None:
    assert batch_advice(recipe("digits", f"train.batch_size={10 * FEW_A_CLUSTER}"), 10) is None
    said = batch_advice(recipe("digits", "train.batch_size=40"), 10)
    assert "a batch of 40 shows 4.0 images of each of 10 clusters" in str(said)
    assert batch_advice(recipe("digits", "train.batch_size=40", "loss.cluster_track=false"), 10) is None


@pytest.mark.parametrize("name", built_in_names())
def test_no_recipe_is_told_to_change(name: str) -> None:
    config = load_config(name)
    clusters = config.model.num_clusters or 20
    assert batch_advice(config, clusters) is None
    if config.start.method != "kmeans":  # tiny-imagenet says why
        assert "start anew with another seed" in collapse_advice(config, clusters)


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
