"""Train and evaluate every cell of (data set, variant, seed), resumably, and tabulate what came out.

    python tools/study.py tools/studies/readme.yaml              # the README's table
    python tools/study.py tools/studies/readme.yaml --jobs 2     # two runs side by side, one thread each
    python tools/study.py mine.yaml --data data/digits --seeds 0 1 2 3 4

A study is a YAML file with `data` (folders), `seeds`, and `variants` (a label, and the settings it changes; the first
is what the others are compared with). With `factors` (switches, each with its levels) and `runs` instead of seeds and
variants, every run draws a level of every switch and has its number for a seed: see tools/factors.py. `base` may give
settings that all runs share, a line for each data set that wants some.

Each cell runs the real commands (`tcc-fast train`, `tcc-fast eval`) and appends one line to
`runs/study/NAME/results.jsonl`; a cell that is there already is not run again, one that failed is. Tables go to the
screen and to `table.md` beside it. On a machine with GPUs, jobs are dealt out to them in turn.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import queue
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from study_plan import Cell, read_study
from study_tables import Line, tabulate

import tcc_fast

FIGURES = ("acc", "nmi", "ari", "n", "clusters_used", "kmeans_features", "spectral_features")
TCC_FAST = [sys.executable, "-m", "tcc_fast"]


def run_cell(cell: Cell, folder: Path, threads: int, gpu: int | None) -> Line:
    """Train and evaluate one cell with the command line; returns its line of results."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    if gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = str(gpu)
    key = hashlib.sha256(repr(cell.key()).encode()).hexdigest()[:12]
    run = folder.resolve() / "work" / f"{cell.data.name}-{key}"
    shutil.rmtree(run, ignore_errors=True)
    settings = [f"seed={cell.seed}", *cell.overrides]
    code, started = commit(), time.perf_counter()
    _call(["train", "--data", str(cell.data.resolve()), *settings, "--out", str(run)], environment)
    seconds = time.perf_counter() - started
    result = run.with_suffix(".json")
    _call(["eval", "--ckpt", str(run), "--agreement", "--spectral-features", "--json", str(result)], environment)
    scores = json.loads(result.read_text(encoding="utf-8"))
    last = json.loads((run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    shutil.rmtree(run)
    result.unlink()
    return {
        "data": cell.data.name,
        "variant": cell.variant,
        "overrides": " ".join(cell.overrides),
        "seed": cell.seed,
        **({"levels": cell.levels} if cell.levels else {}),
        "seconds": round(seconds, 1),
        "threads": threads,
        **{name: scores[name] for name in FIGURES},
        "label_free": scores["label_free"] | {name: last[name] for name in ("loss", "loss_instance", "entropy")},
        "command": f"tcc-fast train --data {cell.data} {' '.join(settings)}",
        "code": code,
        "torch": torch.__version__,
    }


def commit() -> str | None:
    """The code that runs, as git names it: one seed may differ between versions by rounding alone."""
    here = Path(tcc_fast.__file__).resolve().parent
    try:
        said = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True)
    except OSError:
        return None
    return said.stdout.strip() or None


def _call(arguments: list[str], environment: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as elsewhere:  # runs/latest here stays as it is
        done = subprocess.run(TCC_FAST + arguments, env=environment, cwd=elsewhere, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"tcc-fast {' '.join(arguments)}: {done.stderr.strip().splitlines()[-1:]}")


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
