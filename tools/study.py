"""Train and evaluate every cell of (data set, variant, seed), resumably, and tabulate what came out.

    python tools/study.py readme                 # the README's table: 2 sets, 5 variants, 3 seeds
    python tools/study.py readme --jobs 2        # two runs side by side, one thread each
    python tools/study.py mine --data data/digits --seeds 0 1 2 --variant "wide: model.feature_dim=256"

Each cell runs the real commands (`tcc-fast train`, `tcc-fast eval`) and appends one line to
`runs/study/NAME/results.jsonl`; a cell that is there already is not run again. The table goes to the screen and
to `table.md` beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

TCC_FAST = [sys.executable, "-m", "tcc_fast"]
LITERAL = [
    "model.feature_batch_norm=false",
    "model.assignment_temperature=1",
    "loss.kl_weight=1",
    "start.method=none",
    "momentum.warmup=false",
]
README_VARIANTS = {
    "recipe": [],
    "recipe, α = 0": ["loss.alpha=0"],
    "recipe without the k-means start": ["start.method=none"],
    "instance-only (k-means on its features)": ["loss.cluster_track=false", "start.method=none"],
    "literal equations, no additions": LITERAL,
}


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


def run_cell(cell: Cell, folder: Path, threads: int) -> dict[str, Any]:
    """Train and evaluate one cell with the command line; returns its line of results."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    run = folder / "work" / f"{cell.data.name}-{abs(hash(cell)):x}"
    shutil.rmtree(run, ignore_errors=True)
    train = ["train", "--data", str(cell.data), "--out", str(run), f"seed={cell.seed}", *cell.overrides]
    started = time.perf_counter()
    subprocess.run(TCC_FAST + train, env=environment, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - started
    result = run.with_suffix(".json")
    evaluate = ["eval", "--ckpt", str(run), "--json", str(result)]
    subprocess.run(TCC_FAST + evaluate, env=environment, check=True, stdout=subprocess.DEVNULL)
    scores = json.loads(result.read_text(encoding="utf-8"))
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
        "command": "tcc-fast " + " ".join(part for part in train if part not in ("--out", str(run))),
    }


def table(lines: list[dict[str, Any]]) -> str:
    """A Markdown table: one row for each data set and variant, in the order of the first result."""
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in lines:
        rows.setdefault((line["data"], line["variant"]), []).append(line)
    text = [
        "| data | variant | ACC of argmax π | every seed | k-means on f | s a run |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for (data, variant), cells in sorted(rows.items(), key=lambda item: item[0][0]):
        cells.sort(key=lambda cell: cell["seed"])
        acc = [100 * cell["acc"] for cell in cells]
        features = [100 * cell["kmeans_features"]["acc"] for cell in cells]
        seconds = statistics.mean(cell["seconds"] for cell in cells)
        each = " ".join(f"{value:.1f}" for value in acc)
        text.append(f"| {data} | {variant} | {_spread(acc)} | {each} | {_spread(features)} | {seconds:.0f} |")
    return "\n".join(text) + "\n"


def _spread(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.1f} ± {deviation:.1f}"


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="`readme`, or any name for a study of your own")
    parser.add_argument("--data", nargs="+", type=Path, default=[Path("data/digits"), Path("data/mnist5k")])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--variant", action="append", metavar="LABEL: KEY=VALUE ...", help="may be given many times")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--threads", type=int, help="threads of each run; default: cores / jobs")
    arguments = parser.parse_args()
    variants = dict(README_VARIANTS) if arguments.name == "readme" else {}
    for text in arguments.variant or []:
        label, _, overrides = text.partition(":")
        variants[label.strip()] = overrides.split()
    if not variants:
        parser.error("name at least one --variant")

    folder = Path("runs/study") / arguments.name
    folder.mkdir(parents=True, exist_ok=True)
    results = folder / "results.jsonl"
    lines = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    done = {(line["data"], line["overrides"], line["seed"]) for line in lines}
    cells = [
        Cell(data, label, tuple(overrides), seed)
        for seed in arguments.seeds
        for data in arguments.data
        for label, overrides in variants.items()
    ]
    cells = [cell for cell in cells if cell.key() not in done]
    threads = arguments.threads or max(1, (os.cpu_count() or 1) // arguments.jobs)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for line in pool.map(lambda cell: run_cell(cell, folder, threads), cells):
            lines.append(line)
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            print(f"{line['data']} {line['variant']} seed {line['seed']}: ACC {100 * line['acc']:.1f}", flush=True)
    header = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}\n\n"
    (folder / "table.md").write_text(header + table(lines), encoding="utf-8")
    print(header + table(lines))


if __name__ == "__main__":
    main()
