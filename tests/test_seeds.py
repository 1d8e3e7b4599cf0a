"""Several seeds in one command, and the choice among them."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path

import pytest

from tcc_fast.config import load_config
from tcc_fast.plan import Plan
from tcc_fast.runs.checkpoint_folder import find_checkpoint
from tcc_fast.runs.preemption import Preempted
from tcc_fast.runs.run_state import read_state
from tcc_fast.seeds import parse_seeds, rank_seeds, refuse_a_single_one, train_seeds
from tcc_fast.settings import OptimConfig
from tests.conftest import TINY
from tests.method.test_step import fresh_accelerate
from tests.test_cli import type_in
from tests.test_precision import cpu_computes_in_bf16
from tests.test_train import stop_after


def test_the_highest_silhouette_is_best_and_none_is_worst(tmp_path: Path) -> None:
    found = {seed: {"silhouette": value, "agreement": 1.0} for seed, value in ((3, 0.1), (5, math.nan), (4, 0.7))}
    ranking = rank_seeds(tmp_path, found)
    assert ranking.best == tmp_path / "seed-4"
    assert list(ranking.label_free) == [4, 3, 5]


def test_seeds_are_trained_ranked_linked_and_not_trained_again(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = Plan(load_config("digits", [*TINY, "start.method=none"]), digits, tmp_path / "several", "auto", None)
    said: list[str] = []
    ranking = train_seeds(plan, [4, 2], said.append)
    assert sorted(path.name for path in plan.run.iterdir()) == ["best", "seed-2", "seed-4", "seeds.json"]
    assert {read_state(find_checkpoint(plan.run / f"seed-{seed}")).config.seed for seed in (2, 4)} == {2, 4}
    values = {seed: scores["silhouette"] for seed, scores in ranking.label_free.items()}
    best = max(values, key=lambda seed: values[seed])
    assert ranking.best == (plan.run / "best").resolve()
    assert plan.run == (tmp_path / "runs" / "latest").resolve()
    assert json.loads((plan.run / "seeds.json").read_text())["best"] == f"seed-{best}"
    assert len([line for line in said if "best, by the silhouette" in line]) == 1
    assert find_checkpoint(plan.run).resolve().is_relative_to(plan.run / f"seed-{best}")  # what `eval --ckpt` takes

    more = train_seeds(plan, [7], said.append)  # beside what an earlier call found
    assert more.label_free.keys() == {2, 4, 7}
    assert {seed: more.label_free[seed] for seed in ranking.label_free} == ranking.label_free
    assert sorted(json.loads((plan.run / "seeds.json").read_text())["label_free"]) == ["2", "4", "7"]
    other = dataclasses.replace(plan, config=plan.config.model_copy(update={"optim": OptimConfig(lr=0.5)}))
    with pytest.raises(ValueError, match=r"seed-2 was trained with another optim\.\w+: choose another --out"):
        train_seeds(other, [8], said.append)

    data = json.loads((digits / "dataset.json").read_text())
    shutil.copytree(digits, tmp_path / "others")
    (tmp_path / "others" / "dataset.json").write_text(json.dumps(data | {"mean": [0.5, 0.5, 0.5]}))
    with pytest.raises(ValueError, match="the run was trained on digits .* whose contents differ"):
        train_seeds(dataclasses.replace(plan, data=tmp_path / "others"), [8], said.append)

    before = {path: path.stat().st_mtime_ns for path in plan.run.glob("seed-*/checkpoints/step-*")}
    assert train_seeds(plan, [4, 2], said.append) == more
    assert {path: path.stat().st_mtime_ns for path in plan.run.glob("seed-*/checkpoints/step-*")} == before

    shutil.rmtree(ranking.best)  # one that is no longer there is not chosen
    assert train_seeds(plan, [7], said.append).label_free.keys() == {2, 4, 7} - {best}


@pytest.mark.parametrize(
    ("stopped", "step"), [(0, 10), (1, 10), (0, 14)], ids=["in the first", "in the second", "at the end of the first"]
)
def test_what_sigterm_has_stopped_goes_on_with_all_seeds_as_it_advises(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped: int, step: int
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["train", "--data", str(digits), *TINY, "start.method=none", "--seeds", "4,2"]
    advice = "continue all seeds with the same command and --resume auto --out several"
    with monkeypatch.context() as patch:
        stop_after(step, patch, run=stopped)
        where = f"everything is in several/seed-{[4, 2][stopped]}/"
        with pytest.raises(Preempted, match=f"stopped by SIGTERM; {advice}: {where}"):
            type_in(*command, "--out", "several")
    for mistake in (
        ["--resume", "several"],
        ["--resume", "latest"],
        ["--resume", "auto", "--out", "several"],
        ["--out", "several"],
    ):
        with pytest.raises(ValueError, match=f"several holds several seeds, not a single run: {advice}"):
            type_in("train", "--data", str(digits), *TINY, "start.method=none", *mistake)
    with pytest.raises(ValueError, match=f"none is chosen yet: name one, as several/seed-{[4, 2][stopped]}"):
        type_in("eval", "--ckpt", "latest")
    assert sorted(path.name for path in Path("several").glob("[!.]*")) == ["seed-2", "seed-4"][1 - stopped :]

    # Nothing but the seeds need be given again.
    printed = type_in("train", "--seeds", "4,2", "--resume", "auto", "--out", "several")
    assert f"at step {step} of 14" in printed
    assert printed.count("best, by the silhouette") == 1
    assert sorted(json.loads(Path("several/seeds.json").read_text())["label_free"]) == ["2", "4"]
    assert all(read_state(find_checkpoint(f"several/seed-{seed}")).step == 14 for seed in (2, 4))
    with pytest.raises(ValueError, match=advice):  # not the best alone
        type_in("train", "--resume", "several")


def test_a_seed_that_was_not_begun_is_trained_in_the_precision_of_the_others(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config("digits", [*TINY, "start.method=none", "train.epochs=1", "train.precision=auto"])
    plan = Plan(config, digits, tmp_path / "several", "auto", None)
    for seeds, able in (([4], False), ([4, 2], True)):
        cpu_computes_in_bf16(able, monkeypatch)
        with fresh_accelerate():
            train_seeds(plan, seeds)
    assert [read_state(find_checkpoint(plan.run / f"seed-{seed}")).precision for seed in (4, 2)] == ["fp32", "fp32"]


@pytest.mark.parametrize("text", ["", "0,", "0-3", "1,1", "-1", "0,2147483648"])
def test_what_is_no_list_of_seeds_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="--seeds"):
        parse_seeds(text)


def test_a_single_seed_is_taken_only_beside_others(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--seeds 3 is a single seed.*--seeds 0,1,2.*seed=3"):
        refuse_a_single_one(parse_seeds("3"), tmp_path / "new")
    (tmp_path / "several" / "seed-0").mkdir(parents=True)
    refuse_a_single_one([3], tmp_path / "several")
    refuse_a_single_one([3, 4], tmp_path / "new")


def test_several_seeds_do_not_go_where_a_single_run_is(digits: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").touch()
    plan = Plan(load_config("digits", TINY), digits, tmp_path / "run", "no", None)
    with pytest.raises(ValueError, match="holds a single run, not several seeds"):
        train_seeds(plan, [0])


def test_a_single_run_cannot_be_continued_as_several(digits: Path, tmp_path: Path) -> None:
    plan = Plan(load_config("digits", TINY), digits, tmp_path / "run", "must", None)
    with pytest.raises(ValueError, match="--resume auto with --out"):
        train_seeds(plan, [0])


def test_seeds_without_clusters_have_nothing_to_be_chosen_by(digits: Path, tmp_path: Path) -> None:
    plan = Plan(load_config("digits", [*TINY, "loss.cluster_track=false"]), digits, tmp_path / "run", "no", None)
    with pytest.raises(ValueError, match=r"cluster_track=false trains none.*seed=N"):
        train_seeds(plan, [0, 1])
    assert not (tmp_path / "run").exists()
