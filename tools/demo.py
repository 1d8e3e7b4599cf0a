"""The demo: real images in, clusters out, beside k-means. Runs the commands that a user would type.

python tools/demo.py                         # digits and mnist5k, one seed each
python tools/demo.py --seeds 0 1 2 --sets digits
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tcc_fast.datasets.manifest import MANIFEST_FILE

RUNS = Path("runs/demo")
console = Console(highlight=False)


def run(*arguments: str) -> float:
    """Show and run one command; returns its wall time in seconds."""
    console.print(f"\n$ tcc-fast {shlex.join(arguments)}", style="bold", markup=False, soft_wrap=True)
    started = time.perf_counter()
    finished = subprocess.run([sys.executable, "-m", "tcc_fast", *arguments])
    if finished.returncode:
        sys.exit(finished.returncode)
    return time.perf_counter() - started


def demo(name: str, seed: int) -> dict[str, Any]:
    """Convert (once), train and evaluate one set with one seed; returns the evaluation and the training time."""
    data = Path("data") / name
    if not (data / MANIFEST_FILE).exists():
        run("convert", name)
    folder = RUNS / f"{name}-seed{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    seconds = run("train", "--data", str(data), "--out", str(folder), f"seed={seed}")
    result = folder / "eval.json"
    run("eval", "--ckpt", str(folder), "--json", str(result), "--kmeans-pixels")
    run("assign", "--ckpt", str(folder), "--out", str(folder / "clusters.csv"), "--sheets", str(folder / "sheets"))
    return json.loads(result.read_text(encoding="utf-8")) | {"seed": seed, "seconds": seconds}


def main() -> None:
    """Run the demo and print what was measured in it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=["digits", "mnist5k"], choices=["digits", "mnist5k"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    arguments = parser.parse_args()
    results = [demo(name, seed) for name in arguments.sets for seed in arguments.seeds]

    table = Table("images", "seed", "TCC", "k-means on pixels", "training", title="ACC in percent, from this very run")
    for result in results:
        table.add_row(
            f"{result['dataset']} ({result['n']:,})",
            str(result["seed"]),
            f"{100 * result['acc']:.1f}",
            f"{100 * result['kmeans_pixels']['acc']:.1f}",
            f"{result['seconds']:.0f} s",
        )
    console.print()
    console.print(table)
    console.print(f"A sheet of every cluster: {RUNS}/*/sheets")
    console.print("Nobody showed the trainer a label: labels are only read to score the clusters afterwards.")


if __name__ == "__main__":
    main()
