"""Train and evaluate every cell of (data set, variant, seed), resumably, and tabulate what came out.

    python tools/study.py tools/studies/readme.yaml              # the README's table
    python tools/study.py tools/studies/readme.yaml --jobs 2     # two runs side by side, one thread each
    python tools/study.py mine.yaml --data data/digits --seeds 0 1 2 3 4

A study is a YAML file with `data` (folders), `seeds`, and `variants` (a label, and the settings it changes; the first
is what the others are compared with). With `factors` (switches, each with its levels) and `runs` instead of seeds and
variants, every run draws a level of every switch and a seed of its own: see tools/factors.py. `base` may give settings
that all runs share, a line for each data set that wants some.

Each cell runs the real commands (`tcc-fast train`, `tcc-fast eval`) and appends one line to
`runs/study/NAME/results.jsonl`; a cell that is there already is not run again, one that failed is. Tables go to the
screen and to `table.md` beside it. On a machine with GPUs, jobs are dealt out to them in turn.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import platform
import queue
import shutil
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import factors as factorial
import numpy as np
import torch
import yaml
from scipy.stats import spearmanr, t

from tcc_fast.config import load_config

BEST = 5
"""Runs of a factorial study that are shown one by one, of each data set."""
TCC_FAST = [sys.executable, "-m", "tcc_fast"]
Line = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One run to make."""

    data: Path
    variant: str
    overrides: tuple[str, ...]
    seed: int

    def key(self) -> tuple[str, str, int]:
        """What makes a cell the same as one in the results."""
        return self.data.name, " ".join(self.overrides), self.seed


@dataclass(frozen=True)
class Study:
    """What is to be compared: each variant with each seed; or runs of a factorial design, numbers for seeds."""

    name: str
    data: list[Path]
    seeds: list[int]
    variants: dict[str, tuple[str, ...]]
    base: dict[str, tuple[str, ...]]
    """By the data set's name, settings of all its runs."""
    factors: factorial.Factors

    def cells(self) -> list[Cell]:
        """Seed by seed, so that an unfinished study has something of everything."""
        if self.factors:
            drawn = [(seed, variant) for seed, variant in enumerate(self.variants.items())]
        else:
            drawn = list(itertools.product(self.seeds, self.variants.items()))
        return [
            Cell(data, label, self.base.get(data.name, ()) + overrides, seed)
            for seed, (label, overrides) in drawn
            for data in self.data
        ]


def read_study(file: Path, data: list[Path] | None, seeds: list[int] | None) -> Study:
    """The study of a YAML file; ``data`` and ``seeds`` replace its own.

    Raises:
        ValueError: a part is missing, or a variant's settings are not valid.
    """
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    needed = {"data", "factors", "runs"} if "factors" in content else {"data", "seeds", "variants"}
    if missing := needed - set(content):
        raise ValueError(f"{file} has no {', '.join(sorted(missing))}: see tools/studies/readme.yaml")
    base, factors = _settings(content.get("base")), {}
    if "factors" in content:
        factors = {name: _settings(levels) for name, levels in content["factors"].items()}
        runs = factorial.plan(factors, content["runs"])
        variants = {f"{i}: {', '.join(labels)}": overrides for i, (labels, overrides) in enumerate(runs)}
    else:
        variants = _settings(content["variants"])
        if len(set(variants.values())) < len(variants):
            raise ValueError(f"{file}: two variants have the same settings")
    for overrides in (*variants.values(), *base.values()):
        load_config("digits", list(overrides))  # a slip is found now, not hours later
    folders = data or [Path(name) for name in content["data"]]
    if len({folder.name for folder in folders}) < len(folders):
        raise ValueError("two data sets have folders of the same name, by which results are told apart")
    return Study(file.stem, folders, seeds or content.get("seeds", []), variants, base, factors)


def _settings(named: dict[str, str | None] | None) -> dict[str, tuple[str, ...]]:
    return {str(label): tuple((overrides or "").split()) for label, overrides in (named or {}).items()}


