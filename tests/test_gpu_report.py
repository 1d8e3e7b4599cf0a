"""`tools/gpu_report.py`: every part runs on a CPU too, and the report says what was reached and what was not."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from tcc_fast.batch import Batch
from tcc_fast.bench import Task, rounds, summarise, verify
from tcc_fast.bench import step as bench_module
from tcc_fast.bench.roofline import Rates
from tcc_fast.bench.stepping import build_step, fed_by, open_feed
from tcc_fast.bench.verify import deviation, exact_products, in_dtype, loss_curve, watch
from tcc_fast.config import load_config
from tcc_fast.datasets import open_dataset
from tests.conftest import TINY, load_tool
from tests.test_bench_step import Quick
from tests.test_cli import type_in
from tests.test_step import fresh_accelerate

PARTS = ("verify", "step-32", "step-96", "step-224", "memory", "quality", "run")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures are made once for all parts."""
    return tmp_path_factory.mktemp("work")


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The tool, in a hurry: small pictures, no waiting for rest, commands within this process, no DALI and no FFCV."""
    for needed in ("bench_pipelines", "gpu_page"):
        load_tool(needed)
    tool = load_tool("gpu_report")
    monkeypatch.setattr(rounds, "WARM_UP", 0.0)
    monkeypatch.setattr(rounds, "wait_until_idle", lambda limit: True)
    monkeypatch.setattr(bench_module, "PIECEWISE_STEPS", 2)
    monkeypatch.setattr(bench_module, "measure_rates", lambda device, dtype: Rates(1e12, 1e9))
    monkeypatch.setattr("tcc_fast.bench.Calibration", Quick)
    monkeypatch.setattr(tool, "default_workers", lambda: 1)
    for package in ("nvidia.dali", "ffcv"):
        monkeypatch.setitem(sys.modules, package, None)
    for name, case in tool.SPEED.items():
        monkeypatch.setitem(tool.SPEED, name, tool.replace(case, image_size=16))

    def at_once(*arguments: str) -> float:
        with fresh_accelerate():
            type_in(*arguments)
        return 1.0

    monkeypatch.setattr(tool, "tcc_fast", at_once)
    yield tool
    del sys.modules["gpu_report"]


@pytest.fixture
def page(tool: ModuleType) -> ModuleType:
    """What the tool writes with."""
    return sys.modules["gpu_page"]


@pytest.mark.parametrize("part", PARTS)
def test_every_part_runs_alone_and_adds_to_the_report(part: str, tool: ModuleType, work: Path, tmp_path: Path) -> None:
    assert tuple(tool.PARTS) == PARTS
    out = tmp_path / "gpu.md"
    out.with_suffix(".json").write_text(json.dumps({"earlier": {"kept": True}}))
    tool.main([part, "--quick", "--out", str(out), "--work", str(work)])
    results, text = json.loads(out.with_suffix(".json").read_text()), out.read_text()
    assert "failed" not in results[part], results[part]
    assert results["earlier"] == {"kept": True}
    assert f"## `{part}`" in text
    assert "**No GPU was there" in text
    assert ("not judged" in text) == (part not in ("quality", "run"))  # which have no goals
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


def verified(**changed: Any) -> dict[str, Any]:
    watched = {"steps": 100, "graphs": 2, "compiled_later": 0, "error": None}
    fine = {
        "curves": {"fp32, eager": [1.0, 2.0], "bf16, compiled": [1.0, 2.0]},
        "deviations": {"fp32, eager": 0.0, "bf16, compiled": 0.04},
        "watched": {"on": watched},
        "one_rank": {"ok": True, "backend": "nccl"},
        "failures": {},
    }
    return fine | changed


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, [True, True, True, True]),
        ({"deviations": {"fp32, eager": 0.0, "bf16, compiled": 0.06}}, [False, True, True, True]),
        ({"deviations": {"fp32, eager": 0.0, "bf16, compiled": float("nan")}}, [False, True, True, True]),
        (
            {"watched": {"on": {"steps": 9, "graphs": 2, "compiled_later": 1, "error": "called a synchronizing"}}},
            [True, False, False, True],
        ),
        (
            {"watched": {"on": {"steps": 9, "graphs": 2, "compiled_later": 0, "error": "would recompile"}}},
            [True, False, False, True],
        ),
        (
            {"watched": {"on": {"steps": 9, "graphs": None, "compiled_later": None, "error": "no compiler"}}},
            [True, False, False, True],
        ),
        ({"one_rank": {"ok": False, "error": "no NCCL"}}, [True, True, True, False]),
        ({"failures": {"losses, bf16, graphs": "cannot record"}}, [False, True, True, True]),
        ({"failures": {"watched, graphs": "cannot record"}}, [True, False, False, True]),
        ({"one_rank": None, "failures": {"one rank": "it took too long"}}, [True, True, True, False]),
        (
            {
                "curves": {},
                "deviations": {},
                "watched": {},
                "failures": {"losses, fp32, eager": "out of memory", "watched, on": "out of memory"},
            },
            [False, False, False, True],
        ),
    ],
)
def test_what_must_hold(page: ModuleType, changed: dict[str, Any], expected: list[bool]) -> None:
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
    tool.main(["memory", "--quick", "--out", str(tmp_path / "gpu.md"), "--work", str(tmp_path)])
    assert "- **failed**: RuntimeError: no such luck" in (tmp_path / "gpu.md").read_text()


def test_what_a_part_found_before_it_failed_is_shown(
    tool: ModuleType, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise RuntimeError("no such luck")

    out = tmp_path / "gpu.md"
    for late, parts in (("idleness", True), ("measure_parts", False)):
        monkeypatch.setattr(bench_module, late, fail)
        tool.main(["step-32", "--quick", "--out", str(out), "--work", str(work)])
        found, text = json.loads(out.with_suffix(".json").read_text())["step-32"], out.read_text()
        assert found["failed"] == "RuntimeError: no such luck"
        assert ("parts" in found) == parts
        assert "- **failed**: RuntimeError: no such luck" in text
        assert "| whole step |" in text
        assert ("| EMA |" in text) == parts
        assert "not judged" in text


def test_the_whole_run_is_on_the_largest_set_that_is_there(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[Any, ...]] = []
    monkeypatch.setattr(tool, "train_and_evaluate", lambda *arguments: made.append(arguments) or {})
    monkeypatch.setattr(tool, "real_set", lambda name, amount: (load_config(name), amount.work / name))
    amount = tool.sizes(False, tmp_path)
    for name in ("mnist5k", "cifar10"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "dataset.json").touch()
        tool.measure_run("run", amount, lambda found: None)
    whole = tmp_path / "gpu-runs" / "whole"
    assert made == [
        (tmp_path / "mnist5k", "mnist5k", whole, ["model.backbone=resnet18", "data.image_size=32"]),
        (tmp_path / "cifar10", "cifar10-short", whole, []),
    ]


def test_a_process_that_dies_takes_no_readings_with_it(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One dies halfway, one before it does anything, one when it has found all; all were measured earlier too."""

    class Died(BaseException):
        pass

    def die(name: str, amount: Any, keep: Any) -> dict[str, Any]:
        keep(verified(failures={"watched, graphs": "not finished"}))
        raise Died

    def run(command: list[str], **options: Any) -> Any:
        try:
            if command[2] != "memory":
                tool.main(command[2:])
        except Died:
            return SimpleNamespace(returncode=-6)
        return SimpleNamespace(returncode=0 if command[2] == "quality" else -9)

    runs = {"why": "all that there is", "runs": {}}
    for name, part in {"verify": die, "quality": lambda *_: runs, "run": lambda *_: runs}.items():
        monkeypatch.setitem(tool.PARTS, name, part)
    monkeypatch.setattr("subprocess.run", run)
    out = tmp_path / "gpu.md"
    earlier = {"date": "earlier", "took": 1.0, "curves": {"earlier": [1.0]}, "share": 1.0, "failed": "earlier"}
    out.with_suffix(".json").write_text(json.dumps(dict.fromkeys(("verify", "memory", "quality", "run"), earlier)))
    tool.main(["verify", "memory", "quality", "run", "--quick", "--out", str(out), "--work", str(tmp_path)])
    results, text = json.loads(out.with_suffix(".json").read_text()), out.read_text()
    assert results["verify"]["failed"] == "not finished; ended with exit status -6"
    assert results["verify"]["curves"] == verified()["curves"]
    assert results["memory"].keys() == {"failed", "date", "took"}
    assert results["memory"]["failed"] == results["run"]["failed"] == "ended with exit status -9"
    assert results["quality"].keys() == {"why", "runs", "date", "took"}
    assert results["run"]["why"] == "all that there is"
    assert "- **failed**: ended with exit status -9" in text
    assert "- **failed**: watched, graphs: not finished" in text
    assert "earlier" not in text + json.dumps(results)


