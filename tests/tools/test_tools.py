"""The study runner: what it runs again, and what it says of the results."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from tcc_fast.config import built_in_names, load_config
from tcc_fast.settings import Config
from tcc_fast.train import train
from tests.conftest import TINY, load_study, load_tool

STUDIES = Path(__file__).parents[2] / "tools" / "studies"


@pytest.fixture(scope="module")
def study() -> ModuleType:
    return load_study()["study"]


@pytest.fixture(scope="module")
def tables(study: ModuleType) -> ModuleType:
    return sys.modules["study_tables"]


@pytest.fixture(scope="module")
def plans(study: ModuleType) -> ModuleType:
    return sys.modules["study_plan"]


def line(data: str, variant: str, seed: int, acc: float, **label_free: float) -> dict[str, object]:
    features = {"acc": 0.5, "nmi": 0.5, "ari": 0.5}
    result = {"data": data, "variant": variant, "seed": seed, "acc": acc, "kmeans_features": features, "seconds": 60}
    return result | ({"label_free": label_free} if label_free else {})


def test_all_data_sets_together_are_compared_pair_by_pair(tables: ModuleType) -> None:
    """Two sets of two seeds each: +1, +3, -1, +1; a seed without its partner does not count."""
    lines = [line(data, "recipe", seed, 0.5) for data in "ab" for seed in (0, 1)]
    lines += [line("a", "more", 0, 0.51), line("a", "more", 1, 0.53), line("b", "more", 0, 0.49)]
    lines += [line("b", "more", 1, 0.51), line("b", "more", 2, 0.99), line("b", "lonely", 7, 0.9)]
    rows = tables.together(lines).splitlines()[2:]
    mean, half = 1.0, 3.182446 * np.std([1, 3, -1, 1], ddof=1) / 2  # Student's t, 3 degrees of freedom
    assert rows == [f"| more | 4 | {mean:+.1f} [{mean - half:+.1f}, {mean + half:+.1f}] |", "| lonely | 0 |  |"]
    assert tables.together(lines[:2]) == tables.together(lines[:4]) == ""


def test_the_table_gives_mean_deviation_and_every_seed(tables: ModuleType) -> None:
    lines = [line("digits", "recipe", 1, 0.96), line("digits", "recipe", 0, 0.9), line("other", "recipe", 0, 1.0)]
    rows = tables.table(lines).splitlines()
    assert rows[2] == "| digits | recipe | 93.0 ± 4.2 | 90.0 96.0 |  | 50.0 ± 0.0 |  | 60 |"
    assert rows[3].startswith("| other | recipe | 100.0 | 100.0 |")
    cut = [one | {"spectral_features": {"acc": 0.75}} for one in lines]
    assert tables.table(cut).splitlines()[2].endswith("| 50.0 ± 0.0 | 75.0 ± 0.0 | 60 |")


def test_variants_are_compared_with_the_first_over_the_seeds_that_both_have(tables: ModuleType) -> None:
    """Differences of 1, 2 and 3: mean 2, and 4.303 standard errors of 1 / √3 to each side."""
    lines = [line("digits", "a", seed, 0.9) for seed in (0, 1, 2)]
    lines += [line("digits", "b", seed, 0.91 + 0.01 * seed) for seed in (2, 1, 0)] + [line("digits", "b", 7, 0.1)]
    assert "| +2.0 [-0.5, +4.5] |" in tables.table(lines).splitlines()[3]
    assert tables.interval([1.5]) == "+1.5"
    assert tables.interval([]) == ""


def test_label_free_quantities_are_ranked_against_acc(tables: ModuleType) -> None:
    rng = np.random.default_rng(0)
    acc = np.sort(rng.random(9))
    lines = [
        line("digits", "a", seed, value, silhouette=value**3, loss=-value, flat=1.0) for seed, value in enumerate(acc)
    ]
    rows = tables.correlations(lines).splitlines()
    assert rows[0] == "| data | runs | silhouette | loss | flat |"
    assert rows[2] == "| digits | 9 | +1.00 | -1.00 |  |"
    assert tables.correlations([line("digits", "a", 0, 0.5)]) == ""


@pytest.mark.parametrize("file", sorted(STUDIES.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_variant_of_a_study_is_a_valid_config_of_its_own(plans: ModuleType, file: Path) -> None:
    found = plans.read_study(file, None, None)
    for data in found.data:
        own = [cell.overrides for cell in found.cells() if cell.data == data]
        name = data.name if data.name in built_in_names() else "folder"
        configs = {load_config(name, list(overrides)).model_dump_json() for overrides in own}
        assert len(configs) == len(set(own))


def test_the_literal_variant_of_the_readme_has_no_addition(plans: ModuleType) -> None:
    overrides = plans.read_study(STUDIES / "readme.yaml", None, None).variants["literal equations, no additions"]
    literal = load_config("digits", list(overrides))
    assert (literal.loss.kl_weight, literal.model.assignment_temperature) == (1, 1)
    assert (literal.start.method, literal.model.feature_batch_norm, literal.momentum.warmup) == ("none", False, False)


def test_the_tables_say_what_makes_a_cell(tables: ModuleType, plans: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "data: [data/digits]\nseeds: [0]\nbase: {digits: train.epochs=7}\nvariants: {recipe: , none: loss.alpha=0}\n"
    )
    text = tables.tabulate(plans.read_study(file, None, None), [])
    for expected in ("- all of digits: `train.epochs=7`", "- recipe: `none`", "- none: `loss.alpha=0`"):
        assert expected in text


def test_a_slip_in_a_study_is_found_before_anything_runs(plans: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("data: [data/digits]\nseeds: [0]\nvariants: {wide: model.feature_dims=256}\n")
    with pytest.raises(ValueError, match="model.feature_dims"):
        plans.read_study(file, None, None)
    file.write_text("data: [data/digits]\nseeds: [0]\n")
    with pytest.raises(ValueError, match="has no variants"):
        plans.read_study(file, None, None)


def test_a_study_runs_what_is_missing_and_no_cell_twice(
    study: ModuleType, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    short = " ".join([*TINY, "train.epochs=1", "start.method=none"])
    file = tmp_path / "mine.yaml"
    file.write_text(f"data: [{digits}]\nseeds: [3]\nvariants:\n  short: {short}\n  too large: train.batch_size=5000\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["study.py", str(file)])
    with pytest.raises(SystemExit, match="1 cells failed"):
        study.main()
    first = (tmp_path / "runs/study/mine/results.jsonl").read_text()
    (found,) = [json.loads(text) for text in first.splitlines()]
    assert (found["data"], found["variant"], found["seed"], found["n"]) == ("digits", "short", 3, 1797)
    assert {"silhouette", "agreement", "loss"} < found["label_free"].keys()
    assert "train.batch_size=5000" in capsys.readouterr().err
    monkeypatch.setattr(study, "run_cell", lambda cell, *rest: pytest.fail(f"ran again: {cell}"))
    monkeypatch.setattr(sys, "argv", ["study.py", str(file), "--only", "short"])
    with pytest.raises(SystemExit) as left:
        study.main()
    assert left.value.code == 0
    assert (tmp_path / "runs/study/mine/results.jsonl").read_text() == first


def test_what_ranks_hold_and_send_is_what_the_formulas_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tool = load_tool("bench_ranks")
    file = tmp_path / "ranks.json"
    monkeypatch.setattr(sys, "argv", ["bench_ranks.py", "--processes", "2", "--queue", "2048", "--json", str(file)])
    tool.main()
    ((first, second),) = json.loads(file.read_text())
    for found in (first, second):
        assert found["sent"] == tool.expected(2)
        assert found["gradient_bytes"] == found["parameter_bytes"]
        assert found["shard_bytes"] == 4 * tool.DIM * 2048 // 2
    assert "| 2 | cpu | 2,048 |" in capsys.readouterr().out


def test_nearness_is_the_cosine_to_another_image() -> None:
    tool = load_tool("novelty")
    known = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]])
    half = 0.5**0.5
    assert tool.nearness(known) == pytest.approx([half, half, half], abs=1e-6)
    assert tool.nearness(known, torch.tensor([[-1.0, 0.0], [5.0, 5.0]])) == pytest.approx([0.0, 1.0], abs=1e-6)


def test_novelty_is_chance_for_the_images_that_were_trained_on(
    digits: Path, tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for `nearest`, since each then has itself among those that were trained on."""
    train(tiny, digits, tmp_path / "run")
    confidence, nearest = load_tool("novelty").areas(tmp_path / "run", [digits])[0]
    assert confidence == pytest.approx(0.5)
    assert nearest < 0.5


@pytest.mark.parametrize(
    "command",
    [
        ["how_hard.py", "nowhere"],
        ["choose_seed.py", "nowhere.jsonl"],
        ["compare_starts.py", "nowhere"],
        ["novelty.py", "nowhere", "--others", "elsewhere"],
        ["fashion_images.py", "nowhere.tgz", "images"],
        ["cifar10_images.py", "nowhere.tgz", "images"],
    ],
)
def test_a_missing_file_is_one_line_without_a_traceback(command: list[str], tmp_path: Path) -> None:
    tool = Path(__file__).parents[2] / "tools" / command[0]
    done = subprocess.run([sys.executable, tool, *command[1:]], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert re.fullmatch(rf"{command[0]}: .*nowhere.*\n", done.stderr), done.stderr
    assert not list(tmp_path.iterdir())
