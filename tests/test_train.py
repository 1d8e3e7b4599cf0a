"""Training runs on real images: what is written, resumed, refused and said."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tcc_fast import __main__, pipelines
from tcc_fast.config import load_config
from tcc_fast.evaluation.trained import open_trained
from tcc_fast.method.step import TrainingStep
from tcc_fast.notice import Notice
from tcc_fast.runs.checkpoint_folder import list_checkpoints
from tcc_fast.runs.preemption import Preempted, Preemption
from tcc_fast.runs.run_state import read_state
from tcc_fast.settings import Config
from tcc_fast.train import train
from tests.conftest import TINY
from tests.method.test_step import fresh_accelerate

LOGGED = {
    "step",
    "epoch",
    "loss",
    "loss_instance",
    "loss_cluster",
    "kl_uniform",
    "entropy",
    "loss_swap",
    "entropy_mean",
    "lr",
    "images_per_second",
}


def read_metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def without_speed(lines: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{key: value for key, value in line.items() if key != "images_per_second"} for line in lines]


def assert_same_checkpoints(one: Path, other: Path) -> None:
    for name in ("model", "twin", "queues", "optimizer"):
        tensors, others = (load_file(path / f"{name}.safetensors") for path in (one, other))
        assert tensors.keys() == others.keys()
        for key in tensors:
            assert torch.equal(tensors[key], others[key]), f"{name}: {key}"


def test_a_run_writes_config_metrics_and_a_checkpoint(digits: Path, tiny: Config, tmp_path: Path) -> None:
    checkpoint = train(tiny, digits, tmp_path / "run")
    lines = read_metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 12, 14]
    assert all(line.keys() >= LOGGED and all(map(math.isfinite, line.values())) for line in lines)
    assert all(0 <= line["entropy"] <= math.log(10) + 1e-6 for line in lines)
    state = read_state(checkpoint)
    assert state.step == 14  # 1797 // 256 = 7 batches, twice
    assert state.config.model.num_clusters == 10  # from the class names
    assert load_config(str(tmp_path / "run" / "config.yaml")) == state.config


def test_the_same_seed_gives_the_same_run_and_another_seed_another(digits: Path, tiny: Config, tmp_path: Path) -> None:
    first = train(tiny, digits, tmp_path / "first")
    again = train(tiny, digits, tmp_path / "again")
    assert_same_checkpoints(first, again)
    other = train(tiny.model_copy(update={"seed": 1}), digits, tmp_path / "other")
    assert not torch.equal(
        load_file(first / "model.safetensors")["prototypes"], load_file(other / "model.safetensors")["prototypes"]
    )


@pytest.mark.parametrize("start", ["none", "kmeans", "spectral"])
def test_a_run_that_was_cut_off_and_resumed_equals_an_uninterrupted_one(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: str
) -> None:
    config = load_config("digits", [*TINY, "train.epochs=3", "train.checkpoint_every=1", f"start.method={start}"])
    whole = train(config, digits, tmp_path / "whole")

    class PowerCut(Exception):
        pass

    step_once = TrainingStep.__call__

    def cut_off(self: TrainingStep, batch: object, step: int) -> object:
        if step == 10:  # within the second epoch
            raise PowerCut
        return step_once(self, batch, step)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(TrainingStep, "__call__", cut_off)
        with pytest.raises(PowerCut):
            train(config, digits, tmp_path / "cut")
    assert read_state(list_checkpoints(tmp_path / "cut")[-1]).step == 7
    resumed = train(config, digits, tmp_path / "cut", resume="must")
    assert_same_checkpoints(whole, resumed)
    assert without_speed(read_metrics(tmp_path / "cut")) == without_speed(read_metrics(tmp_path / "whole"))


def test_a_run_begins_with_advice_on_a_queue_larger_than_the_data_set(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["train.epochs=1", "start.method=none", "optim.warmup_steps=1"]
    train(load_config("digits", [*TINY, *options]), str(digits), str(tmp_path / "suited"))
    assert "warning" not in capsys.readouterr().out
    train(load_config("digits", [*TINY, *options, "queue.instance_length=4096"]), digits, tmp_path / "long")
    assert "warning: queue.instance_length is 4,096" in capsys.readouterr().out


def test_what_cannot_be_clustered_is_refused(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"model\.num_clusters is 1798, but there are only 1797 images"):
        train(load_config("digits", [*TINY, "model.num_clusters=1798"]), digits, tmp_path / "many")
    monkeypatch.setattr("tcc_fast.session.embed", lambda *_, **__: (torch.full((1797, 16), math.nan), None))
    with pytest.raises(ValueError, match=r"features are not finite at the start of the prototypes: lower optim\.lr"):
        train(load_config("digits", TINY), digits, tmp_path / "nan")


def test_a_second_run_in_the_same_folder_is_refused(digits: Path, tiny: Config, tmp_path: Path) -> None:
    train(tiny, digits, tmp_path / "run")
    with pytest.raises(ValueError, match="already holds a run: continue it with --resume"):
        train(tiny, digits, tmp_path / "run")


def test_resuming_what_is_not_there_is_an_error(digits: Path, tiny: Config, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no checkpoint at"):
        train(tiny, digits, tmp_path / "run", resume="must")
    assert not (tmp_path / "run").exists()


def test_resume_auto_starts_and_then_continues(digits: Path, tiny: Config, tmp_path: Path) -> None:
    first = train(tiny, digits, tmp_path / "run", resume="auto")
    assert train(tiny, digits, tmp_path / "run", resume="auto") == first  # nothing is left to do


def test_what_a_nan_is_answered_with_can_be_done(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, short = tmp_path / "run", [*TINY, "start.method=none", "train.checkpoint_every=1"]
    with monkeypatch.context() as patch, fresh_accelerate():
        stop_after(9, patch)
        with pytest.raises(Preempted):
            train(load_config("digits", [*short, "train.precision=auto"]), digits, run)
    said: list[str] = []
    gentler = load_config("digits", [*short, "optim.lr=0.001"])
    with fresh_accelerate():
        last = train(gentler, digits, run, resume="must", checkpoint=list_checkpoints(run)[0], say=said.append)
    state = read_state(last)
    assert (state.step, state.precision, state.config.optim.lr) == (14, "fp32", 0.001)
    assert [line for line in said if "from here on" in line] == [
        "optim.lr is 0.001 from here on, and was 0.002",
        "train.precision is 'fp32' from here on, and was 'auto'",
    ]
    assert load_config(str(run / "config.yaml")).optim.lr == 0.001  # a bare --resume goes on with it


def test_resuming_with_other_settings_names_what_differs(digits: Path, tiny: Config, tmp_path: Path) -> None:
    train(tiny, digits, tmp_path / "run")
    other = load_config("digits", [*TINY, "loss.alpha=0.25"])
    with pytest.raises(ValueError, match=r"other settings: loss\.alpha was .*, now 0\.25"):
        train(other, digits, tmp_path / "run", resume="must")


def test_a_run_that_ends_where_its_prototypes_would_start_is_refused(digits: Path, tmp_path: Path) -> None:
    too_short = load_config("digits", [*TINY, "train.epochs=1"])
    with pytest.raises(ValueError, match=r"no cluster would be trained: use more epochs, or start\.method=none"):
        train(too_short, digits, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    train(load_config("digits", [*TINY, "train.epochs=1", "loss.cluster_track=false"]), digits, tmp_path / "instance")


def test_a_run_of_before_that_never_trained_a_cluster_is_not_continued(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    too_short = load_config("digits", [*TINY, "train.epochs=1"])
    with monkeypatch.context() as patch:
        patch.setattr("tcc_fast.session._check_that_clusters_start", lambda config: None)
        train(too_short, digits, tmp_path / "run")
    with pytest.raises(ValueError, match="no cluster would be trained"):
        train(too_short, digits, tmp_path / "run", resume="must")


def test_only_the_newest_checkpoints_are_kept(digits: Path, tmp_path: Path) -> None:
    config = load_config("digits", [*TINY, "train.epochs=4", "train.checkpoint_every=1", "train.keep_checkpoints=2"])
    train(config, digits, tmp_path / "run")
    assert [read_state(path).step for path in list_checkpoints(tmp_path / "run")] == [21, 28]


def test_a_loss_that_becomes_nan_stops_the_run_with_its_name_and_step(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config("digits", [*TINY, "train.checkpoint_every=1", "train.log_every=5"])
    step_once = TrainingStep.__call__

    def poisoned(self: TrainingStep, batch: object, step: int) -> object:
        losses = step_once(self, batch, step)  # type: ignore[arg-type]
        return losses._replace(loss_cluster=losses.loss_cluster * math.nan) if step == 8 else losses

    monkeypatch.setattr(TrainingStep, "__call__", poisoned)
    with pytest.raises(
        ValueError,
        match=r"loss_cluster became nan at step 9; continue with --resume .*000007 and a lower optim\.lr",
    ):
        train(config, digits, tmp_path / "run")


def test_labels_are_never_read_in_training(
    digits: Path, tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: object) -> None:
        raise AssertionError("training asked for labels")

    monkeypatch.setattr("tcc_fast.datasets.store.Dataset.labels", refuse)
    train(tiny, digits, tmp_path / "run")


def test_k_is_asked_for_when_there_are_no_classes(tmp_path: Path) -> None:
    from PIL import Image

    from tcc_fast.datasets import convert

    images = tmp_path / "images"
    images.mkdir()
    for shade in range(4):
        Image.new("RGB", (20, 16), (shade * 60, 0, 0)).save(images / f"{shade}.png")
    convert("folder", tmp_path / "set", images, progress=False)
    config = load_config("folder", ["train.precision=fp32", "train.batch_size=4"])
    with pytest.raises(ValueError, match=r"say how many clusters to look for: model\.num_clusters=10"):
        train(config, tmp_path / "set", tmp_path / "run")
    config = load_config("folder", ["train.precision=fp32", "train.batch_size=4", "model.num_clusters=9"])
    with pytest.raises(ValueError, match="there are only 4 images"):
        train(config, tmp_path / "set", tmp_path / "run")


def test_both_pipelines_train_alike(digits: Path, tmp_path: Path) -> None:
    final = {}
    for pipeline in ("torch", "resident"):
        settings = [*TINY, f"data.pipeline={pipeline}", "data.workers=0", "train.epochs=1", "start.method=none"]
        train(load_config("digits", settings), digits, tmp_path / pipeline)
        final[pipeline] = read_metrics(tmp_path / pipeline)[-1]
    # The same images in the same order, augmented by other draws from the same distributions.
    assert final["torch"]["loss_instance"] == pytest.approx(final["resident"]["loss_instance"], abs=0.1)
    assert final["torch"]["entropy"] == pytest.approx(final["resident"]["entropy"], abs=0.1)


def test_tensorboard_gets_every_line_when_asked(digits: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = load_config("digits", [*TINY, "train.epochs=1", "train.tensorboard=true", "start.method=none"])
    train(config, digits, tmp_path / "run")
    (events,) = (tmp_path / "run").rglob("events.out.*")
    log = EventAccumulator(str(events.parent))
    log.Reload()
    logged = [(event.step, event.value) for event in log.Scalars("loss")]
    assert logged == [(line["step"], pytest.approx(line["loss"])) for line in read_metrics(tmp_path / "run")]


def test_an_older_checkpoint_that_is_named_is_the_one_continued(digits: Path, tmp_path: Path) -> None:
    settings = [*TINY, "train.epochs=3", "train.checkpoint_every=1", "train.keep_checkpoints=3", "start.method=none"]
    config = load_config("digits", settings)
    last = train(config, digits, tmp_path / "run")
    before = {key: tensor.clone() for key, tensor in load_file(last / "model.safetensors").items()}  # not a map of it
    first = list_checkpoints(tmp_path / "run")[0]
    (last / "model.safetensors").write_bytes(b"damaged")
    said: list[str] = []
    again = train(config, digits, tmp_path / "run", resume="must", checkpoint=first, say=said.append)
    assert again == last
    gone = "2 later checkpoints are removed (step-000000014, step-000000021), and what metrics.jsonl has after step 7"
    assert gone in said
    after = load_file(again / "model.safetensors")
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_weights_that_are_not_finite_are_never_saved(
    digits: Path, tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step_once = TrainingStep.__call__

    def poison_weights(self: TrainingStep, batch: object, step: int) -> object:
        losses = step_once(self, batch, step)  # type: ignore[arg-type]
        if step == 13:  # the last one: no later loss would show it
            with torch.no_grad():
                self.model.prototypes.fill_(math.nan)  # type: ignore[union-attr, operator]
        return losses

    monkeypatch.setattr(TrainingStep, "__call__", poison_weights)
    with pytest.raises(
        ValueError, match="prototypes became NaN or infinite by step 14; there is no checkpoint yet, so start"
    ):
        train(tiny, digits, tmp_path / "run")


def test_a_single_class_does_not_say_how_many_clusters(tmp_path: Path) -> None:
    from PIL import Image

    from tcc_fast.datasets import convert

    images = tmp_path / "images" / "cats"
    images.mkdir(parents=True)
    for shade in range(4):
        Image.new("RGB", (20, 16), (shade * 60, 0, 0)).save(images / f"{shade}.png")
    convert("folder", tmp_path / "set", images.parent, labels="folders", progress=False)
    with pytest.raises(ValueError, match="has a single class, so say how many clusters"):
        train(load_config("folder", ["train.precision=fp32", "train.batch_size=4"]), tmp_path / "set", tmp_path / "run")


def test_a_listener_hears_every_line(digits: Path, tiny: Config, tmp_path: Path) -> None:
    heard: list[dict[str, float]] = []
    train(tiny, digits, tmp_path / "run", on_line=heard.append)
    assert heard == read_metrics(tmp_path / "run")
    assert len(heard) == 7


def stop_after(
    step: int, monkeypatch: pytest.MonkeyPatch, run: int = 0, number_of_signal: int = signal.SIGTERM
) -> None:
    """SIGTERM comes while this step is taken, counted from 1, of the first run or a later one of the process."""
    one_step, begun = TrainingStep.__call__, itertools.count(-run)

    def announced(self: TrainingStep, batch: Any, number: int) -> Any:
        if number == step - 1 and next(begun) == 0:
            os.kill(os.getpid(), number_of_signal)
        return one_step(self, batch, number)

    monkeypatch.setattr(TrainingStep, "__call__", announced)


@pytest.mark.parametrize(
    ("step", "every", "position", "unreported"),
    [
        (10, 10, {"epoch": 1, "batch": 3}, True),
        (9, 10, {"epoch": 1, "batch": 2}, False),
        (7, 10, {"epoch": 1, "batch": 0}, True),
        (7, 1, {"epoch": 1, "batch": 0}, False),
    ],
    ids=["within an epoch", "at a logged line", "at the end of an epoch", "at a checkpoint"],
)
def test_a_run_that_sigterm_has_stopped_goes_on_as_if_nothing_had_happened(
    digits: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
    every: int,
    position: dict[str, int],
    unreported: bool,
) -> None:
    """Fourteen steps in two epochs, the k-means start after seven."""
    config = load_config("digits", [*TINY, "train.log_every=3", f"train.checkpoint_every={every}"])
    train(config, digits, tmp_path / "calm")
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        stop_after(step, patch)
        with pytest.raises(Preempted, match=r"continue with --resume") as stop:
            train(config, digits, tmp_path / "stopped")
    assert signal.getsignal(signal.SIGTERM) == before
    state = read_state(stop.value.checkpoint)
    assert (state.step, state.pipeline) == (step, position)
    assert (stop.value.checkpoint / "log.safetensors").exists() == unreported

    train(config, digits, tmp_path / "stopped", resume="auto")
    calm, stopped = (list_checkpoints(tmp_path / name)[-1] for name in ("calm", "stopped"))
    assert_same_checkpoints(calm, stopped)
    assert without_speed(read_metrics(tmp_path / "calm")) == without_speed(read_metrics(tmp_path / "stopped"))


def test_clusters_from_before_their_start_are_not_passed_off_as_results(
    digits: Path, tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fourteen steps in two epochs, the start of the prototypes after seven."""
    for step, begun in ((7, False), (8, True)):
        with monkeypatch.context() as patch, fresh_accelerate():
            stop_after(step, patch)
            with pytest.raises(Preempted):
                train(tiny, digits, tmp_path / str(step))
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                open_trained(tmp_path / str(step))
        assert any("its clusters mean nothing yet" in str(one.message) for one in caught) != begun


