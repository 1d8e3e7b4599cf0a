"""The compiled and the recorded step against the eager one, and that nothing is compiled twice.

Most of it runs with the back end `aot_eager`, which traces as Inductor does but generates no code.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from tcc_fast.batch import Batch
from tcc_fast.bench.verify import restore, state_of
from tcc_fast.compiling import compile_mode
from tcc_fast.config import config_from_tree
from tcc_fast.method.compiled_step import (
    SCALARS,
    WARM_UP,
    CompiledStep,
    DeviceScalar,
    GraphedStep,
    keep_pooling_whole,
    pack,
    unpack,
)
from tcc_fast.method.model import TCC, momentum_twin
from tcc_fast.method.optim import build_optimizer, learning_rate, set_learning_rate
from tcc_fast.method.step import Losses, TrainingStep, build_queues
from tcc_fast.precision import Precision
from tcc_fast.session import STEPS, _build_training
from tcc_fast.settings import Config
from tcc_fast.train import train
from tests.method.test_step import fresh_accelerate

B, K, D, SIDE, STEPS_ALL, START = 6, 3, 8, 8, 12, 5
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def accelerator() -> Iterator[Accelerator]:
    with fresh_accelerate():
        yield Accelerator(cpu=True)


@pytest.fixture(autouse=True)
def release_compiled_code() -> Iterator[None]:
    yield
    torch._dynamo.reset()


def config(**sections: dict[str, Any]) -> Config:
    """Everything that changes from step to step does: learning rate, α, m, and after some steps the clusters."""
    tree: dict[str, Any] = {
        "model": {"num_clusters": K, "feature_dim": D, "feature_batch_norm": True, "assignment_temperature": 0.2},
        "loss": {"alpha": 0.4, "alpha_ramp_steps": 4, "temperature": 0.3},
        "queue": {"cluster_multiple": 2, "instance_length": 2 * B + 1},
        "momentum": {"decay": 0.9, "warmup": True},
        "optim": {"name": "adamw", "lr": 0.01, "schedule": "cosine", "warmup_steps": 3, "weight_decay": 0.01},
        "train": {"batch_size": B},
    }
    for section, values in sections.items():
        tree[section] = tree.get(section, {}) | values
    return config_from_tree(tree)


def build(
    kind: type[TrainingStep], settings: Config, accelerator: Accelerator, linear: bool = False, **options: Any
) -> TrainingStep:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, D))
    if linear:
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, D))
    model = TCC(settings.model, settings.loss, encoder).double()
    twin = momentum_twin(model)
    optimizer = build_optimizer(model, settings.optim, compiled=kind is not TrainingStep)
    model = accelerator.prepare(model)
    queues = build_queues(settings, K, torch.float64)
    return kind(settings, model, twin, queues, optimizer, accelerator, START, **options)


def batch(seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    view_1, view_2 = torch.randn(2, B, 3, SIDE, SIDE, generator=generator, dtype=torch.float64)
    return Batch(view_1, view_2, torch.randperm(40, generator=generator)[:B])


def run(training_step: TrainingStep, settings: Config, restart: bool = True) -> list[Losses]:
    """A short run, with a move of the prototypes where clusters begin, as the k-means start does it."""
    reported, scale, factor = [], training_step.scaler.scale, torch.ones(())
    training_step.scaler.scale = lambda loss: scale(loss) * factor  # type: ignore[method-assign]
    for step in range(STEPS_ALL):
        factor.fill_(torch.inf if training_step.precision is Precision.FP16 and step in OVERFLOW else 1.0)
        if step == START and restart:
            training_step.twin.set_prototypes(centres := torch.eye(K, D, dtype=torch.float64))
            training_step.accelerator.unwrap_model(training_step.model).set_prototypes(centres)
            training_step.optimizer.state.pop(training_step.model.prototypes, None)
        set_learning_rate(training_step.optimizer, learning_rate(settings.optim, step, STEPS_ALL))
        reported.append(training_step(batch(step), step))
    return reported


def assert_same_run(one: TrainingStep, other: TrainingStep, settings: Config) -> None:
    """Losses of every step, and all that a step changes. The learning rate of one of them is a float32."""
    for step, (a, b) in enumerate(zip(run(one, settings), run(other, settings), strict=True)):
        for name, value, expected in zip(Losses._fields, a, b, strict=True):
            torch.testing.assert_close(
                value, expected, rtol=1e-5, atol=1e-8, msg=lambda m, n=name, s=step: f"{n} {s}: {m}"
            )
    for network, expected in ((one.model, other.model), (one.twin, other.twin)):
        state, wanted = network.state_dict(), expected.state_dict()
        assert state.keys() == wanted.keys()
        for name in state:
            torch.testing.assert_close(state[name], wanted[name], rtol=1e-4, atol=1e-6)
    assert one.scaler.state_dict() == other.scaler.state_dict()
    for queue, expected in ((one.queues.cluster, other.queues.cluster), (one.queues.instance, other.queues.instance)):
        torch.testing.assert_close(queue.keys, expected.keys, rtol=1e-4, atol=1e-6)
        assert torch.equal(queue.written, expected.written)


OVERFLOW = (1, START - 1, START + 5)
"""Steps whose gradients are infinite in fp16: of a recorded step, in the warm-up, and in a replay of each phase."""

CASES: dict[str, dict[str, dict[str, Any]]] = {
    "adamw": {},
    "sgd, symmetric": {"optim": {"name": "sgd"}, "loss": {"symmetric": True}},
    "no Gumbel, no P, swapped prediction": {"loss": {"gumbel": False, "swap_weight": 0.5}, "queue": {"cluster": False}},
}


in_every_case = pytest.mark.parametrize(
    ("case", "precision"),
    [*((case, Precision.FP32) for case in CASES), *((case, Precision.FP16) for case in ("adamw", "sgd, symmetric"))],
)
"""In double precision, which autocast leaves as it is; in fp16 gradients are scaled, and some overflow."""


@in_every_case
def test_the_compiled_step_is_the_eager_one_and_compiled_once_a_phase(
    case: str, precision: Precision, accelerator: Accelerator
) -> None:
    """Learning rate, α, m and noise change all the time; only the beginning of the clusters needs other code."""
    settings, counter = config(**CASES[case]), CompileCounterWithBackend("aot_eager")
    compiled = build(CompiledStep, settings, accelerator, backend=counter, precision=precision)
    assert_same_run(compiled, build(TrainingStep, settings, accelerator, precision=precision), settings)
    assert counter.frame_count == 4  # contrast, and what follows: without clusters and with them
    with torch.compiler.set_stance("fail_on_recompile"):
        compiled(batch(99), STEPS_ALL)


@pytest.mark.parametrize("precision", [Precision.BF16, Precision.FP16])
def test_in_16_bits_the_compiled_step_is_the_eager_one(precision: Precision, accelerator: Accelerator) -> None:
    """Rounding differs, since compiled code may keep more digits."""
    settings, counter = config(), CompileCounterWithBackend("aot_eager")
    made = [
        build(CompiledStep, settings, accelerator, precision=precision, backend=counter),
        build(TrainingStep, settings, accelerator, precision=precision),
    ]
    for training_step in made:
        training_step.model.float(), training_step.twin.float()
        training_step.queues.cluster.float(), training_step.queues.instance.float()
    for step in range(START, START + 4):
        data = batch(step)
        data = Batch(data.view_1.to(precision.dtype), data.view_2.to(precision.dtype), data.index)
        one, other = (training_step(data, step) for training_step in made)
        assert one.loss.dtype == torch.float32
        torch.testing.assert_close(one.loss, other.loss, rtol=0.02, atol=0.02)
    assert counter.frame_count == 2


def test_after_an_evaluation_in_between_nothing_is_compiled_anew(accelerator: Accelerator) -> None:
    counter = CompileCounterWithBackend("aot_eager")
    compiled = build(CompiledStep, config(), accelerator, backend=counter)
    compiled(batch(0), START)
    compiled.model.eval()
    with torch.no_grad():
        compiled.model.features(batch(1).view_1)
    compiled.model.train()
    with torch.compiler.set_stance("fail_on_recompile"):
        compiled(batch(1), START + 1)
    assert counter.frame_count == 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch 2.11 warns of its own code
@pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs a compiler of C++ on a CPU")
def test_inductor_makes_the_same_steps(accelerator: Accelerator) -> None:
    """The code that is really generated, for two steps with clusters; of a linear encoder, since g++ takes its time."""
    import torch._inductor.config as inductor

    one, other = (build(kind, config(), accelerator, linear=True) for kind in (CompiledStep, TrainingStep))
    with inductor.patch(compile_threads=1):  # starting processes would take longer
        for step in (START + 1, START + 2):
            for value, expected in zip(one(batch(step), step), other(batch(step), step), strict=True):
                torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-8)
    for p, expected in zip(one.twin.parameters(), other.twin.parameters(), strict=True):
        torch.testing.assert_close(p, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs a compiler of C++ on a CPU")
def test_the_gradient_of_max_pooling_is_one_kernel_and_right() -> None:
    """Without additions to zeros, which is what torch 2.13 and later would make of it."""
    from torch._inductor.utils import fresh_cache, run_and_get_code

    keep_pooling_whole()
    pool = nn.MaxPool2d(3, stride=2, padding=1)
    x = torch.randn(2, 8, 12, 12).to(memory_format=torch.channels_last).requires_grad_()
    weights = torch.randn(2, 8, 6, 6).to(memory_format=torch.channels_last)
    (wanted,) = torch.autograd.grad((pool(x) * weights).sum(), x)

    def gradient() -> Tensor:
        return torch.autograd.grad((torch.compile(pool, fullgraph=True)(x) * weights).sum(), x)[0]

    torch.compiler.reset()
    with fresh_cache():
        found, code = run_and_get_code(gradient)
    torch.testing.assert_close(found, wanted)
    assert found.stride() == wanted.stride()
    assert len(code) == 2
    assert code[1].count("= empty_strided_cpu(") == 1


# ---- recording


class PythonRecorder:
    """Replays by calling again: what is recorded must take its inputs, and leave its result, where it did before."""

    def __init__(self) -> None:
        self.beside_count = self.recorded = self.replayed = self.forgotten = 0
        self.groups: list[dict[str, Any]] = []

    def run_on_stream(self, work: Callable[[], Tensor]) -> Tensor:
        self.beside_count += 1
        return work()

    def record(self, work: Callable[[], Tensor]) -> Tensor:
        self.recorded += 1
        assert all(group.get("capturable", True) for group in self.groups)
        self.work, self.result = work, torch.full((SCALARS + 2 * K,), torch.nan, dtype=torch.float64)
        return self.result

    def replay(self) -> None:
        self.replayed += 1
        self.result.copy_(self.work())

    def release(self) -> None:
        self.forgotten += 1
        self.work = self.result = None


@in_every_case
def test_the_recorded_step_is_the_eager_one(case: str, precision: Precision, accelerator: Accelerator) -> None:
    settings, recorder = config(**CASES[case]), PythonRecorder()
    graphed = build(GraphedStep, settings, accelerator, recorder=recorder, backend="eager", precision=precision)
    recorder.groups = graphed.optimizer.param_groups
    assert_same_run(graphed, build(TrainingStep, settings, accelerator, precision=precision), settings)
    assert recorder.recorded == 2  # of each phase
    assert recorder.beside_count == 2 * WARM_UP
    assert recorder.replayed == STEPS_ALL - 2 * WARM_UP
    assert recorder.forgotten == 3  # there is none yet; and before each phase


def test_a_recorded_step_takes_what_another_has_compiled_and_both_begin_anew(accelerator: Accelerator) -> None:
    """As the GPU report does it: one compilation serves three short trainings from the same state."""
    settings, counter = config(), CompileCounterWithBackend("aot_eager")
    compiled = build(CompiledStep, settings, accelerator, backend=counter)
    parts = (settings, compiled.model, compiled.twin, compiled.queues, compiled.optimizer, accelerator, START)
    graphed = GraphedStep(*parts, compiled=compiled, recorder=PythonRecorder())
    beginning = state_of(compiled)
    for step in (compiled, graphed, compiled):
        restore(step, beginning)
        assert_same_run(step, build(TrainingStep, settings, accelerator), settings)
    assert counter.frame_count == 4
    assert not any(group["capturable"] for group in compiled.optimizer.param_groups)  # it was, while it was recorded


def test_what_is_put_back_is_recorded_anew(accelerator: Accelerator) -> None:
    """Its moments are others; the recording writes to those that are gone."""
    recorder = PythonRecorder()
    graphed = build(GraphedStep, config(), accelerator, recorder=recorder, backend="eager")
    beginning = state_of(graphed)
    for _ in range(2):
        restore(graphed, beginning)
        for step in range(START):
            graphed(batch(step), step)
    assert recorder.recorded == 2
    assert recorder.beside_count == 2 * WARM_UP


def test_losses_of_a_replay_outlive_the_next_one(accelerator: Accelerator) -> None:
    graphed = build(GraphedStep, config(), accelerator, recorder=PythonRecorder(), backend="eager")
    reported = [graphed(batch(step), step) for step in range(START)]
    values = [losses.loss.item() for losses in reported[WARM_UP:]]
    assert len(set(values)) == len(values)


# ---- parts


def test_losses_in_one_tensor_and_back() -> None:
    losses = Losses(*torch.arange(6.0).unbind(), torch.tensor([6.0, 7, 8]), torch.tensor([9.0, 10, 11]))
    for part, expected in zip(unpack(pack(losses)), losses, strict=True):
        assert torch.equal(part, expected)


def test_a_number_is_written_only_when_it_changes() -> None:
    number = DeviceScalar(CPU)
    written = []
    for value in (0.0, 0.3, 0.3, 0.1):
        number.set_no_sync(value)
        written.append((number.tensor.item(), number.tensor._version))
    assert written == [(0.0, 0), (pytest.approx(0.3), 1), (pytest.approx(0.3), 1), (pytest.approx(0.1), 2)]


# ---- the switch


@pytest.mark.parametrize(
    ("choice", "device", "processes", "expected"),
    [
        ("auto", "cpu", 1, "off"),
        ("off", "cuda", 1, "off"),
        ("on", "cpu", 1, "on"),
        ("graphs", "cuda", 1, "graphs"),
    ],
)
def test_what_the_switch_means(choice: str, device: str, processes: int, expected: str) -> None:
    assert compile_mode(choice, torch.device(device), processes) == expected
    assert expected in STEPS


@pytest.mark.parametrize(("device", "processes"), [("cpu", 1), ("cuda", 2)])
def test_graphs_where_there_can_be_none_are_refused(device: str, processes: int) -> None:
    with pytest.raises(ValueError, match=r"train\.compile=graphs needs a CUDA GPU and a single process"):
        compile_mode("graphs", torch.device(device), processes)


def test_a_run_with_compile_on_is_the_run_without(
    digits: Path,
    tiny: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """From the first line to the checkpoint, with the k-means start between, which makes more of what rounding does."""
    counter, real = CompileCounterWithBackend("eager"), torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **options: real(function, **options | {"backend": counter}))
    losses = {}
    for choice in ("off", "on"):
        changed = tiny.model_copy(update={"train": tiny.train.model_copy(update={"compile": choice})})
        with fresh_accelerate():
            train(changed, digits, tmp_path / choice)
        said = capsys.readouterr().out
        assert said.count("compiling the step: ") == said.count("compiled in ") == (2 if choice == "on" else 0)
        lines = (tmp_path / choice / "metrics.jsonl").read_text().splitlines()
        losses[choice] = [json.loads(line)["loss"] for line in lines]
        assert counter.frame_count == (4 if choice == "on" else 0)
    assert losses["on"] == pytest.approx(losses["off"], rel=0.03)
    assert losses["on"][:3] == pytest.approx(losses["off"][:3], rel=1e-3)


def test_one_run_after_the_other_compiles_nothing_anew(
    accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `--seeds` does."""
    counter = CompileCounterWithBackend("eager")
    monkeypatch.setitem(STEPS, "on", partial(CompiledStep, backend=counter))
    settings = config(model={"backbone": "resnet_small", "width": 4}, data={"image_size": SIDE})
    counts = []
    for _ in range(3):
        model = TCC(settings.model, settings.loss)
        _, step = _build_training(settings, accelerator, model, "on", START, Precision.BF16)
        some = batch(0)
        step(Batch(some.view_1.float(), some.view_2.float(), some.index), 0)
        counts.append(counter.frame_count)
    assert counts[0] == counts[-1] > 0
