"""`tools/gpu_report.py`: every part runs on a CPU too, and the report says what was reached and what was not."""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tcc_fast.batch import Batch
from tcc_fast.bench import rounds
from tcc_fast.bench import step as bench_module
from tcc_fast.bench.roofline import Rates
from tcc_fast.bench.stepping import build_step, fed_by
from tcc_fast.bench.verify import deviation, exact_products, in_dtype, watch
from tcc_fast.config import load_config
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
        ({"one_rank": {"ok": False, "error": "no NCCL"}}, [True, True, True, False]),
    ],
)
def test_what_must_hold(page: ModuleType, changed: dict[str, Any], expected: list[bool]) -> None:
    goals = page.verify_goals(verified(**changed))
    assert [goal.reached for goal in goals] == expected
    said = "\n".join(page.verify_section(verified(**changed)))
    assert all(reason in said for reason in ("called a synchronizing", "no NCCL") if reason in str(changed))


def test_on_a_gpu_goals_are_judged_and_failures_are_said(page: ModuleType) -> None:
    machine = {"cpu": "a", "cores": 16, "gpu": "NVIDIA H200"}
    about = {"machine": machine, "versions": {"torch": "2.11.0", "FFCV": None}, "quick": False}
    failed = {"failed": "RuntimeError: out of memory", "date": "today", "took": 3.2}
    share = {"median": 0.01, "min": 0.01, "max": 0.01}
    memory = {"share": share, "results": {}, "date": "today", "took": 60.0}
    text = page.report({"about": about, "step-96": failed, "memory": memory}, "2026-01-01", PARTS)
    assert "NVIDIA H200" in text
    assert "No GPU was there" not in text
    assert "| J = 65 536, share of the step at 96 px | < 2 % | 1.0 % (1.0–1.0) | reached |" in text
    assert "- **failed**: RuntimeError: out of memory" in text
    assert "torch 2.11.0" in text
    assert "FFCV" not in text


def test_a_part_that_fails_is_a_finding(tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str, amount: Any) -> dict[str, Any]:
        raise RuntimeError("no such luck")

    monkeypatch.setitem(tool.PARTS, "memory", fail)
    tool.main(["memory", "--quick", "--out", str(tmp_path / "gpu.md"), "--work", str(tmp_path)])
    assert "- **failed**: RuntimeError: no such luck" in (tmp_path / "gpu.md").read_text()


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
    before = (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32)
    with exact_products(True):
        assert torch.get_float32_matmul_precision() == "highest"
        assert not torch.backends.cudnn.allow_tf32
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before


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