def test_clusters_that_were_never_trained_are_not_passed_off_as_results(digits: Path, tmp_path: Path) -> None:
    config = load_config("digits", [*TINY, "train.epochs=1", "loss.cluster_track=false"])
    checkpoint = train(config, digits, tmp_path / "instance")
    with pytest.warns(Notice, match=r"without clusters \(loss.cluster_track=false\).*mean nothing"):
        open_trained(checkpoint)


def test_ctrl_c_is_answered_and_loses_nothing(
    digits: Path, tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    train(tiny, digits, tmp_path / "calm")
    with monkeypatch.context() as patch:
        stop_after(10, patch, number_of_signal=signal.SIGINT)
        with pytest.raises(Preempted, match=r"stopped by Ctrl-C; continue with --resume") as stop:
            train(tiny, digits, tmp_path / "stopped")
    assert "stopping after this step, with a checkpoint" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert read_state(stop.value.checkpoint).step == 10
    train(tiny, digits, tmp_path / "stopped", resume="auto")
    assert_same_checkpoints(*(list_checkpoints(tmp_path / name)[-1] for name in ("calm", "stopped")))


def test_a_second_ctrl_c_interrupts_at_once_unless_it_is_an_echo(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with Preemption(torch.device("cpu"), 1) as preemption:
        assert not preemption.agreed(1)
        signal.raise_signal(signal.SIGINT)
        now[0] += 1.0
        signal.raise_signal(signal.SIGINT)  # a launcher's
        assert preemption.agreed(1)
        now[0] += 1.5
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_compilers_at_work_are_not_told_to_stop_and_the_run_is(number: signal.Signals) -> None:
    ask = f"import signal; print(signal.{number.name} in signal.pthread_sigmask(signal.SIG_BLOCK, []))"

    def is_deaf() -> bool:
        return subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True).stdout == "True\n"

    with Preemption(torch.device("cpu"), 1) as preemption:
        with preemption.shielded():
            assert is_deaf()
            os.kill(os.getpid(), number)
            deadline = time.monotonic() + 60
            while preemption.by is None and time.monotonic() < deadline:
                time.sleep(0.01)
            assert preemption.agreed(1)
        assert not is_deaf()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_what_is_ignored_stays_so(number: signal.Signals) -> None:
    """As by nohup."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with Preemption(torch.device("cpu"), 1) as preemption:
            signal.raise_signal(number)
            assert not preemption.agreed(1)
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_sigterm_at_the_last_step_stops_what_would_come_after_the_run(
    digits: Path, tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as the next seed. To continue it is to find it complete."""
    with monkeypatch.context() as patch:
        stop_after(14, patch)
        with pytest.raises(Preempted) as stop:
            train(tiny, digits, tmp_path / "run")
    assert read_state(stop.value.checkpoint).step == 14
    assert train(tiny, digits, tmp_path / "run", resume="auto") == stop.value.checkpoint


@pytest.mark.parametrize(("by", "code"), [("SIGTERM", 75), ("Ctrl-C", 130), ("SIGHUP", 129)])
def test_a_preempted_command_has_an_exit_code_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, by: str, code: int
) -> None:
    def stop(**options: object) -> None:
        raise Preempted(tmp_path, by=by)

    monkeypatch.setattr(__main__, "app", stop)
    with pytest.raises(SystemExit) as left:
        __main__.main()
    assert left.value.code == code


