"""Kill training with SIGKILL at random moments, resume it, and compare the end with that of a run left alone.

    python tools/kill_and_resume.py [--trials 20] [--processes 1] [--work FOLDER]

Every other kill waits until a checkpoint is being written. A trial passes if every tensor of its last checkpoint has
the bytes of the undisturbed one, and its metrics the same numbers, speed left out. Exit code 1 if one does not.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from safetensors.numpy import load_file

from tcc_fast.datasets import convert
from tcc_fast.runs.checkpoint_folder import find_checkpoint

SETTINGS = [
    "data.image_size=8",
    "model.feature_dim=16",
    "queue.instance_length=1000",
    "train.batch_size=64",
    "train.epochs=6",
    "train.checkpoint_every=1",
    "train.log_every=5",
]


def command(data: Path, run: Path, processes: int) -> list[str]:
    """The training that is killed; with ``--resume auto`` it starts, or goes on."""
    where = ["--data", str(data.resolve()), "--out", str(run.resolve())]
    train = ["-m", "tcc_fast", "train", "--config", "digits", *where]
    train += ["--resume", "auto", *SETTINGS]
    if processes == 1:
        return [sys.executable, *train]
    options = ["--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0"]
    launch = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--multi_gpu"]
    return [*launch, *options, f"--num_processes={processes}", *train]


def start(data: Path, run: Path, processes: int) -> subprocess.Popen[bytes]:
    """Its output goes to a file beside the run."""
    with (run.parent / f"{run.name}.log").open("ab") as log:
        return subprocess.Popen(
            command(data, run, processes),
            stdout=log,
            stderr=log,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            cwd=run.parent,  # so that runs/latest here stays as it is
        )


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to every rank: the launcher puts each into a session of its own, so there is no group to kill."""
    victims = [process.pid, *descendants(process.pid)]
    for pid in victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()
    while any(is_alive(pid) for pid in victims):
        time.sleep(0.01)


def descendants(pid: int) -> list[int]:
    """Children, their children, and so on."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, task.read_text().split()):
                found += [child, *descendants(child)]
    return found


def is_alive(pid: int) -> bool:
    """Whether a process can still do anything."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_until(happens: Callable[[], bool], process: subprocess.Popen[bytes]) -> bool:
    """Look every millisecond; false if the process ended first."""
    while process.poll() is None:
        if happens():
            return True
        time.sleep(0.001)
    return False


def disturb(data: Path, run: Path, processes: int, draw: random.Random, duration: float, writing: bool) -> str | None:
    """Start, kill once, and resume until it is done; says when the kill came, None if the run ended before."""
    shutil.rmtree(run, ignore_errors=True)
    process = start(data, run, processes)
    wait_until((run / "metrics.jsonl").exists, process)
    begun = time.perf_counter()
    if writing:
        number = draw.randint(1, 5)
        seen: set[str] = set()

        def nth_is_written() -> bool:
            seen.update(path.name for path in (run / "checkpoints").glob(".partial-step-*[0-9]"))
            return len(seen) >= number

        alive = wait_until(nth_is_written, process)
        time.sleep(draw.uniform(0, 0.02))
    else:
        moment = draw.uniform(0, duration)
        alive = wait_until(lambda: time.perf_counter() - begun > moment, process)
    when = f"{time.perf_counter() - begun:5.2f} s"
    if not alive:
        return None
    kill(process)
    half = " within a checkpoint" if list((run / "checkpoints").glob(".partial-*")) else ""
    if start(data, run, processes).wait():
        raise SystemExit(f"the resumed run failed: see {run}.log")
    return f"killed after {when}{half}"


def differences(one: Path, other: Path) -> list[str]:
    """Names of what is not the same in the last checkpoints and the metrics of two runs."""
    found = []
    first, second = find_checkpoint(one), find_checkpoint(other)
    names = {path.name for folder in (first, second) for path in folder.glob("*.safetensors")}
    for name in sorted(names):
        a, b = (load_file(folder / name) if (folder / name).exists() else {} for folder in (first, second))
        found += [
            f"{name}:{key}"
            for key in sorted(a.keys() | b.keys())
            if key not in a or key not in b or a[key].tobytes() != b[key].tobytes()
        ]
    if _lines(one) != _lines(other):
        found.append("metrics.jsonl")
    return found


def _lines(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "images_per_second"} for line in lines]


def main() -> None:
    """Run the trials."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--work", type=Path, help="folder to work in; default: a temporary one")
    options = parser.parse_args()
    work = options.work or Path(tempfile.mkdtemp(prefix="kill-"))
    work.mkdir(parents=True, exist_ok=True)
    data, draw = work / "digits", random.Random(options.seed)
    if not data.exists():
        convert("digits", data, progress=False)
    calm = work / "calm"
    shutil.rmtree(calm, ignore_errors=True)
    process = start(data, calm, options.processes)
    wait_until((calm / "metrics.jsonl").exists, process)
    begun = time.perf_counter()
    if process.wait():
        raise SystemExit(f"the undisturbed run failed: see {calm}.log")
    duration = time.perf_counter() - begun
    passed = 0
    for trial in range(options.trials):
        run, when = work / f"trial-{trial:02}", None
        attempts = 0
        while when is None:  # a run that ends before its kill is none
            attempts += 1
            if attempts > 10:
                raise SystemExit(f"ten runs ended before they could be killed: see {run}.log")
            when = disturb(data, run, options.processes, draw, duration, writing=trial % 2 == 1)
        wrong = differences(calm, run)
        passed += not wrong
        print(f"trial {trial + 1:2}: {when}: {'the same' if not wrong else 'DIFFERS: ' + ', '.join(wrong)}", flush=True)
    print(f"{passed} of {options.trials} are byte for byte the undisturbed run")
    if options.work is None:
        shutil.rmtree(work)
    sys.exit(passed != options.trials)


if __name__ == "__main__":
    main()
