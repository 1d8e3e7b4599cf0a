"""`tools/gpu_report.py`: every part runs on a CPU too, and the report says what was reached and what was not."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from tcc_fast.batch import Batch
from tcc_fast.bench import Task, rounds, verify
from tcc_fast.bench import step as bench_module
from tcc_fast.bench.roofline import Rates
from tcc_fast.bench.stepping import build_step, fed_by
from tcc_fast.bench.verify import (
    Curve,
    ViewDeviation,
    deviation,
    exact_products,
    in_dtype,
    loss_curve,
    restore,
    state_deviation,
    state_of,
    view_deviation,
    watch,
)
from tcc_fast.config import load_config
from tcc_fast.datasets import open_dataset
from tcc_fast.method.step import TrainingStep
from tcc_fast.pipelines.view_maker import TensorViews
from tcc_fast.precision import Precision
from tcc_fast.settings import Config
from tests.bench.test_bench_step import Quick
from tests.conftest import TINY, load_tool
from tests.method.test_step import fresh_accelerate
from tests.test_cli import type_in

PARTS = ("verify", "step-32", "step-96", "step-224", "small-batch", "memory", "quality", "run")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images are made once for all parts."""
    return tmp_path_factory.mktemp("work")


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The tool, in a hurry: small images, no waiting for rest, commands within this process, no DALI and no FFCV."""
    for needed in ("bench_pipelines", "gpu_page"):
        load_tool(needed)
    parts, tool = load_tool("gpu_parts"), load_tool("gpu_report")
    monkeypatch.setattr(rounds, "WARM_UP", 0.0)
    monkeypatch.setattr(rounds, "wait_until_idle", lambda limit: True)
    monkeypatch.setattr(bench_module, "PIECEWISE_STEPS", 2)
    monkeypatch.setattr(bench_module, "measure_rates", lambda device, dtype: Rates(1e12, 1e9))
    monkeypatch.setattr("tcc_fast.bench.comparison.Calibration", Quick)
    monkeypatch.setattr(parts, "default_workers", lambda: 1)
    for package in ("nvidia.dali", "ffcv"):
        monkeypatch.setitem(sys.modules, package, None)
    for name, case in parts.SPEED.items():
        monkeypatch.setitem(parts.SPEED, name, parts.replace(case, image_size=16))

    def at_once(*arguments: str) -> float:
        with fresh_accelerate():
            type_in(*arguments)
        return 1.0

    monkeypatch.setattr(parts, "tcc_fast", at_once)
    yield tool
    del sys.modules["gpu_report"], sys.modules["gpu_parts"]


@pytest.fixture
def parts(tool: ModuleType) -> ModuleType:
    """What it measures."""
    return sys.modules["gpu_parts"]


def measure_here(tool: ModuleType, part: str, out: Path, work: Path) -> None:
    """A part in this process, and the report."""
    tool.main([part, "--here", "--quick", "--out", str(out), "--work", str(work)])
    tool.main(["--render", "--out", str(out)])


@pytest.fixture
def page(tool: ModuleType) -> ModuleType:
    """What the tool writes with."""
    return sys.modules["gpu_page"]


@pytest.mark.parametrize("part", PARTS)
def test_every_part_runs_alone_and_adds_to_the_report(part: str, tool: ModuleType, work: Path, tmp_path: Path) -> None:
    assert tuple(tool.PARTS) == PARTS
    out = tmp_path / "gpu.md"
    out.with_suffix(".json").write_text(json.dumps({"earlier": {"kept": True}}))
    measure_here(tool, part, out, work)
    results, text = json.loads(out.with_suffix(".json").read_text()), out.read_text()
    assert "failed" not in results[part], results[part]
    assert results["earlier"] == {"kept": True}
    assert f"## `{part}`" in text
    assert "**No GPU was there" in text
    assert ("not judged" in text) == (part not in ("small-batch", "quality", "run"))  # which have no goals
    assert "reached |" not in text
    if part == "step-96":
        skipped = results[part]["skipped"]
        assert skipped.keys() == {fed_by("dali"), fed_by("ffcv")}
        assert "- left out: tcc-fast, dali: " in text
    if part == "verify":
        assert ElementTree.fromstring(out.with_suffix(".svg").read_text()).tag.endswith("svg")
        assert results[part]["deviations"]["fp32, eager"] == 0
        assert results[part]["one_rank"] == {"backend": "gloo", "ok": True}


def figure(value: float) -> dict[str, float]:
    return {"median": value, "min": value, "max": value}


def speed(rate: float, ratio: float, of_ceiling: float, share: float) -> dict[str, Any]:
    """What the goals look at."""
    found = {"img_per_s": figure(rate), "ratio": figure(ratio), "of_ceiling": figure(of_ceiling)}
    return {"results": {fed_by("resident"): found}, "parts": {"augment": {"share": share}}}


def rows(page: ModuleType, results: dict[str, Any]) -> dict[str, Any]:
    return {goal.what: goal for goal in page.goals(results)}


def test_goals_are_reached_missed_or_not_measured(page: ModuleType) -> None:
    results = {
        "step-32": speed(21_000, 3.9, 0.98, 0.04),
        "step-224": {"failed": "out of memory"},
        "memory": {"share": {"median": 0.019, "min": 0.01, "max": 0.03}},
    }
    found = rows(page, results)
    by_case = page.speed_goals("step-32", results["step-32"])
    assert [(goal.measured, goal.reached) for goal in by_case] == [
        ("21,000", True),
        ("3.9", False),
        ("0.980", True),
        ("4.0 %", True),
    ]
    assert all(goal.reached is None for goal in page.speed_goals("step-224", results["step-224"]))
    assert "pipeline ÷ fixed batch, dali" in page.speed_goals("step-96", None)[3].what
    queue = found["J = 65 536, share of the step at 96 px"]
    assert (queue.measured, queue.reached) == ("1.9 % (1.0–3.0)", True)
    assert found["graphs compiled after warm-up"].reached is None


def views(**means: float) -> dict[str, dict[str, float]]:
    """By how much they are off, little unless otherwise said."""
    means = {"fp32": 0.004, "fp16": 0.04, "bf16": 0.2} | means
    return {precision: {"mean": mean, "largest": 3.0, "off": 0.01} for precision, mean in means.items()}


def verified(**changed: Any) -> dict[str, Any]:
    watched = {"steps": 100, "graphs": 2, "compiled_later": 0, "error": None}
    fine = {
        "curves": {"fp32, eager": [1.0, 2.0], "bf16, compiled": [1.0, 2.0]},
        "deviations": {"fp32, eager": 0.0, "bf16, compiled": 0.04},
        "states": {"fp32, eager": {"twin": 0.0}, "fp32, compiled": {"twin": 0.02, "queues": 0.0}},
        "views": views(),
        "kernels": {"noise": 0.0, "max pooling, bf16": 0.0},
        "watched": {"on": watched},
        "one_rank": {"ok": True, "backend": "nccl"},
        "failures": {},
    }
    return fine | changed


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, [True, True, True, True, True, True, True]),
        ({"deviations": {"fp32, eager": 0.0, "bf16, compiled": 0.06}}, [False, True, True, True, True, True, True]),
        (
            {"deviations": {"fp32, eager": 0.0, "bf16, compiled": float("nan")}},
            [False, True, True, True, True, True, True],
        ),
        (
            {"watched": {"on": {"steps": 9, "graphs": 2, "compiled_later": 1, "error": "called a synchronizing"}}},
            [True, True, True, False, False, True, True],
        ),
        (
            {"watched": {"on": {"steps": 9, "graphs": 2, "compiled_later": 0, "error": "would recompile"}}},
            [True, True, True, False, False, True, True],
        ),
        (
            {"watched": {"on": {"steps": 9, "graphs": None, "compiled_later": None, "error": "no compiler"}}},
            [True, True, True, False, False, True, True],
        ),
        ({"one_rank": {"ok": False, "error": "no NCCL"}}, [True, True, True, True, True, True, False]),
        ({"failures": {"losses, bf16, graphs": "cannot record"}}, [False, True, True, True, True, True, True]),
        ({"failures": {"watched, graphs": "cannot record"}}, [True, True, True, False, False, True, True]),
        ({"one_rank": None, "failures": {"one rank": "it took too long"}}, [True, True, True, True, True, True, False]),
        ({"states": {"fp32, graphs": {"twin": 1.0}}}, [True, False, True, True, True, True, True]),
        ({"states": {"fp32, eager": {"twin": 0.0}}}, [True, None, True, True, True, True, True]),
        ({"views": views(fp32=0.03)}, [True, True, False, True, True, True, True]),
        ({"views": views(fp16=0.2)}, [True, True, False, True, True, True, True]),
        ({"views": views(bf16=0.5)}, [True, True, False, True, True, True, True]),
        ({"kernels": {"noise": 1e-6}}, [True, True, True, True, True, False, True]),
        ({"failures": {"own kernels": "out of memory"}}, [True, True, True, True, True, False, True]),
        (
            {
                "curves": {},
                "deviations": {},
                "watched": {},
                "failures": {"losses, fp32, eager": "out of memory", "watched, on": "out of memory"},
            },
            [False, True, True, False, False, True, True],
        ),
    ],
)
def test_what_must_hold(page: ModuleType, changed: dict[str, Any], expected: list[bool | None]) -> None:
    goals = page.verify_goals(verified(**changed))
    assert [goal.reached for goal in goals] == expected
    said = "\n".join(page.verify_section(verified(**changed)))
    reasons = ("called a synchronizing", "no compiler", "no NCCL", "cannot record", "it took too long", "out of memory")
    assert all(reason in said for reason in reasons if reason in str(changed))


def test_on_a_gpu_goals_are_judged_and_failures_are_said(page: ModuleType) -> None:
    machine = {"cpu": "a", "cores": 16, "gpu": "NVIDIA H200"}
    about = {"machine": machine, "versions": {"torch": "2.11.0", "FFCV": None}, "quick": False, "lacking": None}
    failed = {"failed": "RuntimeError: out of memory", "date": "today", "took": 3.2}
    share = {"median": 0.01, "min": 0.01, "max": 0.01}
    memory = {"share": share, "results": {}, "skipped": {}, "date": "today", "took": 60.0}
    text = page.report({"about": about, "step-96": failed, "memory": memory}, "2026-01-01", PARTS)
    assert "NVIDIA H200" in text
    assert "No GPU was there" not in text
    assert "| J = 65 536, share of the step at 96 px | < 2 % | 1.0 % (1.0–1.0) | reached |" in text
    assert "- **failed**: RuntimeError: out of memory" in text
    assert "torch 2.11.0" in text
    assert "FFCV" not in text
    assert "for want of" not in text
    text = page.report({"about": about | {"lacking": "a C compiler"}}, "2026-01-01", PARTS)
    assert "**Nothing was compiled, for want of a C compiler.**" in text


def test_a_part_that_fails_is_a_finding(tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str, amount: Any, keep: Any) -> dict[str, Any]:
        raise RuntimeError("no such luck")

    monkeypatch.setitem(tool.PARTS, "memory", fail)
    measure_here(tool, "memory", tmp_path / "gpu.md", tmp_path)
    assert "- **failed**: RuntimeError: no such luck" in (tmp_path / "gpu.md").read_text()


def test_what_a_part_found_before_it_failed_is_shown(
    tool: ModuleType, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise RuntimeError("no such luck")

    out = tmp_path / "gpu.md"
    for late, parts in (("idleness", True), ("measure_parts", False)):
        monkeypatch.setattr(bench_module, late, fail)
        measure_here(tool, "step-32", out, work)
        found, text = json.loads(out.with_suffix(".json").read_text())["step-32"], out.read_text()
        assert found["failed"] == "RuntimeError: no such luck"
        assert ("parts" in found) == parts
        assert "- **failed**: RuntimeError: no such luck" in text
        assert "| whole step |" in text
        assert ("| EMA |" in text) == parts
        assert "not judged" in text


def test_the_whole_run_is_on_the_largest_set_that_is_there(
    parts: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[Any, ...]] = []
    monkeypatch.setattr(parts, "train_and_evaluate", lambda *arguments: made.append(arguments) or {})
    monkeypatch.setattr(parts, "real_set", lambda name, amount: (load_config(name), amount.work / name))
    amount = parts.sizes(False, tmp_path)
    for name in ("mnist5k", "cifar10"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "dataset.json").touch()
        parts.measure_run("run", amount, lambda found: None)
    whole = tmp_path / "gpu-runs" / "whole"
    assert made == [
        (tmp_path / "mnist5k", "mnist5k", whole, ["model.backbone=resnet18", "data.image_size=32"]),
        (tmp_path / "cifar10", "cifar10-short", whole, []),
    ]


def test_a_part_that_takes_too_long_ends_with_what_it_has_started(tool: ModuleType, tmp_path: Path) -> None:
    """Its training would otherwise go on working on the GPU while the next part is measured."""
    note = tmp_path / "pid"
    begin = "import subprocess; p = subprocess.Popen(['sleep', '600'])"
    script = f"{begin}; open({str(note)!r}, 'w').write(str(p.pid)); p.wait()"
    assert tool.run_at_most(5, [sys.executable, "-c", script]) is None
    state = Path(f"/proc/{note.read_text()}/stat")
    deadline = time.monotonic() + 10
    while state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline, "it goes on"
        time.sleep(0.05)
    assert tool.run_at_most(60, [sys.executable, "-c", "raise SystemExit(3)"]) == 3


def test_a_process_that_dies_takes_no_readings_with_it(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One dies halfway, one before it does anything, one when it has found all, and one takes too long. All were
    measured earlier too, which is kept until there are whole new figures.
    """

    class Died(BaseException):
        pass

    def die(name: str, amount: Any, keep: Any) -> dict[str, Any]:
        keep(verified(failures={"watched, graphs": "not finished"}))
        raise Died

    def run(seconds: float, command: list[str]) -> int | None:
        assert seconds in (560, 1800)
        try:
            if command[2] not in ("memory", "step-32"):
                tool.main(command[2:])
        except Died:
            return -6
        if command[2] == "step-32":
            return None
        return 0 if command[2] == "quality" else -9

    runs = {"why": "all that there is", "runs": {}}
    for name, part in {"verify": die, "quality": lambda *_: runs, "run": lambda *_: runs}.items():
        monkeypatch.setitem(tool.PARTS, name, part)
    monkeypatch.setattr(tool, "run_at_most", run)
    out = tmp_path / "gpu.md"
    earlier = {"date": "earlier", "took": 1.0, "share": figure(0.5)}
    names = ["verify", "step-32", "memory", "quality", "run"]
    out.with_suffix(".json").write_text(json.dumps(dict.fromkeys(names, earlier)))
    tool.main([*names, "--quick", "--out", str(out), "--work", str(tmp_path), "--limit", "560"])
    results, text = json.loads(out.with_suffix(".json").read_text()), out.read_text()
    assert results["verify"]["failed"] == "not finished; ended with exit status -6"
    assert results["verify"]["curves"] == verified()["curves"]
    assert results["memory"].keys() == {"failed", "date", "took", "earlier"}
    assert results["memory"]["failed"] == "not finished; ended with exit status -9"
    assert results["step-32"]["failed"] == "not finished; ended after 560 s"
    assert results["run"]["failed"] == "ended with exit status -9"
    assert results["quality"].keys() == {"why", "runs", "date", "took"}
    assert results["run"]["why"] == "all that there is"
    assert results["verify"]["earlier"] == results["memory"]["earlier"] == results["step-32"]["earlier"] == earlier
    assert "- **failed**: not finished; ended with exit status -9" in text
    assert "- **failed**: watched, graphs: not finished" in text
    assert text.count("- what was measured earlier is kept in the JSON file") == 3
    tool.main(["memory", "--quick", "--out", str(out), "--work", str(tmp_path)])  # fails again
    assert json.loads(out.with_suffix(".json").read_text())["memory"]["earlier"] == earlier


