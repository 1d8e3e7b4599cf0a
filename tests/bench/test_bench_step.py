"""`tcc-fast bench step`: that the pieces are the step, that the plain step is the step, and the arithmetic of the rest.

No figure is held against the clock.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from PIL import Image
from torch import nn
from torch.autograd import DeviceType
from torchvision import transforms

from tcc_fast.batch import Batch
from tcc_fast.bench import Task, plain, rounds
from tcc_fast.bench import step as bench_module
from tcc_fast.bench.contenders import Openers
from tcc_fast.bench.parts import PARTS, Clock, CudaClock, PiecewiseStep, busy_milliseconds, covered, measure_parts
from tcc_fast.bench.plain import PlainStep, build_plain_step, loader_note, plain_batches, plain_loader
from tcc_fast.bench.roofline import Rates, Work, count_work, measure_rates, utilisation
from tcc_fast.bench.rounds import Source
from tcc_fast.bench.show_step import contender_rows, part_rows, remarks
from tcc_fast.bench.step import bench_step, summarise_parts
from tcc_fast.bench.stepping import (
    FED,
    FIXED,
    GRAPHS,
    PLAIN,
    PLAIN_FIXED,
    StepTask,
    build_step,
    eager,
    fixed_batch,
    step_openers,
    steps,
)
from tcc_fast.config import load_config
from tcc_fast.datasets import open_dataset
from tcc_fast.method.model import TCC
from tcc_fast.method.step import TrainingStep
from tcc_fast.precision import Precision
from tcc_fast.session import with_num_clusters
from tcc_fast.settings import Config
from tests.bench.test_bench import Calibration
from tests.conftest import TINY
from tests.test_cli import type_in

CPU = torch.device("cpu")
BATCH = 8
SETTINGS = [*TINY, "data.workers=0", f"train.batch_size={BATCH}", "model.num_clusters=10"]
ROUNDED = ["optim.name=sgd"]
"""Adam makes steps of full size from a gradient that is nothing but rounding."""
RATES = Rates(flops=1e12, bytes=1e9)


@pytest.fixture
def settings() -> Config:
    return load_config("digits", [*SETTINGS, *ROUNDED])


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Warm up with one batch, do not wait for rest, and do few steps in pieces."""
    monkeypatch.setattr(rounds, "WARM_UP", 0.0)
    monkeypatch.setattr(rounds, "wait_until_idle", lambda limit: True)
    monkeypatch.setattr(bench_module, "PIECEWISE_STEPS", 2)


def batches_of(settings: Config, digits: Path) -> list[Batch]:
    task = Task(open_dataset(digits), settings, CPU)
    made = [fixed_batch(task) for _ in range(2)]
    return [Batch(made[0].view_1, made[0].view_2, made[0].index), Batch(made[1].view_2, made[1].view_1, made[1].index)]


def assert_same(one: TrainingStep, other: TrainingStep) -> None:
    for a, b in ((one.model, other.model), (one.twin, other.twin)):
        for (name, value), expected in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    for queue, expected in ((one.queues.cluster, other.queues.cluster), (one.queues.instance, other.queues.instance)):
        torch.testing.assert_close(queue.keys, expected.keys, rtol=1e-4, atol=1e-5)
        assert torch.equal(queue.written, expected.written)


# Pieces.


