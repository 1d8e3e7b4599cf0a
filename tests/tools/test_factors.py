"""Factorial studies: which runs are asked for, and what is concluded from them."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_ind

from tests.conftest import load_study, load_tool

SIZES = [3, 2, 4, 2]
SWITCHES = {"size": {"small": (), "large": ("a=1",)}, "order": {"up": (), "down": ("b=1",)}}
STUDY = """
data: [data/digits]
runs: 8
base: {digits: train.epochs=7}
factors:
  α: {'0.1': '', '0': loss.alpha=0}
  μ: {a: '', b: model.prototype_init=normal}
"""


@pytest.fixture(scope="module")
def factors() -> ModuleType:
    return load_tool("factors")


@pytest.fixture(scope="module")
def study() -> dict[str, ModuleType]:
    return load_study()


@pytest.mark.parametrize("sizes", [SIZES, [2] * 24, [3] * 12], ids=["mixed", "24 of two", "12 of three"])
def test_a_design_is_balanced_nearly_orthogonal_and_always_the_same(factors: ModuleType, sizes: list[int]) -> None:
    """The variance of an effect is at best that of the difference of two means of runs / levels."""
    plan = factors.design(sizes, 36)
    for column, size in zip(plan.T, sizes, strict=True):
        assert np.bincount(column, minlength=size).tolist() == [36 // size] * size
    columns = [(f, level) for f, size in enumerate(sizes) for level in range(1, size)]
    code = factors._coded(plan, columns)
    best = np.array([2 * size / 36 for size in sizes for _ in range(size - 1)])
    assert (np.diag(np.linalg.inv(code.T @ code))[1:] / best).mean() < 1.15
    assert np.array_equal(plan, factors.design(sizes, 36))


def test_known_effects_are_found_within_their_intervals(factors: ModuleType) -> None:
    true = [[0.0, 5.0, -3.0], [0.0, 2.0], [0.0, 0.0, 1.0, -8.0], [0.0, 0.0]]
    plan = factors.design(SIZES, 48)
    exact = 70 + sum(np.array(effect)[plan[:, f]] for f, effect in enumerate(true))
    rng = np.random.default_rng(0)
    inside, sure = [], []
    for _ in range(200):
        for (f, level), effect in factors.effects(plan, SIZES, exact + rng.normal(0, 2, 48)).items():
            inside.append(abs(effect.difference - true[f][level]) <= effect.half)
            if true[f][level] == 0:
                sure.append(effect.sure)
    assert len(inside) == 1400
    assert 0.93 < np.mean(inside) < 0.97
    assert np.mean(sure) < 0.02  # of what has no effect; 5 % / 7 are expected


def test_one_switch_of_two_levels_is_the_two_sample_t_interval(factors: ModuleType) -> None:
    rng = np.random.default_rng(3)
    levels = np.array([[0], [1]] * 6)
    scores = rng.normal(80, 3, 12) + 4 * levels[:, 0]
    effect = factors.effects(levels, [2], scores)[0, 1]
    interval = ttest_ind(scores[1::2], scores[::2]).confidence_interval(0.95)
    assert effect.difference - effect.half == pytest.approx(interval.low)
    assert effect.difference + effect.half == pytest.approx(interval.high)


def test_too_few_runs_are_refused_or_said_to_be_too_few(factors: ModuleType) -> None:
    with pytest.raises(ValueError, match="8 numbers are asked of 8 runs"):
        factors.design(SIZES, 8)
    assert factors.effects(factors.design(SIZES, 24)[:8], SIZES, np.zeros(8)) == {}
    text = factors.table(SWITCHES, {"digits": ([("small", "up"), ("large", "up")], [90, 91])}, 8)
    assert text.count("| too few runs |") == 2
    assert "digits (2 of 8 runs" in text


def test_a_level_that_never_finished_leaves_the_others_their_effects(factors: ModuleType) -> None:
    plan = factors.design(SIZES, 24)
    kept = plan[:, 2] != 3
    found = factors.effects(plan[kept], SIZES, 80 + 3.0 * plan[kept, 1])
    assert (2, 3) not in found
    assert found[1, 1].difference == pytest.approx(3)


def test_data_sets_together_may_differ_by_a_constant_and_no_more(factors: ModuleType) -> None:
    """Twice the runs of one effect: as if each data set's scores were taken from its own mean; alone, half as sure."""
    runs = factors.plan(SWITCHES, 12)
    noise = np.random.default_rng(1).normal(0, 1, (2, 12))
    acc = [[40 * data + 50 + 3 * (run[0] == "large") + noise[data, i] for i, run in enumerate(runs)] for data in (0, 1)]
    levels = np.array([[0 if size == "small" else 1, 0 if order == "up" else 1] for size, order in runs])
    both = factors.effects(np.tile(levels, (2, 1)), [2, 2], np.concatenate(acc), np.repeat([0, 1], 12))[0, 1]
    alone = [factors.effects(levels, [2, 2], np.array(each))[0, 1] for each in acc]
    assert both.difference == pytest.approx(np.mean([effect.difference for effect in alone]))
    assert both.half < 0.85 * np.mean([effect.half for effect in alone])
    rows = factors.table(SWITCHES, {"a": (runs, acc[0]), "b": (runs, acc[1])}, 12).splitlines()
    assert rows[0].endswith("| all together |")
    assert f"| **{both.difference:+.1f} [" in rows[3]