def run_cell(cell: Cell, folder: Path, threads: int, gpu: int | None) -> Line:
    """Train and evaluate one cell with the command line; returns its line of results."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    if gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = str(gpu)
    code = hashlib.sha256(repr(cell.key()).encode()).hexdigest()[:12]
    run = folder / "work" / f"{cell.data.name}-{code}"
    shutil.rmtree(run, ignore_errors=True)
    train = ["train", "--data", str(cell.data), f"seed={cell.seed}", *cell.overrides]
    started = time.perf_counter()
    _call([*train, "--out", str(run)], environment)
    seconds = time.perf_counter() - started
    result = run.with_suffix(".json")
    _call(["eval", "--ckpt", str(run), "--agreement", "--json", str(result)], environment)
    scores = json.loads(result.read_text(encoding="utf-8"))
    if scores["acc"] is None:
        raise RuntimeError(f"{cell.data} has no labels, so there is nothing to compare")
    last = json.loads((run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    shutil.rmtree(run)
    result.unlink()
    return {
        "data": cell.data.name,
        "variant": cell.variant,
        "overrides": " ".join(cell.overrides),
        "seed": cell.seed,
        "seconds": round(seconds, 1),
        "threads": threads,
        **{name: scores[name] for name in ("acc", "nmi", "ari", "n", "clusters_used", "kmeans_features")},
        "label_free": scores["label_free"] | {name: last[name] for name in ("loss", "loss_instance", "entropy")},
        "command": f"tcc-fast {' '.join(train)}",
    }


def _call(arguments: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(TCC_FAST + arguments, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"tcc-fast {' '.join(arguments)}: {done.stderr.strip().splitlines()[-1:]}")


def table(lines: list[Line]) -> str:
    """A Markdown table: one row for each data set and variant, in the order of the first result.

    The difference is to the data set's first variant, over the seeds that both have, with its 95 % interval (Student's
    t of the paired differences).
    """
    rows: dict[tuple[str, str], dict[int, Line]] = {}
    for line in lines:
        rows.setdefault((line["data"], line["variant"]), {})[line["seed"]] = line
    text = [
        "| data | variant | ACC of argmax π | every seed | difference | k-means on f | s a run |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    first: dict[str, dict[int, Line]] = {}
    for (data, variant), cells in sorted(rows.items(), key=lambda item: item[0][0]):
        reference = first.setdefault(data, cells)
        cells = dict(sorted(cells.items()))
        acc = [100 * cell["acc"] for cell in cells.values()]
        features = [100 * cell["kmeans_features"]["acc"] for cell in cells.values()]
        seconds = statistics.mean(cell["seconds"] for cell in cells.values())
        each = " ".join(f"{value:.1f}" for value in acc)
        pairs = [100 * (cells[seed]["acc"] - reference[seed]["acc"]) for seed in cells.keys() & reference.keys()]
        gap = "" if cells.keys() == reference.keys() and reference is rows[data, variant] else interval(pairs)
        row = [data, variant, _spread(acc), each, gap, _spread(features), f"{seconds:.0f}"]
        text.append(f"| {' | '.join(row)} |")
    return "\n".join(text) + "\n"


def _spread(values: list[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation}"


def interval(differences: list[float]) -> str:
    """Mean and 95 % interval of paired differences; the interval needs two or more."""
    if not differences:
        return ""
    mean = statistics.mean(differences)
    if len(differences) < 2:
        return f"{mean:+.1f}"
    half = t.ppf(0.975, len(differences) - 1) * statistics.stdev(differences) / len(differences) ** 0.5
    return f"{mean:+.1f} [{mean - half:+.1f}, {mean + half:+.1f}]"


def correlations(lines: list[Line]) -> str:
    """How each label-free quantity follows ACC over all runs of a data set: Spearman's ρ, as a Markdown table."""
    names = list(dict.fromkeys(name for line in lines for name in line.get("label_free", {})))
    if not names:
        return ""
    text = [f"| data | runs | {' | '.join(names)} |", f"|{' --- |' * (len(names) + 2)}"]
    for data in sorted({line["data"] for line in lines}):
        runs = [line for line in lines if line["data"] == data and "label_free" in line]
        cells = []
        for name in names:
            known = [(run["label_free"][name], run["acc"]) for run in runs if run["label_free"].get(name) is not None]
            values, acc = {value for value, _ in known}, {score for _, score in known}
            constant = len(values) < 2 or len(acc) < 2
            cells.append("" if constant else f"{spearmanr(*zip(*known, strict=True)).statistic:+.2f}")
        text.append(f"| {data} | {len(runs)} | {' | '.join(cells)} |")
    return "\n".join(text) + "\n"