class Names:
    """A meter that notes the order of the marks."""

    def __init__(self) -> None:
        self.steps: list[list[str]] = []
        self.reads = 0

    def start(self) -> None:
        self.steps.append([])

    def mark(self, part: str) -> None:
        self.steps[-1].append(part)

    def read(self) -> list[dict[str, float]]:
        self.reads += 1
        return [dict.fromkeys(step, 1.0) for step in self.steps]


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # asked for by torch.compile, which hides the warning
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(
    ("compiled", "precision"), [(False, Precision.FP32), (True, Precision.FP32), (False, Precision.FP16)]
)
def test_the_pieces_together_are_the_step(
    symmetric: bool, compiled: bool, precision: Precision, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So what is measured is what a step does. Compiled, every piece is one graph: `fullgraph` allows no other."""
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **options: real(function, **options | {"backend": "eager"}))
    chosen = [*ROUNDED, "loss.alpha=0.5", "momentum.warmup=false", f"loss.symmetric={symmetric}"]
    settings = load_config("digits", [*SETTINGS, *chosen])
    whole = build_step(settings, CPU, precision, "off")
    in_pieces = eager(build_step(settings, CPU, precision, "on" if compiled else "off"))
    piecewise, names = PiecewiseStep(in_pieces, compiled), Names()
    for number, batch in enumerate(batches_of(settings, digits)):
        whole(batch, number)
        piecewise(iter([batch]), number, names)
    assert_same(in_pieces, whole)
    assert set(names.steps[-1]) == set(PARTS)
    assert names.steps[-1].count("online forward") == 1 + symmetric
    torch._dynamo.reset()


def test_only_steps_after_the_warm_up_count_and_they_are_read_when_all_are_done() -> None:
    names = Names()
    numbers: list[int] = []

    class Piecewise:
        def __call__(self, batches: Any, number: int, meter: Any) -> None:
            numbers.append(number)
            meter.start()
            meter.mark(str(number))

    found = measure_parts(Piecewise(), iter([]), names, rounds=2, warm_up=3)  # type: ignore[arg-type]
    assert numbers == [0, 1, 2, 3, 4]
    assert found == [{"3": 1.0}, {"4": 1.0}]
    assert names.reads == 1


def test_the_clock_adds_up_what_belongs_to_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([10.0, 10.5, 10.75, 11.75, 20.0, 20.25])
    monkeypatch.setattr("time.perf_counter", lambda: next(times))
    clock = Clock()
    clock.start()
    for part in ("forward", "loss", "forward"):
        clock.mark(part)
    clock.start()
    clock.mark("loss")
    assert clock.read() == [{"forward": 1500.0, "loss": 250.0}, {"loss": 250.0}]


def test_events_are_read_in_pairs_after_one_wait_for_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    class Event:
        now = 0.0
        waits: ClassVar[list[float]] = []

        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self, stream: str) -> None:
            assert stream == "stream"
            Event.now += 2.0
            self.time = Event.now

        def synchronize(self) -> None:
            self.waits.append(self.time)

        def elapsed_time(self, end: Any) -> float:
            return end.time - self.time

    monkeypatch.setattr("torch.cuda.Event", Event)
    monkeypatch.setattr("torch.cuda.current_stream", lambda device: "stream")
    clock = CudaClock(torch.device("cuda"))
    for _ in range(2):
        clock.start()
        for part in ("forward", "loss", "forward"):
            clock.mark(part)
    assert Event.waits == []
    assert clock.read() == [{"forward": 4.0, "loss": 2.0}] * 2
    assert Event.waits == [Event.now]


@pytest.mark.parametrize(("spans", "busy"), [([(0, 2000), (5000, 6000)], 3.0), ([], None)])
def test_a_gpu_is_not_idle_because_nothing_was_seen_of_it(
    spans: list[tuple[float, float]], busy: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where CUPTI may not be used, the profiler gives what the host did, and no error."""

    def event(kind: Any, *span: float) -> SimpleNamespace:
        time_range = SimpleNamespace(start=span[0], end=span[1])
        return SimpleNamespace(device_type=kind, is_user_annotation=False, time_range=time_range)

    seen = [event(DeviceType.CPU, 0, 9000), *(event(DeviceType.CUDA, *span) for span in spans)]
    monkeypatch.setattr("torch.profiler.profile", lambda activities: nullcontext(SimpleNamespace(events=lambda: seen)))
    monkeypatch.setattr("torch.cuda.synchronize", lambda device: None)
    assert busy_milliseconds(lambda: None, torch.device("cuda")) == busy


def test_the_union_of_spans() -> None:
    assert covered([]) == 0
    assert covered([(0, 2), (5, 6)]) == 3
    assert covered([(5, 9), (0, 2), (1, 3), (6, 7)]) == 7


def test_the_sum_of_parts_is_the_whole_share() -> None:
    pieces = [{part: float(place + 1) for place, part in enumerate(PARTS)} for _ in range(3)]
    pieces[2]["EMA"] = 9.0
    peaks = [dict.fromkeys(PARTS, 5.0), dict.fromkeys(PARTS, 7.0)]
    found = summarise_parts(pieces, peaks, dict.fromkeys(PARTS, Work(4e9, 2e6)), RATES)
    assert list(found) == list(PARTS)
    assert found["EMA"]["ms"] == {"median": 7.0, "min": 7.0, "max": 9.0}
    assert sum(part["share"] for part in found.values()) == pytest.approx(1.0)
    assert found["augment"]["share"] == pytest.approx(1 / 28)
    assert (found["augment"]["floor_ms"], found["augment"]["bound"]) == (4.0, "arithmetic")
    assert found["augment"]["peak_bytes"] == 7.0
    assert summarise_parts(pieces, [], dict.fromkeys(PARTS, Work()), RATES)["EMA"]["peak_bytes"] is None


# The plain version.


def test_the_plain_step_is_the_same_step(settings: Config, digits: Path) -> None:
    """As Algorithm 1 goes: neither layout nor fusing changes what is computed."""
    plain, ours = build_plain_step(settings, CPU), build_step(settings, CPU, Precision.FP32, "off")
    assert isinstance(plain, PlainStep)
    for number, batch in enumerate(batches_of(settings, digits)):
        plain(batch, number)
        ours(batch, number)
    assert_same(plain, ours)


def test_the_plain_loader_makes_the_recipe(settings: Config, digits: Path) -> None:
    """The digits' recipe has rotation and zoom; what is drawn is torchvision's affair."""
    task = Task(open_dataset(digits), settings, CPU)
    loader = plain_loader(task, from_memory=True)
    kinds = [type(one).__name__ for one in loader.dataset.transform.transforms]  # type: ignore[attr-defined]
    assert kinds == [
        *("RandomAffine", "RandomResizedCrop", "RandomHorizontalFlip", "RandomApply", "RandomGrayscale"),
        *("ToTensor", "Normalize"),
    ]
    batch = next(plain_batches(loader, CPU))
    assert batch.view_1.shape == (BATCH, 3, 8, 8)
    assert not torch.equal(batch.view_1, batch.view_2)


@pytest.mark.parametrize("from_memory", [False, True])
def test_the_plain_loader_takes_the_images_that_are_trained_on(digits: Path, from_memory: bool) -> None:
    dataset = open_dataset(digits)
    dataset.manifest = dataclasses.replace(dataset.manifest, splits={"late": (900, 940), "all": (0, 1797)})
    settings = load_config("digits", [*SETTINGS, "data.split=late", "data.workers=0", "augment.flip=0"])
    loader: Any = plain_loader(Task(dataset, settings, CPU), from_memory)
    assert {loader.dataset[place][2] for place in range(len(loader.dataset))} == set(range(900, 940))
    loader.dataset.transform = transforms.ToTensor()
    expected = transforms.ToTensor()(Image.fromarray(dataset.decode(907)))
    torch.testing.assert_close(loader.dataset[7][0], expected)


def test_the_workers_of_the_plain_loader_leave_room_in_shared_memory(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two batches of each worker, two views of 8 x 8 in fp32; half of what is free is theirs."""
    settings = load_config("digits", [*SETTINGS, "data.workers=1", "train.batch_size=64"])
    task = Task(open_dataset(digits), settings, CPU)
    whole = 2 * 64 * 2 * 3 * 8 * 8 * 4
    free = 2 * whole
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=free))
    monkeypatch.setattr(plain, "SHARED", tmp_path)
    loader = plain_loader(task, from_memory=True)
    assert loader.batch_size == 64
    assert loader_note(loader, task) == ""
    free -= 1
    loader = plain_loader(task, from_memory=True)
    assert loader.batch_size == 32
    note = step_openers(StepTask(task, "off"))[PLAIN]().note
    assert note.endswith(f"images from memory; batches are of 32, since {tmp_path} is too small for 64")
    free = whole // 8
    with pytest.raises(ValueError, match=r"has 2\.5e-05 GB free, too little for batches of 8 from 1 workers"):
        plain_loader(task, from_memory=True)
    alone = settings.model_copy(update={"data": settings.data.model_copy(update={"workers": 0})})
    assert plain_loader(Task(task.dataset, alone, CPU), from_memory=True).batch_size == 64
    monkeypatch.setattr(plain, "SHARED", tmp_path / "nowhere")
    assert plain_loader(task, from_memory=True).batch_size == 64


# The roofline.


def test_the_work_of_a_linear_encoder_is_that_of_its_products() -> None:
    """Three matrix products forwards, two for each backwards, but for the input's own gradient."""
    settings = load_config("digits", [*SETTINGS, "model.feature_batch_norm=false", "loss.symmetric=false"])
    d, k, inputs = settings.model.feature_dim, 10, 3 * 8 * 8
    length, past = settings.queue.instance_length, settings.queue.cluster_multiple * k

    def build() -> TCC:
        return TCC(settings.model, settings.loss, nn.Sequential(nn.Flatten(), nn.Linear(inputs, d)))

    work = count_work(settings, build, Precision.FP32)
    forward = 2 * BATCH * (inputs * d + d * k + k * d)
    assert work["online forward"].flops == work["momentum forward"].flops == forward
    # r and r̂ are sums over the batch, whose contrast with P does not grow with it.
    losses = 2 * BATCH * (2 * k * d + d * length) + 2 * k * d * past
    assert work["losses and queues"].flops == losses
    parameters = inputs * d + d + 2 * k * d + d
    assert work["EMA"].bytes == 12 * parameters
    assert work["optimiser"].bytes == 28 * parameters
    elements = BATCH * (inputs + d + k + d)
    assert work["online forward"].bytes == 4 * elements
    assert count_work(settings, build, Precision.BF16)["online forward"].bytes == 2 * elements


def test_the_work_of_an_encoder_that_reads_numbers_is_counted() -> None:
    """As many of users' do: a number of a tensor while it is built, a constant of its module."""
    settings = load_config("digits", [*SETTINGS, "loss.symmetric=false"])
    constant = torch.full((1, 3, 1, 1), 0.5)

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.linspace(0, 1, 3)[1].item()
            self.linear = nn.Linear(3 * 8 * 8, settings.model.feature_dim)

        def forward(self, x: torch.Tensor) -> Any:
            return self.linear(((x - constant) * self.scale).flatten(1))

    work = count_work(settings, lambda: TCC(settings.model, settings.loss, Own()), Precision.FP32)
    assert work["online forward"].flops >= 2 * BATCH * 3 * 8 * 8 * settings.model.feature_dim


def test_symmetric_training_is_twice_the_forward_work(settings: Config) -> None:
    def forward(symmetric: str) -> float:
        config = load_config("digits", [*SETTINGS, f"loss.symmetric={symmetric}"])
        return count_work(config, lambda: TCC(config.model, config.loss), Precision.FP32)["online forward"].flops

    assert forward("true") == 2 * forward("false") > 0


def test_the_floor_is_set_by_what_takes_longer() -> None:
    assert Work(2e9, 1e6).floor(RATES) == (2.0, "arithmetic")
    assert Work(2e9, 5e6).floor(RATES) == (5.0, "memory")
    assert utilisation({"one": Work(2e9), "other": Work(1e9)}, 6.0, RATES) == 0.5


def test_the_device_is_measured() -> None:
    rates = measure_rates(CPU, torch.float32, side=32, size=1 << 12)
    assert rates.flops > 0
    assert rates.bytes > 0


# All of it.


@pytest.mark.usefixtures("at_once")
def test_the_whole_measurement(settings: Config, digits: Path) -> None:
    dataset = open_dataset(digits)
    what = StepTask(Task(dataset, with_num_clusters(settings, dataset), CPU), "off")
    result = json.loads(json.dumps(bench_step(what, 1, 1e-6, calibrate=Calibration(), rates=RATES)))
    assert set(result["results"]) == {PLAIN, PLAIN_FIXED, FED, FIXED}
    assert result["baseline"] == PLAIN
    ours, ceiling = result["results"][FED], result["results"][FIXED]
    ratio = ours["img_per_s"]["median"] / ceiling["img_per_s"]["median"]
    assert ours["of_ceiling"]["median"] == pytest.approx(ratio)
    whole = result["whole"]
    assert whole[FED]["ms"] == pytest.approx(1e3 * BATCH / ours["img_per_s"]["median"])
    assert whole["flops"] == sum(part["flops"] for part in result["parts"].values())
    assert whole[FED]["utilisation"] == pytest.approx(whole["flops"] / (1e9 * whole[FED]["ms"]))
    assert whole["idle"] is None
    assert len(result["pieces"]) == 2
    assert [row[0] for row in part_rows(result)] == list(PARTS)
    rows = {row[0].removesuffix(" *"): row for row in contender_rows(result)}
    assert rows[FED][3].endswith(" %")
    assert rows[PLAIN][2] == ""
    assert any("idle: not known of a CPU" in line for line in remarks(result))
    assert any("profiler saw nothing of the GPU" in line for line in remarks(result | {"device": "cuda:0"}))


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    ("late", "found"),
    [
        ("measure_rates", ["results"]),
        ("measure_parts", ["results", "rates", "whole"]),
        ("idleness", ["results", "rates", "whole", "parts", "pieces"]),
    ],
)
def test_what_fails_late_takes_nothing_with_it(
    late: str, found: list[str], settings: Config, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise RuntimeError("no such luck")

    monkeypatch.setattr(bench_module, "measure_rates", lambda device, dtype: RATES)
    monkeypatch.setattr(bench_module, late, fail)
    dataset = open_dataset(digits)
    what = StepTask(Task(dataset, with_num_clusters(settings, dataset), CPU), "off")
    kept: dict[str, Any] = {}
    with pytest.raises(RuntimeError, match="no such luck"):
        bench_step(what, 1, 1e-6, plain=False, calibrate=Calibration(), keep=kept.update)
    assert kept["results"].keys() == {FED, FIXED}
    assert [part for part in ("results", "rates", "whole", "parts", "pieces") if part in kept] == found
    if "parts" in found:
        assert not any("idle" in line for line in remarks(kept))


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("works", [True, False])
def test_the_recorded_step_comes_last(
    works: bool, settings: Config, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recording that fails may leave a process in which nothing works: here, not even the fixed batch."""

    def openers(*arguments: Any, **options: Any) -> Openers:
        found = step_openers(*arguments, **options)
        return found | {GRAPHS: found[FIXED] if works else broken}

    def broken(*arguments: Any) -> Source:
        monkeypatch.setattr(rounds, "_turn", broken)
        raise RuntimeError("cannot record")

    monkeypatch.setattr(bench_module, "step_openers", openers)
    dataset = open_dataset(digits)
    what = StepTask(Task(dataset, with_num_clusters(settings, dataset), CPU), "off")
    found = bench_step(what, 1, 1e-6, False, calibrate=Calibration(), rates=RATES)
    assert {"rates", "whole", "parts", "pieces"} <= found.keys()
    if works:
        assert set(found["results"]) == {FED, FIXED, GRAPHS}
        assert found["results"][GRAPHS] == found["recorded"]["results"][GRAPHS]
        assert found["results"][GRAPHS]["of_ceiling"] is not None
        assert found["contenders"][GRAPHS]["note"] == "compile=off"
    else:
        assert set(found["results"]) == {FED, FIXED}
        assert "fixed batch, graphs: RuntimeError: cannot record" in found["skipped"][GRAPHS]


@pytest.mark.usefixtures("at_once")
def test_the_command_prints_tables_and_writes_what_it_is_asked_for(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench_module, "measure_rates", lambda device, dtype: RATES)
    monkeypatch.setattr("tcc_fast.bench.comparison.Calibration", Quick)
    printed = type_in(
        *("bench", "step", "--data", str(digits), "--rounds", "1", "--seconds", "0.01", "--no-plain"),
        *("--json", "out.json", *SETTINGS),
    )
    assert "1 TFLOP/s of matrix products in float32" in printed
    assert all(part.split()[0] in printed for part in PARTS)
    written = json.loads(Path("out.json").read_text())
    assert set(written["results"]) == {FED, FIXED}
    assert written["baseline"] is None


class Quick(Calibration):
    """In place of the fixed piece of work."""

    def close(self) -> None:
        """Nothing to end."""


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--rounds", "0"), "--rounds is 0"),
        (("--json", "nowhere/out.json"), "nowhere does not exist"),
        (("train.compile=graphs",), "train.compile=graphs needs a CUDA GPU"),
    ],
)
def test_a_mistake_in_the_options_is_said_at_once(digits: Path, options: tuple[str, ...], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        type_in("bench", "step", "--data", str(digits), *options)


def test_losses_are_kept_no_longer_than_a_log_would() -> None:
    class Step:
        def __call__(self, batch: Any, step: int) -> Any:
            return type("Losses", (), {"loss": torch.tensor(float(step))})

    batch = Batch(torch.zeros(3), torch.zeros(3), torch.arange(3))
    assert list(itertools.islice(steps(Step(), itertools.repeat(batch)), 45)) == [3] * 45  # type: ignore[arg-type]