def test_the_checkpoint_with_the_lowest_loss_stays_and_is_linked(digits: Path, tmp_path: Path) -> None:
    """Of those that can be compared: Q (1 000 keys, 256 a step) is full by the second epoch."""
    options = ["train.epochs=5", "train.checkpoint_every=1", "train.keep_checkpoints=1", "start.method=none"]
    for run, steps in (("run", 3), ("every step", 1)):
        more = ["queue.instance_length=1000", f"train.log_every={steps}"]
        train(load_config("digits", [*TINY, *options, *more]), digits, tmp_path / run)
    lines = read_metrics(tmp_path / "every step")
    means = [np.mean([line["loss"] for line in lines if line["epoch"] == epoch]) for epoch in range(5)]
    best = (tmp_path / "run" / "checkpoints" / "best").resolve()
    assert min(means) == means[0]  # there Q is nearly empty
    assert read_state(best).step == 7 * (2 + int(np.argmin(means[1:])))
    assert read_state(best).loss == pytest.approx(min(means[1:]))
    assert set(list_checkpoints(tmp_path / "run")) == {best, tmp_path / "run" / "checkpoints" / "step-000000035"}


def test_a_continued_run_keeps_the_pipeline_that_was_chosen(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config("digits", [*TINY, "start.method=none", "train.checkpoint_every=1"])
    with monkeypatch.context() as patch:
        stop_after(10, patch)
        patch.setattr(pipelines, "installed", lambda module: False)
        patch.setattr(pipelines, "free_memory", lambda device: 0)
        with pytest.raises(Preempted) as stop:
            train(config.model_copy(update={"data": config.data.model_copy(update={"workers": 0})}), digits, tmp_path)
    assert read_state(stop.value.checkpoint).backend == "torch"
    assert read_state(train(config, digits, tmp_path, resume="must")).backend == "torch"


def test_a_run_whose_first_line_is_far_away_says_how_long_it_will_take(
    digits: Path, tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tiny, digits, tmp_path / "quick")
    assert "a step takes" not in capsys.readouterr().out
    monkeypatch.setattr("tcc_fast.reporter.SILENCE", 0.0)
    train(tiny, digits, tmp_path / "slow")
    assert re.search(r"a step takes \d+\.\d s, and there are 12 more: \d+m\d\ds", capsys.readouterr().out)
