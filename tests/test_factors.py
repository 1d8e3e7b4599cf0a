"""Factorial studies: which runs are asked for, and what is concluded from them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy.stats import ttest_ind

from tests.conftest import load_tool

SIZES = [3, 2, 4, 2]


@pytest.fixture(scope="module")
def factors() -> ModuleType:
    return load_tool("factors")


@pytest.fixture(scope="module")
def study(factors: ModuleType) -> ModuleType:
    return load_tool("study")


def test_every_level_comes_up_equally_often_and_the_design_is_always_the_same(factors: ModuleType) -> None:
    plan = factors.design(SIZES, 24)
    for column, size in zip(plan.T, SIZES, strict=True):
        assert np.bincount(column, minlength=size).tolist() == [24 // size] * size
    assert np.array_equal(plan, factors.design(SIZES, 24))


def test_the_design_estimates_better_than_most_random_ones(factors: ModuleType) -> None:
    def variance(plan: np.ndarray) -> float:
        code = factors._coded(plan, SIZES)
        return float(np.trace(np.linalg.inv(code.T @ code)))

    rng = np.random.default_rng(1)
    random = [np.stack([rng.permutation(np.arange(24) % size) for size in SIZES], axis=1) for _ in range(50)]
    assert variance(factors.design(SIZES, 24)) < np.quantile([variance(plan) for plan in random], 0.1)


def test_known_effects_are_found_within_their_intervals(factors: ModuleType) -> None:
    true = [[0.0, 5.0, -3.0], [0.0, 2.0], [0.0, 0.0, 1.0, -8.0], [0.0, 0.0]]
    plan = factors.design(SIZES, 48)
    exact = 70 + sum(np.array(effect)[plan[:, f]] for f, effect in enumerate(true))
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(200):
        found = factors.effects(plan, SIZES, exact + rng.normal(0, 2, 48))
        for effects, known in zip(found, true, strict=True):
            inside += [
                abs(effect.difference - value) <= effect.half for effect, value in zip(effects, known[1:], strict=True)
            ]
    assert 0.93 < np.mean(inside) < 0.97  # of 1 400 intervals, of which 95 % should


def test_one_switch_of_two_levels_is_the_two_sample_t_interval(factors: ModuleType) -> None:
    rng = np.random.default_rng(3)
    levels = np.array([[0], [1]] * 6)
    scores = rng.normal(80, 3, 12) + 4 * levels[:, 0]
    ((effect,),) = factors.effects(levels, [2], scores)
    interval = ttest_ind(scores[1::2], scores[::2]).confidence_interval(0.95)
    assert effect.difference - effect.half == pytest.approx(interval.low)
    assert effect.difference + effect.half == pytest.approx(interval.high)


def test_too_few_runs_are_refused_or_said_to_be_too_few(factors: ModuleType) -> None:
    with pytest.raises(ValueError, match="8 numbers are asked of 8 runs"):
        factors.design(SIZES, 8)
    assert factors.effects(factors.design(SIZES, 24)[:8], SIZES, np.zeros(8)) == []
    both = {"size": {"small": (), "large": ("a=1",)}}
    assert "| too few runs |" in factors.table(both, {"digits": (np.array([[0], [1]]), np.zeros(2))})


def test_the_table_marks_what_differs(factors: ModuleType) -> None:
    both = {"size": {"small": (), "large": ("a=1",)}, "order": {"up": (), "down": ("b=1",)}}
    plan = factors.design([2, 2], 12)
    noise = np.random.default_rng(0).normal(0, 0.5, 12)
    rows = factors.table(both, {"digits": (plan, 90 + 6 * plan[:, 0] + noise)}).splitlines()
    assert rows[0].startswith("| switch | level | digits (12 runs, mean 9")
    assert rows[2] == "| size | small | 0 |"
    assert rows[3].startswith("|  | large | **+")
    assert "**" not in rows[5]


def test_a_factorial_study_runs_its_design_once_and_tabulates_it(
    study: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "data: [data/digits]\nruns: 8\nbase: {digits: train.epochs=7}\n"
        "factors:\n  α:\n    '0.1': ''\n    '0': loss.alpha=0\n  μ:\n    a: ''\n    b: model.prototype_init=normal\n"
    )
    asked = []

    def run_cell(cell: object, *rest: object) -> dict[str, object]:
        asked.append(cell)
        acc = 0.9 if "loss.alpha=0" in cell.overrides else 0.8  # type: ignore[attr-defined]
        features = {"acc": 0.5, "nmi": 0.5, "ari": 0.5}
        return {
            "data": cell.data.name,  # type: ignore[attr-defined]
            "variant": cell.variant,  # type: ignore[attr-defined]
            "overrides": " ".join(cell.overrides),  # type: ignore[attr-defined]
            "seed": cell.seed,  # type: ignore[attr-defined]
            "acc": acc + 0.001 * cell.seed,  # type: ignore[attr-defined]
            "kmeans_features": features,
            "seconds": 1,
        }

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(study, "run_cell", run_cell)
    monkeypatch.setattr(sys, "argv", ["study.py", str(file)])
    for _ in range(2):  # the second time, all is there
        with pytest.raises(SystemExit) as left:
            study.main()
        assert left.value.code == 0
    assert [cell.seed for cell in asked] == list(range(8))
    assert all(cell.overrides[0] == "train.epochs=7" for cell in asked)
    assert len({cell.overrides for cell in asked}) == 4
    assert len((tmp_path / "runs/study/mine/results.jsonl").read_text().splitlines()) == 8
    out = capsys.readouterr().out
    assert "|  | 0 | **+10." in out
    assert "| digits | 7: 0, " in out or "| digits | 6: 0, " in out  # among the best runs
    assert json.loads((tmp_path / "runs/study/mine/results.jsonl").read_text().splitlines()[0])["seed"] == 0


def test_a_slip_in_a_level_is_found_before_anything_runs(study: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("data: [data/digits]\nruns: 8\nfactors: {α: {a: '', b: loss.alhpa=0}}\n")
    with pytest.raises(ValueError, match="alhpa"):
        study.read_study(file, None, None)
    file.write_text("data: [data/digits]\nfactors: {α: {a: '', b: loss.alpha=0}}\n")
    with pytest.raises(ValueError, match="has no runs"):
        study.read_study(file, None, None)
