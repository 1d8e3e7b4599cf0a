"""What networks compute in: who chooses it, that runs stay in it, and that fp16 is as good as fp32."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from tcc_fast.batch import Batch
from tcc_fast.bench.stepping import build_step
from tcc_fast.config import load_config
from tcc_fast.evaluation.evaluate import evaluate
from tcc_fast.evaluation.trained import open_trained
from tcc_fast.method.step import TrainingStep
from tcc_fast.notice import Notice
from tcc_fast.precision import (
    Precision,
    inference_precision,
    resolve_precision,
    rounding_as_tuned,
    tune,
    why_this_precision,
)
from tcc_fast.runs.checkpoint_folder import list_checkpoints
from tcc_fast.runs.preemption import Preempted
from tcc_fast.runs.run_state import read_state
from tcc_fast.train import train
from tests.conftest import TINY
from tests.test_train import assert_same_checkpoints, read_metrics, stop_after, without_speed

CPU, GPU = torch.device("cpu"), torch.device("cuda", 1)
AUTO = [*TINY, "start.method=none", "train.precision=auto"]


def cpu_computes_in_bf16(able: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the CPU says so."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": able}, raising=False)


def gpu(capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch sees one of this compute capability; before 8.0 it has bf16 in name only."""

    def supported(including_emulation: bool = True) -> bool:
        return capability >= (8, 0) or (including_emulation and capability >= (7, 0))

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)