def test_pieces_of_verify_fail_by_themselves_and_graphs_come_last(
    tool: ModuleType, page: ModuleType, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    def curve(task: Any, bf16: bool, compiling: str, steps: int) -> list[float]:
        order.append(f"{'bf16' if bf16 else 'fp32'} {compiling}")
        if (bf16, compiling) == (True, "on"):
            raise RuntimeError("no compiler")
        return [1.0, 2.0]

    def watched(training_step: str, batches: Any, warm_up: int, steps: int) -> dict[str, Any]:
        order.append(f"watched {training_step}")
        if training_step == "graphs":
            raise torch.OutOfMemoryError("all gone")
        return {"steps": steps, "graphs": 2, "compiled_later": 0, "error": None}

    def python(*arguments: str, seconds: float) -> Any:
        order.append("one rank")
        raise subprocess.TimeoutExpired("python", seconds)

    monkeypatch.setattr(tool, "compile_mode", lambda *_: "on")
    monkeypatch.setattr(tool, "loss_curve", curve)
    monkeypatch.setattr(tool, "build_step", lambda config, device, bf16, compiling: compiling)
    monkeypatch.setattr(tool, "endless", iter)
    monkeypatch.setattr(tool, "open_feed", lambda task, compiled: (Feed(), "none"))
    monkeypatch.setattr(tool, "watch", watched)
    monkeypatch.setattr(tool, "python", python)
    kept: list[dict[str, str]] = []
    found = tool.measure_verify("verify", tool.sizes(True, work), lambda found: kept.append(dict(found["failures"])))
    before = ["fp32 off", "bf16 off", "fp32 on", "bf16 on", "watched on", "one rank"]
    assert order == [*before, "bf16 graphs", "watched graphs"]
    assert list(found["curves"]) == ["fp32, eager", "bf16, eager", "fp32, compiled", "bf16, graphs"]
    assert list(found["watched"]) == ["on"]
    assert found["failures"] == {
        "losses, bf16, compiled": "RuntimeError: no compiler",
        "watched, graphs": "OutOfMemoryError: all gone",
        "one rank": "TimeoutExpired: Command 'python' timed out after 120.0 seconds",
    }
    assert len(kept) == len(order)
    assert kept[0]["watched, graphs"] == "not finished"
    goals = page.verify_goals(found)
    assert [goal.reached for goal in goals] == [False] * 4
    assert goals[0].measured == "0.0 %; losses, bf16, compiled failed"
    assert "- **failed**: watched, graphs: OutOfMemoryError: all gone" in page.verify_section(found)


class Feed(list[Batch]):
    """A pipeline of nothing."""

    def close(self) -> None:
        """Nothing to end."""


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_what_is_watched_is_what_trains(
    precision: str, tool: ModuleType, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned: list[Any] = []

    def watched(training_step: Any, batches: Any, warm_up: int, steps: int) -> dict[str, Any]:
        tuned.append((training_step.accelerator.mixed_precision, next(batches).view_1.dtype))
        return {"steps": steps, "graphs": 2, "compiled_later": 0, "error": None}

    monkeypatch.setattr(tool, "compile_mode", lambda *_: "on")
    monkeypatch.setattr(tool, "resolve_precision", lambda choice, device: precision)
    monkeypatch.setattr(tool, "tune", lambda *settings: tuned.append(settings[1:]))
    monkeypatch.setattr(tool, "loss_curve", lambda *_: [1.0])
    monkeypatch.setattr(tool, "open_feed", lambda task, compiled: open_feed(task))  # nothing is compiled here
    monkeypatch.setattr(tool, "build_step", lambda *settings: build_step(*settings[:3], "off"))
    monkeypatch.setattr(tool, "watch", watched)
    monkeypatch.setattr(
        tool, "python", lambda *_, seconds: SimpleNamespace(returncode=0, stdout='{"ok": true}', stderr="")
    )
    found = tool.measure_verify("verify", tool.sizes(True, work), lambda found: None)
    assert found["failures"] == {}
    one = ("bf16", torch.bfloat16) if precision == "bf16" else ("no", torch.float32)
    assert tuned == [(precision, True), one] * 2


def test_the_long_queue_is_compared_within_rounds(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the second round the long one has no turn that is kept, which is no reason to have no figure."""
    rates = [
        ("J = 65,536", 0, 90.0),
        ("J = 16", 0, 100.0),
        ("J = 16", 1, 50.0),
        ("J = 65,536", 2, 98.0),
        ("J = 16", 2, 100.0),
    ]
    turns = [
        {"kept": True, "contender": name, "round": number, "img_per_s": rate, "disturbed": False}
        for name, number, rate in rates
    ]

    def compare(*arguments: Any) -> dict[str, Any]:
        return {"results": summarise(turns, arguments[6], arguments[7]), "skipped": {"J = 65,536": "all gone"}}

    monkeypatch.setattr(tool, "speed_task", lambda *_: SimpleNamespace(task=None))
    monkeypatch.setattr(tool, "step_openers", lambda *_, plain: {tool.FIXED: None})
    monkeypatch.setattr(tool, "compare", compare)
    kept: dict[str, Any] = {}
    found = tool.measure_memory("memory", tool.sizes(True, Path()), kept.update)
    assert found["share"] == pytest.approx({"median": 0.06, "min": 0.02, "max": 0.1})
    del turns[0], turns[2], kept["results"]
    with pytest.raises(ValueError, match="no round has a turn of both queues: J = 65,536: all gone"):
        tool.measure_memory("memory", tool.sizes(True, Path()), kept.update)
    assert kept["results"].keys() == {"J = 16"}


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
    before = (torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.benchmark)
    with exact_products(True):
        assert torch.get_float32_matmul_precision() == "highest"
        assert (cudnn.allow_tf32, cudnn.benchmark) == (False, False)
        with exact_products(False, True):
            assert (cudnn.allow_tf32, cudnn.benchmark) == (True, True)
        assert not cudnn.benchmark
    assert (torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.benchmark) == before


@pytest.mark.parametrize("compiling", ["off", "on"])
def test_a_curve_has_the_convolutions_of_the_tuned_step(
    compiling: str, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched: list[bool] = []
    settings = load_config("digits", [*TINY, "model.num_clusters=10", "train.batch_size=8"])
    real = build_step(settings, torch.device("cpu"), True, "off")

    class Step:
        optimizer = real.optimizer

        def __call__(self, batch: Batch, step: int) -> Any:
            searched.append(torch.backends.cudnn.benchmark)
            return real(batch, step)

    monkeypatch.setattr(verify, "build_step", lambda *_: Step())
    assert len(loss_curve(Task(open_dataset(digits), settings, torch.device("cpu")), True, compiling, 2)) == 2
    assert searched == [compiling == "on"] * 2


def test_a_step_that_fails_at_once_is_a_finding() -> None:
    class Step:
        twin = SimpleNamespace(prototypes=torch.zeros(1))

        def __call__(self, batch: Batch, step: int) -> None:
            raise RuntimeError("cannot record\nat all")

    batch = Batch(torch.ones(2), torch.ones(2), torch.arange(2))
    found = watch(Step(), [batch] * 3, 2, 1)  # type: ignore[arg-type]
    assert found == {"steps": 1, "graphs": None, "compiled_later": None, "error": "RuntimeError: cannot record"}


def test_a_step_that_must_be_compiled_anew_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a batch of another size, which the pipelines never give."""
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **options: real(function, **options | {"backend": "eager"}))
    settings = load_config("digits", [*TINY, "model.num_clusters=10", "train.batch_size=8"])
    views = torch.randn(8, 3, 8, 8)
    batch = Batch(views, views, torch.arange(8))
    smaller = Batch(views[:6], views[:6], torch.arange(6))
    fine = watch(build_step(settings, torch.device("cpu"), False, "on"), [batch] * 5, 2, 3)
    assert (fine["error"], fine["compiled_later"], fine["steps"]) == (None, 0, 3)
    torch._dynamo.reset()
    bad = watch(build_step(settings, torch.device("cpu"), False, "on"), [batch, batch, smaller], 2, 1)
    assert "recompile" in bad["error"]
    torch._dynamo.reset()


def test_views_in_the_dtype_of_the_encoder() -> None:
    batch = Batch(torch.ones(2), torch.ones(2), torch.arange(2))
    assert in_dtype(batch, True).view_1.dtype == torch.bfloat16
    assert in_dtype(batch, False).view_2.dtype == torch.float32
    assert in_dtype(batch, True).index.dtype == torch.int64
