"""What a session does to the parts of a run, and the loop with it: the start, schedules, comparable epochs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tcc_fast import session as session_module
from tcc_fast.config import load_config
from tcc_fast.evaluation.embed import embed
from tcc_fast.method.optim import learning_rate
from tcc_fast.reporter import Reporter
from tcc_fast.session import Session, open_session
from tcc_fast.train import train
from tests.conftest import TINY
from tests.method.test_step import fresh_accelerate
from tests.test_train import read_metrics


@pytest.fixture
def session(digits: Path, tmp_path: Path) -> Iterator[Session]:
    with fresh_accelerate():
        made = open_session(load_config("digits", [*TINY, "seed=5"]), digits, tmp_path)
        yield made
        made.pipeline.close()


def test_a_start_moves_both_networks_and_is_asked_for_with_the_runs_seed(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    centres = torch.randn(10, 16, generator=torch.Generator().manual_seed(0))

    def find(features: Tensor, num_clusters: int, start: Any, seed: int, threads: int | None) -> Tensor:
        asked.append((features.shape, num_clusters, start, seed, threads))
        return centres

    monkeypatch.setattr("tcc_fast.session.find_centres", find)
    session.start_prototypes()
    assert asked == [((1797, 16), 10, session.config.start, 5, None)]
    for network in (session.model, session.training.twin):
        torch.testing.assert_close(network.prototypes.detach(), F.normalize(centres, dim=1))


def test_embedding_neither_sees_other_images_nor_leaves_a_trace(session: Session) -> None:
    """In training mode each image's features would depend on its batch, and batch norm would take note."""
    before = {name: value.clone() for name, value in session.model.state_dict().items()}
    few, many = (
        embed(session.model, session.dataset, list(range(count)), 8, torch.device("cpu"))[0] for count in (3, 40)
    )
    torch.testing.assert_close(many[:3], few, rtol=1e-5, atol=1e-6)
    assert session.model.training
    assert all(torch.equal(value, before[name]) for name, value in session.model.state_dict().items())


def test_every_step_has_its_learning_rate_and_there_is_one_start(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fourteen steps; clusters, and the start, from the eighth on."""
    starts: list[int] = []
    start = Session.start_prototypes

    def counted(self: Session) -> None:
        starts.append(self.step)
        start(self)

    monkeypatch.setattr(Session, "start_prototypes", counted)
    config = load_config("digits", [*TINY, "train.log_every=1", "optim.warmup_steps=3"])
    train(config, digits, tmp_path / "run")
    rates = [line["lr"] for line in read_metrics(tmp_path / "run")]
    assert rates == [learning_rate(config.optim, step, 14) for step in range(14)]
    assert len(set(rates)) == 13  # all differ but the last of the warm-up and the first after it
    assert starts == [7]


@pytest.mark.parametrize(
    ("options", "first"),
    [
        (["start.method=none", "queue.instance_length=256"], 1),  # Q is full after one step of the first
        (["start.method=none", "queue.instance_length=1797"], 2),
        (["start.at=0.5", "queue.instance_length=256"], 3),  # 0 and 1 are without clusters, in 2 P is filled
        (["start.at=0.5", "queue.instance_length=256", "queue.cluster=false"], 2),
        (["start.at=0.5", "queue.instance_length=256", "loss.alpha_ramp_steps=8"], 4),
    ],
    ids=["filled", "Q fills", "warm-up", "warm-up without P", "α grows"],
)
def test_epochs_are_compared_when_all_have_the_same_loss(
    options: list[str], first: int, digits: Path, tmp_path: Path
) -> None:
    with fresh_accelerate():
        config = load_config("digits", [*TINY, "train.epochs=5", "train.log_every=1", *options])
        session = open_session(config, digits, tmp_path)
        with Reporter(session, tmp_path, lambda line: None) as reporter:
            assert reporter.metrics is not None
            reporter.metrics.mean_loss = lambda step: float(step)  # type: ignore[method-assign]
            found = [reporter.epoch_loss(epoch) for epoch in range(5)]
        steps = session.pipeline.batches_per_epoch
        session.pipeline.close()
    assert found == [None] * first + [float(epoch * steps) for epoch in range(first, 5)]


def test_nothing_alarms_before_clusters_are_trained(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[int] = []

    def check(self: Any, line: dict[str, float], sizes: Tensor) -> list[str]:
        checked.append(int(line["step"]))
        return []

    monkeypatch.setattr("tcc_fast.telemetry.CollapseAlarm.check", check)
    train(load_config("digits", [*TINY, "train.log_every=1"]), digits, tmp_path / "run")
    assert checked == list(range(8, 15))


@pytest.mark.parametrize("compiling", ["off", "on"])
def test_all_ranks_begin_with_the_main_ones_networks(
    compiling: str, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "from_main_", lambda x: x.fill_(2))
    with fresh_accelerate():
        session = open_session(load_config("digits", [*TINY, f"train.compile={compiling}"]), digits, tmp_path)
        session.pipeline.close()
    for network in (session.model, session.training.twin):
        assert all((tensor == 2).all() for tensor in network.state_dict().values())