def test_pieces_of_verify_fail_by_themselves_and_graphs_come_last(
    parts: ModuleType, page: ModuleType, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    def curve(training_step: Stand, task: Any, precision: Precision, steps: int) -> Curve:
        order.append(f"{precision} {training_step.mode}")
        if (precision, training_step.mode) == ("bf16", "on"):
            raise RuntimeError("no compiler")
        return Curve([1.0, 2.0], {"queues.Q.keys": torch.ones(2)})

    def watched(training_step: Stand, batches: Any, warm_up: int, steps: int) -> dict[str, Any]:
        order.append(f"watched {training_step.precision} {training_step.mode}")
        if training_step.mode == "graphs":
            raise torch.OutOfMemoryError("all gone")
        return {"steps": steps, "graphs": 2, "compiled_later": 0, "error": None}

    def python(*arguments: str, seconds: float) -> Any:
        order.append("one rank")
        raise subprocess.TimeoutExpired("python", seconds)

    built: list[tuple[Precision, str]] = []
    stand_ins(parts, monkeypatch, built)
    monkeypatch.setattr(parts, "resolve_precision", lambda choice, device: Precision.BF16)
    monkeypatch.setattr(parts, "loss_curve", curve)
    monkeypatch.setattr(parts, "watch", watched)
    monkeypatch.setattr(parts, "python", python)
    kept: list[dict[str, str]] = []
    found = parts.measure_verify("verify", parts.sizes(True, work), lambda found: kept.append(dict(found["failures"])))
    eager, compiled = ([f"{precision} {mode}" for precision in Precision] for mode in ("off", "on"))
    assert [one for one in order if one != "restored"] == [
        *(*eager, *compiled, "watched bf16 on", "watched fp16 on", "one rank"),
        *("fp32 graphs", "bf16 graphs", "fp16 graphs", "watched bf16 graphs", "watched fp16 graphs"),
    ]
    assert [f"{precision} {mode}" for precision, mode in built] == [*eager, *compiled]  # and compiled no more often
    curves = [f"{precision}, {mode}" for mode in ("eager", "compiled", "graphs") for precision in Precision]
    assert [*found["curves"], "bf16, compiled"] == sorted(curves, key="bf16, compiled".__eq__)
    assert list(found["states"]) == ["fp32, eager", "fp32, compiled", "fp32, graphs"]
    assert list(found["watched"]) == ["bf16, compiled", "fp16, compiled"]
    assert found["failures"] == {
        "losses, bf16, compiled": "RuntimeError: no compiler",
        "watched, bf16, graphs": "OutOfMemoryError: all gone",
        "watched, fp16, graphs": "OutOfMemoryError: all gone",
        "one rank": "TimeoutExpired: Command 'python' timed out after 180.0 seconds",
    }
    assert len(kept) == len(order) + 2, "after each piece: views and our kernels, too"
    assert kept[0]["watched, fp16, graphs"] == "not finished"
    goals = page.verify_goals(found)
    assert [goal.reached for goal in goals] == [False, True, True, False, False, True, False]
    assert goals[0].measured == "0.0 %; losses, bf16, compiled failed"
    assert "- **failed**: watched, bf16, graphs: OutOfMemoryError: all gone" in page.verify_section(found)


class Stand:
    """In place of a training step."""

    def __init__(self, mode: str, precision: Precision) -> None:
        self.mode, self.precision = mode, precision


def stand_ins(parts: ModuleType, monkeypatch: pytest.MonkeyPatch, built: list[tuple[Precision, str]]) -> None:
    """Nothing is compiled or trained; ``built`` are the steps that were."""

    def build(config: Any, device: Any, precision: Precision, mode: str) -> Stand:
        built.append((precision, mode))
        return Stand(mode, precision)

    monkeypatch.setattr(parts, "compile_mode", lambda *_: "on")
    monkeypatch.setattr(parts, "build_step", build)
    monkeypatch.setattr(parts, "recorded", lambda step: Stand("graphs", step.precision))
    monkeypatch.setattr(parts, "state_of", lambda step: {"queues.Q.keys": torch.zeros(2)})
    monkeypatch.setattr(parts, "restore", lambda step, state: None)
    monkeypatch.setattr(parts, "endless", iter)
    monkeypatch.setattr(parts, "open_feed", lambda task, compiled: (Feed([task.precision]), "none"))
    monkeypatch.setattr(parts, "view_deviation", lambda *_: ViewDeviation(0.001, 2.0, 0.0))
    monkeypatch.setattr(parts, "share_that_differs", lambda device: {"noise": 0.0})


class Feed(list[Any]):
    """A pipeline of nothing that can be trained on."""

    def close(self) -> None:
        """Nothing to end."""


@pytest.mark.parametrize("precision", Precision)
def test_what_is_watched_is_what_trains_and_fp16_beside_it(
    precision: Precision, parts: ModuleType, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned: list[Any] = []

    def watched(training_step: Stand, batches: Any, warm_up: int, steps: int) -> dict[str, Any]:
        tuned.append((training_step.precision, next(batches)))
        return {"steps": steps, "graphs": 2, "compiled_later": 0, "error": None}

    stand_ins(parts, monkeypatch, [])
    monkeypatch.setattr(parts, "resolve_precision", lambda choice, device: precision)
    monkeypatch.setattr(parts, "tune", lambda device, precision: tuned.append(precision))
    monkeypatch.setattr(parts, "loss_curve", lambda *_: Curve([1.0], {"queues.Q.keys": torch.ones(2)}))
    monkeypatch.setattr(parts, "watch", watched)
    monkeypatch.setattr(
        parts, "python", lambda *_, seconds: SimpleNamespace(returncode=0, stdout='{"ok": true}', stderr="")
    )
    found = parts.measure_verify("verify", parts.sizes(True, work), lambda found: None)
    assert found["failures"] == {}
    each = dict.fromkeys((precision, Precision.FP16))
    assert tuned == [step for _ in ("on", "graphs") for one in each for step in (one, (one, one))]


def test_the_queue_is_a_share_of_the_step(parts: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def compare(*arguments: Any) -> dict[str, Any]:
        assert list(arguments[1]) == [parts.FIXED]
        return {"results": {parts.FIXED: {"img_per_s": figure(1600.0)}}}  # 16 images in 10 ms

    what = SimpleNamespace(task=None, config=None, compiling="off")
    monkeypatch.setattr(parts, "speed_task", lambda case, amount, length: what)
    monkeypatch.setattr(parts, "queue_milliseconds", lambda *_: [0.1, 0.2, 0.4])
    monkeypatch.setattr(parts, "step_openers", lambda *_, plain: {parts.FIXED: None})
    monkeypatch.setattr(parts, "compare", compare)
    kept: dict[str, Any] = {}
    found = parts.measure_memory("memory", parts.sizes(True, Path()), kept.update)
    assert kept["queue_ms"] == {"median": 0.2, "min": 0.1, "max": 0.4}
    assert found["step_ms"] == pytest.approx(10.0)
    assert found["share"] == pytest.approx({"median": 0.02, "min": 0.01, "max": 0.04})


def test_an_unknown_part_is_refused(tool: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tool.main(["step-64"])
    assert "no part is called 'step-64'; there are verify, step-32" in capsys.readouterr().err


# What `verify` is made of.


def test_curves_are_compared_by_the_means_of_windows() -> None:
    assert deviation([1.0, 3.0, 5.0, 5.0], [3.0, 1.0, 5.0, 5.0], window=2) == 0
    assert deviation([2.0, 2.0, 5.0, 5.0], [2.0, 2.0, 5.0, 6.0], window=2) == pytest.approx(0.1)
    assert deviation([1.0, 2.0], [1.0, float("nan")], window=2) != deviation([1.0, 2.0], [1.0, 2.0], window=2)
    assert deviation([2.0], [1.0], window=25) == 0.5


def test_precision_is_given_back() -> None:
    cudnn = torch.backends.cudnn

    def now() -> tuple[str, bool, bool, bool]:
        return torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic

    before = now()
    with exact_products(True):
        assert now() == ("highest", False, False, True)
        with exact_products(False):
            assert now() == ("high", True, True, False)
        assert now() == ("highest", False, False, True)
    assert now() == before


def small_step(compiling: str = "off", *changed: str) -> tuple[TrainingStep, Config]:
    settings = load_config("digits", [*TINY, "model.num_clusters=10", "train.batch_size=8", *changed])
    return build_step(settings, torch.device("cpu"), Precision.FP32, compiling), settings


def test_a_curve_is_the_same_again_from_the_same_state(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "STATE_AFTER", 2)
    step, settings = small_step()
    task, beginning = Task(open_dataset(digits), settings, torch.device("cpu")), state_of(step)
    first = loss_curve(step, task, Precision.FP32, 3)
    assert len(first.losses) == 3
    restore(step, beginning)
    assert state_deviation(beginning, first.state, state_of(step)) == dict.fromkeys(KINDS, 1.0)
    again = loss_curve(step, task, Precision.FP32, 3)
    assert again.losses == first.losses
    assert state_deviation(beginning, first.state, again.state) == dict.fromkeys(KINDS, 0.0)


KINDS = ("parameters", "statistics", "twin's parameters", "twin's statistics", "queues")


@pytest.mark.parametrize(
    ("frozen", "kind"),
    [("enqueue", "queues"), ("update_twin", "twin's parameters"), ("step", "parameters")],
)
def test_what_stands_still_is_off_by_one(frozen: str, kind: str, digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "STATE_AFTER", 2)
    step, settings = small_step()
    task, beginning = Task(open_dataset(digits), settings, torch.device("cpu")), state_of(step)
    reference = loss_curve(step, task, Precision.FP32, 2)
    restore(step, beginning)
    if frozen == "update_twin":
        monkeypatch.setattr("tcc_fast.method.step.update_twin", lambda *_: None)
    else:
        monkeypatch.setattr(step.optimizer if frozen == "step" else step, frozen, lambda *_: None)
    off = state_deviation(beginning, reference.state, loss_curve(step, task, Precision.FP32, 2).state)
    assert off[kind] == pytest.approx(1.0, abs=1e-3)


def test_compiled_views_are_compared_with_eager_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """On images that a wrong crop would change: shifted by a pixel, they are off by levels."""
    recipe, device = load_config("imagenet10").augment, torch.device("cpu")
    made = verify.TensorViews.views_of_stored

    def shifted(self: Any, *arguments: Any) -> Any:
        views = made(self, *arguments)
        return tuple(view.roll(self.pixels, -1) for view in views)

    def maker(*arguments: Any) -> Any:
        *settings, compiled = arguments
        views = TensorViews(*settings)
        views.pixels = int(compiled) * wrong  # type: ignore[attr-defined]
        return views

    monkeypatch.setattr(TensorViews, "views_of_stored", shifted)
    monkeypatch.setattr(verify, "TensorViews", maker)
    wrong = 0
    assert view_deviation(recipe, 24, device, count=16) == (0.0, 0.0, 0.0)
    found = view_deviation(recipe, 24, device, torch.float16, count=16)
    assert 0.001 < found.mean < 0.1
    assert found.off == 0
    wrong = 1
    found = view_deviation(recipe, 24, device, count=16)
    assert found.mean > 1
    assert found.off > 0.9


def test_a_step_that_fails_at_once_is_a_finding() -> None:
    class Step:
        twin = SimpleNamespace(prototypes=torch.zeros(1))

        def __call__(self, batch: Batch, step: int) -> None:
            raise RuntimeError("cannot record\nat all")

    batch = Batch(torch.ones(2), torch.ones(2), torch.arange(2))
    found = watch(Step(), [batch] * 3, 2, 1)  # type: ignore[arg-type]
    assert found == {"steps": 1, "graphs": None, "compiled_later": None, "error": "RuntimeError: cannot record"}


def test_a_kernel_that_triton_compiles_anew_is_noticed() -> None:
    """By arguments of another kind; what listened before listens again."""
    knobs = pytest.importorskip("triton", reason="torch was built without Triton").knobs

    class Step:
        twin = SimpleNamespace(prototypes=torch.zeros(1))
        optimizer = SimpleNamespace(param_groups=[])
        compiling = (0, 1, 3)  # in the warm-up, and once afterwards

        def __call__(self, batch: Batch, step: int) -> None:
            if step in self.compiling and knobs.runtime.jit_post_compile_hook is not None:
                knobs.runtime.jit_post_compile_hook(key="", repr="blur", fn=None, compile={}, already_compiled=True)

    batch = Batch(torch.ones(2), torch.ones(2), torch.arange(2))
    found = watch(Step(), [batch] * 5, 2, 3)  # type: ignore[arg-type]
    assert (found["error"], found["compiled_later"]) == (None, 1)
    assert knobs.runtime.jit_post_compile_hook is None


def test_a_step_that_must_be_compiled_anew_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a batch of another size, which the pipelines never give."""
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **options: real(function, **options | {"backend": "eager"}))
    settings = load_config("digits", [*TINY, "model.num_clusters=10", "train.batch_size=8"])
    views = torch.randn(8, 3, 8, 8)
    batch = Batch(views, views, torch.arange(8))
    smaller = Batch(views[:6], views[:6], torch.arange(6))
    fine = watch(build_step(settings, torch.device("cpu"), Precision.FP32, "on"), [batch] * 5, 2, 3)
    assert (fine["error"], fine["compiled_later"], fine["steps"]) == (None, 0, 3)
    torch._dynamo.reset()
    bad = watch(build_step(settings, torch.device("cpu"), Precision.FP32, "on"), [batch, batch, smaller], 2, 1)
    assert "recompile" in bad["error"]
    torch._dynamo.reset()


def test_views_in_the_dtype_of_the_encoder() -> None:
    batch = Batch(torch.ones(2), torch.ones(2), torch.arange(2))
    assert in_dtype(batch, torch.bfloat16).view_1.dtype == torch.bfloat16
    assert in_dtype(batch, torch.float32).view_2.dtype == torch.float32
    assert in_dtype(batch, torch.bfloat16).index.dtype == torch.int64