def tabulate(study: Study, lines: list[Line]) -> str:
    """The tables of all results that belong to a study's cells."""
    place = {cell.key(): (i, cell.variant) for i, cell in enumerate(study.cells())}
    keys = [(line["data"], line["overrides"], line["seed"]) for line in lines]
    known = [(place[key], line) for key, line in zip(keys, lines, strict=True) if key in place]
    found = [line | {"variant": variant} for (_, variant), line in sorted(known, key=lambda item: item[0][0])]
    if not study.factors:
        order = list(study.variants)
        found.sort(key=lambda line: order.index(line["variant"]))
        return f"{table(found)}\n{correlations(found)}\n{commands(study)}"
    levels = factorial.design([len(factor) for factor in study.factors.values()], len(study.variants))
    number = {label: i for i, label in enumerate(study.variants)}
    scores = {}
    for data in dict.fromkeys(line["data"] for line in found):
        runs = [line for line in found if line["data"] == data]
        rows = levels[[number[line["variant"]] for line in runs]]
        scores[data] = rows, np.array([100 * line["acc"] for line in runs])
    best = [
        line
        for data in scores
        for line in sorted((run for run in found if run["data"] == data), key=lambda line: -line["acc"])[:BEST]
    ]
    return f"{factorial.table(study.factors, scores)}\nThe best runs:\n\n{table(best)}\n{correlations(found)}"


def commands(study: Study) -> str:
    """What makes a cell, as Markdown: its own command stands in the results."""
    text = [
        "A run is `tcc-fast train --data DATA seed=SEED`, then `tcc-fast eval --agreement`, with these settings:",
        "",
    ]
    text += [f"- all of {data}: `{' '.join(settings)}`" for data, settings in study.base.items()]
    text += [f"- {label}: `{' '.join(settings) or 'none'}`" for label, settings in study.variants.items()]
    return "\n".join(text) + "\n"


def machine() -> str:
    """What it was run on, in a line."""
    where = platform.processor() or platform.machine()
    if torch.cuda.is_available():
        where = f"{torch.cuda.device_count()} × {torch.cuda.get_device_name()}"
    return f"{where}, {os.cpu_count()} cores, torch {torch.__version__}"


def run_all(cells: list[Cell], folder: Path, results: Path, jobs: int, threads: int) -> int:
    """Run cells side by side, each line written as it comes; returns how many failed."""
    gpus: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    for job in range(jobs):
        gpus.put(job % torch.cuda.device_count() if torch.cuda.is_available() else None)

    def work(cell: Cell) -> bool:
        gpu = gpus.get()
        try:
            line = run_cell(cell, folder, threads, gpu)
        except RuntimeError as error:
            print(f"FAILED: {error}", file=sys.stderr, flush=True)
            return False
        finally:
            gpus.put(gpu)
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(f"{line['data']} {line['variant']} seed {line['seed']}: ACC {100 * line['acc']:.1f}", flush=True)
        return True

    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(work, cells)).count(False)


def main() -> None:
    """Run what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="YAML file")
    parser.add_argument("--data", nargs="+", type=Path, help="instead of the study's own")
    parser.add_argument("--seeds", nargs="+", type=int, help="instead of the study's own")
    parser.add_argument("--only", metavar="TEXT", help="only variants whose label contains this")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--threads", type=int, help="threads of each run; default: cores / jobs")
    parser.add_argument("--tabulate", action="store_true", help="run nothing, only print the tables")
    arguments = parser.parse_args()
    try:
        study = read_study(arguments.study, arguments.data, arguments.seeds)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    folder = Path("runs/study") / study.name
    folder.mkdir(parents=True, exist_ok=True)
    results = folder / "results.jsonl"

    def lines() -> list[Line]:
        return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []

    done = {(line["data"], line["overrides"], line["seed"]) for line in lines()}
    cells = [cell for cell in study.cells() if cell.key() not in done and (arguments.only or "") in cell.variant]
    threads = arguments.threads or max(1, (os.cpu_count() or 1) // arguments.jobs)
    failed = 0 if arguments.tabulate else run_all(cells, folder, results, arguments.jobs, threads)
    text = f"{machine()}\n\n{tabulate(study, lines())}"
    (folder / "table.md").write_text(text, encoding="utf-8")
    print(text)
    sys.exit(f"{failed} cells failed; the same command runs them again" if failed else 0)


if __name__ == "__main__":
    main()