@pytest.mark.parametrize(
    ("capability", "precision", "reason"),
    [
        ((9, 0), "bf16", None),
        ((7, 5), "fp16", "fp16, since cuda:1 has no arithmetic for bf16"),
        ((6, 1), "fp32", "fp32, since cuda:1 has no arithmetic for bf16"),
    ],
)
def test_auto_is_the_best_that_a_gpu_has_which_is_said_where_it_is_not_bf16(
    capability: tuple[int, int], precision: str, reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu(capability, monkeypatch)
    found = resolve_precision("auto", GPU)
    assert found == precision
    assert why_this_precision("auto", found, GPU, None) == reason
    assert why_this_precision(precision, found, GPU, None) is None  # it was asked for
    assert resolve_precision("fp32", GPU) == "fp32"


@pytest.mark.parametrize(("able", "precision"), [(True, "bf16"), (False, "fp32")])
def test_auto_on_a_cpu(able: bool, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu_computes_in_bf16(able, monkeypatch)
    assert resolve_precision("auto", CPU) == precision
    assert why_this_precision("auto", resolve_precision("auto", CPU), CPU, None) is None


def test_what_was_chosen_before_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu((9, 0), monkeypatch)
    assert resolve_precision("auto", GPU, "fp32") == "fp32"
    assert resolve_precision("auto", GPU, "fp16") == "fp16"
    assert why_this_precision("auto", Precision.FP16, GPU, "fp16") is None  # it is as fast there
    assert "fp16, as before; torch knows of no arithmetic for it on cpu" in (
        why_this_precision("auto", Precision.FP16, CPU, "fp16") or ""
    )
    gpu((7, 5), monkeypatch)
    assert why_this_precision("auto", resolve_precision("auto", GPU, "fp32"), GPU, "fp32") is None  # it was before


def test_a_gpu_that_cannot_compute_in_the_precision_of_before_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu((6, 1), monkeypatch)
    with pytest.raises(ValueError, match="trained in bf16, which cuda:1 cannot compute in: use another device, or"):
        resolve_precision("auto", GPU, "bf16")
    gpu((7, 5), monkeypatch)
    assert "slower" in (why_this_precision("auto", resolve_precision("auto", GPU, "bf16"), GPU, "bf16") or "")


@pytest.mark.parametrize(("precision", "rounds"), [("fp32", False), ("bf16", True), ("fp16", True)])
def test_fp32_is_fp32_on_a_gpu_in_products_and_in_convolutions(
    precision: str, rounds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_to: list[str] = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", set_to.append)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", torch.backends.cudnn.allow_tf32)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)
    tune(GPU, Precision(precision))
    assert set_to == ["high" if rounds else "highest"]
    assert torch.backends.cudnn.allow_tf32 is rounds


@pytest.mark.parametrize(("precision", "rounds"), [("fp32", False), ("bf16", True)])
@pytest.mark.parametrize("theirs", [True, False])
def test_a_guest_rounds_as_in_training_and_leaves_all_as_it_was(
    precision: str, rounds: bool, theirs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    products = "high" if theirs else "highest"
    set_to = [products]
    monkeypatch.setattr(torch, "set_float32_matmul_precision", set_to.append)
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: set_to[-1])
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", theirs)
    with rounding_as_tuned(GPU, Precision(precision)):
        assert set_to[-1] == ("high" if rounds else "highest")
        assert torch.backends.cudnn.allow_tf32 is rounds
    assert set_to[-1] == products
    assert torch.backends.cudnn.allow_tf32 is theirs


def stop_on_a_machine(digits: Path, run: Path, monkeypatch: pytest.MonkeyPatch, able: bool) -> Path:
    """A run that `train.precision=auto` began where there is arithmetic for bf16, or none; its only checkpoint."""
    with monkeypatch.context() as patch:
        cpu_computes_in_bf16(able, patch)
        stop_after(10, patch)
        with pytest.raises(Preempted) as stop:
            train(load_config("digits", AUTO), digits, run)
    return stop.value.checkpoint


@pytest.mark.parametrize(("able", "precision"), [(True, "bf16"), (False, "fp32")])
def test_a_run_stays_in_its_precision_on_another_machine(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, able: bool, precision: str
) -> None:
    stopped = stop_on_a_machine(digits, tmp_path / "run", monkeypatch, able)
    assert read_state(stopped).precision == precision
    cpu_computes_in_bf16(not able, monkeypatch)
    said: list[str] = []
    last = train(load_config("digits", AUTO), digits, tmp_path / "run", resume="must", say=said.append)
    assert (read_state(last).step, read_state(last).precision) == (14, precision)
    assert [line for line in said if "no arithmetic" in line] == (
        ["bf16, as before; torch knows of no arithmetic for it on cpu, so this may be slower than fp32"] if able else []
    )


@pytest.mark.parametrize("able", [True, False])
def test_a_trained_model_computes_as_it_was_trained_or_in_fp32_where_that_is_faster(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, able: bool
) -> None:
    stopped = stop_on_a_machine(digits, tmp_path / "run", monkeypatch, able=True)
    cpu_computes_in_bf16(able, monkeypatch)
    why = "computing in fp32: torch knows of no arithmetic for bf16, in which"
    with nullcontext() if able else pytest.warns(Notice, match=why):
        assert open_trained(stopped).precision == ("bf16" if able else "fp32")
        found = evaluate(stopped, baselines=()).to_json()
    assert found["precision"] == ("bf16" if able else "fp32")


def test_what_a_gpu_infers_in(monkeypatch: pytest.MonkeyPatch) -> None:
    for capability, trained, wanted in (
        ((9, 0), "bf16", "bf16"),
        ((9, 0), "fp16", "fp16"),
        ((7, 5), "bf16", "fp32"),
        ((7, 5), "fp16", "fp16"),
        ((6, 1), "fp16", "fp32"),
        ((6, 1), "fp32", "fp32"),
    ):
        gpu(capability, monkeypatch)
        precision, why = inference_precision(Precision(trained), GPU)
        assert precision == wanted
        assert (why is None) == (trained == wanted)


def test_a_process_can_train_in_one_precision_after_the_other(digits: Path, tmp_path: Path) -> None:
    config = [*TINY, "start.method=none", "train.epochs=1"]
    for precision in ("fp32", "bf16"):
        last = train(load_config("digits", [*config, f"train.precision={precision}"]), digits, tmp_path / precision)
        assert read_state(last).precision == precision


# fp16, whose gradients are scaled.

FP16 = [*TINY, "start.method=none", "train.precision=fp16", "train.log_every=1"]


def small_step(precision: Precision) -> TrainingStep:
    settings = load_config("digits", [*TINY, "model.num_clusters=10", "train.batch_size=32", "optim.name=sgd"])
    return build_step(settings, CPU, precision, "off")


def moved(training_step: TrainingStep, scale: float) -> torch.Tensor:
    """How far a step of gradient descent moves all parameters, over the learning rate; Q has negatives by then."""
    generator = torch.Generator().manual_seed(0)
    views = torch.randn(4, 32, 3, 8, 8, generator=generator).to(training_step.precision.dtype)
    training_step(Batch(views[0], views[1], torch.arange(32)), 0)
    if state := training_step.scaler.state_dict():
        training_step.scaler.load_state_dict(state | {"scale": scale})
    before = parameters(training_step)
    training_step(Batch(views[2], views[3], torch.arange(32, 64)), 1)
    return (parameters(training_step) - before) / training_step.config.optim.lr


def parameters(training_step: TrainingStep) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in training_step.model.parameters()])