def test_the_table_marks_what_differs(factors: ModuleType) -> None:
    runs = factors.plan(SWITCHES, 12)
    noise = np.random.default_rng(0).normal(0, 0.5, 12)
    acc = [90 + 6 * (size == "large") + extra for (size, _), extra in zip(runs, noise, strict=True)]
    rows = factors.table(SWITCHES, {"digits": (runs, acc)}, 12).splitlines()
    assert rows[0].startswith("| switch | level | digits (12 runs, mean 9")
    assert rows[2] == "| size | small | 0 |"
    assert rows[3].startswith("|  | large | **+")
    assert rows[5].startswith("|  | down | ")
    assert "**" not in rows[5]


def test_a_factorial_study_runs_its_design_once_and_tabulates_it(
    study: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, asked = tmp_path / "mine.yaml", []
    file.write_text(STUDY)

    def run_cell(cell: Any, *rest: object) -> dict[str, object]:
        asked.append(cell)
        return {
            "data": cell.data.name,
            "variant": cell.variant,
            "overrides": " ".join(cell.overrides),
            "seed": cell.seed,
            "levels": cell.levels,
            "acc": 0.8 + 0.1 * ("loss.alpha=0" in cell.overrides) + 0.001 * cell.seed,
            "kmeans_features": {"acc": 0.5, "nmi": 0.5, "ari": 0.5},
            "seconds": 1,
        }

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(study["study"], "run_cell", run_cell)
    monkeypatch.setattr(sys, "argv", ["study.py", str(file)])
    for runs in (8, 8, 12):  # the second time, all is there; the third, earlier runs count beside a larger design's
        file.write_text(STUDY.replace("runs: 8", f"runs: {runs}"))
        with pytest.raises(SystemExit) as left:
            study["study"].main()
        assert left.value.code == 0
    assert sorted(cell.seed for cell in asked[:8]) == list(range(8))
    assert all(cell.overrides[0] == "train.epochs=7" for cell in asked)
    assert {cell.levels for cell in asked} == set(itertools.product(("0.1", "0"), ("a", "b")))
    lines = (tmp_path / "runs/study/mine/results.jsonl").read_text().splitlines()
    assert len(lines) == len(asked) == len({(cell.key()) for cell in asked})
    out = capsys.readouterr().out
    assert "|  | 0 | **+10." in out
    assert f"({len(lines)} runs" in out  # those of the first design too
    assert "- α, 0: `loss.alpha=0`" in out


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("loss.alpha=0", "loss.alhpa=0", "alhpa"),
        ("runs: 8", "", "has no runs"),
        ("runs: 8", "runs: 8\nseeds: [0]", "seeds has no meaning"),
        ("{digits:", "{digit:", "base names digit"),
        ("model.prototype_init=normal", "loss.alpha=0.5", "two switches set loss.alpha"),
        ("train.epochs=7", "loss.alpha=0.3", "base and a switch set loss.alpha"),
        ("loss.alpha=0", "", "have the same settings"),
    ],
)
def test_a_slip_is_found_before_anything_runs(
    study: dict[str, ModuleType], tmp_path: Path, old: str, new: str, match: str
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(STUDY.replace(old, new))
    with pytest.raises(ValueError, match=match):
        study["study_plan"].read_study(file)


def test_seeds_of_a_factorial_study_are_its_runs_numbers(study: dict[str, ModuleType], tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(STUDY)
    with pytest.raises(ValueError, match="--seeds has no meaning"):
        study["study_plan"].read_study(file, seeds=[3])
