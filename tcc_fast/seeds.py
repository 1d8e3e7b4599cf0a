"""Several seeds of one training, and the best of them chosen without labels."""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from tcc_fast.config import load_config
from tcc_fast.datasets import open_dataset
from tcc_fast.distributed import decide, rank
from tcc_fast.evaluation.evaluate import evaluate
from tcc_fast.evaluation.label_free import describe_scores
from tcc_fast.plan import Plan, point_latest_at
from tcc_fast.runs.checkpoint_folder import BEST, list_checkpoints, point_link
from tcc_fast.runs.preemption import Preempted
from tcc_fast.runs.run_files import CONFIG_FILE, METRICS_FILE
from tcc_fast.runs.run_state import read_state
from tcc_fast.runs.same_run import check_same_data, differing_settings
from tcc_fast.runs.seeds_folder import how_to_continue_seeds
from tcc_fast.train import train
from tcc_fast.whole_file import write_whole

SEEDS_FILE = "seeds.json"
CRITERION = "silhouette"
"""The quantity of :mod:`tcc_fast.evaluation.label_free` that chooses: docs/quality.md says how well it follows ACC."""


@dataclass(frozen=True)
class Ranking:
    """What came of the seeds."""

    best: Path
    """The run that was chosen."""
    label_free: dict[int, dict[str, float]]
    """By seed, best first."""


def parse_seeds(text: str) -> list[int]:
    """Seeds such as ``0,1,2`` as numbers.

    Raises:
        ValueError: it is something else, or names a seed twice.
    """
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--seeds is {text!r}, but must be numbers with commas, such as 0,1,2") from None
    if wrong := [seed for seed in seeds if not 0 <= seed < 2**31]:
        raise ValueError(f"--seeds has {wrong[0]}, but seeds are from 0 to {2**31 - 1}")
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"--seeds is {text!r}, which names a seed twice")
    return seeds


def refuse_a_single_one(seeds: list[int], run: Path) -> None:
    """Raise ValueError for one seed, where ``run`` has no others to choose from: who writes 3 may mean three."""
    if len(seeds) == 1 and not any(run.glob("seed-*")):
        raise ValueError(
            f"--seeds {seeds[0]} is a single seed, with none to choose from: for several, list them (--seeds 0,1,2); "
            f"for this one, write seed={seeds[0]} instead"
        )


def train_seeds(plan: Plan, seeds: Iterable[int], say: Callable[[str], None] = print) -> Ranking:
    """Train one run a seed into ``plan.run/seed-S``, and link ``plan.run/best`` to the best; a matter of all ranks.

    With ``--resume auto`` what is there is continued, or left as it is. ``plan.run/seeds.json`` gets the figures; those
    of seeds that were trained there earlier count as well.

    Args:
        plan: of a single run; its config's seed is replaced.
        seeds: which.
        say: told, on the main rank, what was chosen.

    Raises:
        ValueError: as `train`; or the plan continues a single run, or the folder holds one, or seeds of other settings.
        Preempted: SIGTERM, SIGHUP or Ctrl-C came; start the same command again, with ``--resume auto`` and this folder.
    """
    if plan.resume == "must":
        raise ValueError("--seeds starts several runs: to continue them, use --resume auto with --out")
    if not plan.config.loss.cluster_track:
        raise ValueError(
            "--seeds chooses the run whose clusters are best, and loss.cluster_track=false trains none: "
            "train them one by one, with seed=N"
        )
    decide(lambda: _check_folder(plan))
    precision = decide(lambda: _precision_before(plan.run))
    found = decide(lambda: _found_before(plan.run))
    for seed in seeds:
        run = plan.run / f"seed-{seed}"
        config = plan.config.model_copy(update={"seed": seed})
        try:
            train(
                config,
                plan.data,
                run,
                plan.resume,
                on_start=lambda: point_latest_at(plan.run),
                precision=precision,
            )
        except Preempted as stop:
            raise Preempted(stop.checkpoint, how_to_continue_seeds(plan.run), stop.by) from None
        gc.collect()  # a compiled step refers to itself, and would keep its memory while the next seed begins
        torch.cuda.empty_cache()
        found[seed] = evaluate(run, plan.data, baselines=(), agreement=True).label_free
    ranking = rank_seeds(plan.run, found)
    if rank() == 0:
        _write(plan.run, ranking)
        for seed, values in ranking.label_free.items():
            chosen = "  ← best, by the silhouette" if plan.run / f"seed-{seed}" == ranking.best else ""
            say(f"seed {seed}: {describe_scores(values)}{chosen}")
    return ranking


def _check_folder(plan: Plan) -> None:
    """Check that seeds, which are compared, are of the same settings and images, and in a folder of their own."""
    if list_checkpoints(plan.run) or (plan.run / METRICS_FILE).exists():
        raise ValueError(f"{plan.run} holds a single run, not several seeds: choose another --out")
    dataset = open_dataset(plan.data)
    for folder in sorted(plan.run.glob("seed-*")):
        if (folder / CONFIG_FILE).is_file():
            before = load_config(str(folder / CONFIG_FILE))
            changes = differing_settings(before, plan.config.model_copy(update={"seed": before.seed}))
            changes = [key for key in changes if key != "model.num_clusters" or plan.config.model.num_clusters]
            if changes:
                raise ValueError(f"{folder} was trained with another {changes[0]}: choose another --out")
        if checkpoints := list_checkpoints(folder):
            check_same_data(read_state(checkpoints[-1]), dataset)


def _found_before(run: Path) -> dict[int, dict[str, float]]:
    """What earlier calls found of the seeds that are still in this folder."""
    try:
        found = json.loads((run / SEEDS_FILE).read_text(encoding="utf-8"))["label_free"]
        return {
            int(seed): {name: math.nan if value is None else value for name, value in values.items()}
            for seed, values in found.items()
            if list_checkpoints(run / f"seed-{seed}")
        }
    except (OSError, ValueError, KeyError, AttributeError):
        return {}


def _precision_before(run: Path) -> str | None:
    """Precision of the seeds that are there: all are compared, so those not yet begun are trained in the same."""
    for folder in sorted(run.glob("seed-*")):
        found = list_checkpoints(folder)
        if found:
            return read_state(found[-1]).precision
    return None


def rank_seeds(run: Path, found: dict[int, dict[str, float]]) -> Ranking:
    """Order seeds by `CRITERION`, highest first; one that has none is last."""

    def quality(seed: int) -> float:
        value = found[seed][CRITERION]
        return -math.inf if math.isnan(value) else value

    order = sorted(found, key=quality, reverse=True)
    return Ranking(run / f"seed-{order[0]}", {seed: found[seed] for seed in order})


def _write(run: Path, ranking: Ranking) -> None:
    plain = {
        str(seed): {name: None if math.isnan(value) else value for name, value in values.items()}
        for seed, values in ranking.label_free.items()
    }
    content = {"best": ranking.best.name, "criterion": CRITERION, "label_free": plain}
    write_whole(run / SEEDS_FILE, json.dumps(content, indent=2) + "\n")
    point_link(run / BEST, ranking.best.name)