@pytest.mark.parametrize("scale", [2.0**8, 2.0**16])
def test_in_fp16_gradients_are_those_of_fp32_whatever_they_were_scaled_by(scale: float) -> None:
    """But for rounding, which is finer than that of bf16."""
    wanted = moved(small_step(Precision.FP32), 1.0)
    off = {one: (moved(small_step(one), scale) - wanted).norm() / wanted.norm() for one in Precision}
    assert 0 == off[Precision.FP32] < off[Precision.FP16] < 0.1
    assert off[Precision.FP16] < off[Precision.BF16] / 2


def test_without_a_scale_small_gradients_would_be_lost() -> None:
    """Which is what it is for."""
    wanted = moved(small_step(Precision.FP32), 1.0)
    off = {scale: (moved(small_step(Precision.FP16), scale) - wanted).norm() for scale in (2.0**-14, 2.0**16)}
    assert off[2.0**-14] > 3 * off[2.0**16]


def test_gradients_that_overflow_leave_theta_as_it_is_and_are_scaled_less_from_then_on() -> None:
    training_step = small_step(Precision.FP16)
    assert not moved(training_step, 2.0**40).any()
    assert training_step.scaler.get_scale() == 2.0**39
    assert int(training_step.queues.instance.written) == 64  # its keys are as good as any
    assert moved(training_step, 2.0**10).any()


def test_a_run_in_fp16_that_was_stopped_equals_one_that_was_not(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.amp.GradScaler", frequent_growth(torch.amp.GradScaler))
    config = load_config("digits", FP16)
    whole = train(config, digits, tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(Preempted):
        stop_after(10, patch)
        train(config, digits, tmp_path / "cut")
    stopped = read_state(list_checkpoints(tmp_path / "cut")[-1])
    assert (stopped.step, stopped.precision) == (10, "fp16")
    assert stopped.loss_scale["scale"] != torch.amp.GradScaler("cpu").get_scale()
    resumed = train(config, digits, tmp_path / "cut", resume="must")
    assert_same_checkpoints(whole, resumed)
    assert read_state(resumed).loss_scale == read_state(whole).loss_scale
    assert without_speed(read_metrics(tmp_path / "cut")) == without_speed(read_metrics(tmp_path / "whole"))


def frequent_growth(scaler: Callable[..., Any]) -> Callable[..., Any]:
    """So that a short run sees it: after every third step."""
    return lambda *given, **options: scaler(*given, **options, growth_interval=3)


def test_a_run_may_go_on_in_fp16_and_leave_it_again(digits: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = [*TINY, "start.method=none", "train.epochs=3", "train.checkpoint_every=1", "train.keep_checkpoints=3"]
    train(load_config("digits", [*first, "train.precision=fp32"]), digits, run)
    for place, precision in ((0, "fp16"), (1, "fp32")):
        config = load_config("digits", [*first, f"train.precision={precision}"])
        last = train(config, digits, run, resume="must", checkpoint=list_checkpoints(run)[place])
        assert read_state(last).precision == precision
        assert bool(read_state(last).loss_scale) == (precision == "fp16")


def test_gradients_that_never_fit_into_fp16_end_the_run(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or θ would stand still without a word, since losses are finite."""
    backward = torch.Tensor.backward

    def overflow(self: torch.Tensor) -> None:
        backward(self * torch.inf)

    monkeypatch.setattr(torch.Tensor, "backward", overflow)
    said = r"gradients became NaN or infinite in fp16, by step 17; .*start anew .*train\.precision=fp32"
    with pytest.raises(ValueError, match=said):
        train(load_config("digits", [*FP16, "train.epochs=3"]), digits, tmp_path / "run")


def test_a_loss_that_is_nan_is_named_also_where_gradients_have_followed_it(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For long enough that the scale has fallen as far as it would by gradients alone."""
    compare = TrainingStep.compare

    def poisoned(self: TrainingStep, *given: Any) -> Any:
        losses, keys = compare(self, *given)
        return losses._replace(loss=losses.loss * torch.nan, loss_cluster=losses.loss_cluster * torch.nan), keys

    monkeypatch.setattr(TrainingStep, "compare", poisoned)
    config = load_config("digits", [*FP16, "train.epochs=4", "train.log_every=100", "train.checkpoint_every=4"])
    with pytest.raises(ValueError, match="loss_cluster became nan at step 1"):
        train(config, digits, tmp_path / "run")
