"""What `tools/gpu_report.py` writes of its figures: the goals, a section for each part, and the curves."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tcc_fast.bench.show import heading, percent
from tcc_fast.bench.show_step import CONTENDERS, PARTS_HEAD, contender_rows, part_rows, remarks
from tcc_fast.bench.stepping import GRAPHS, fed_by
from tcc_fast.bench.verify import WINDOW

REFERENCE = "fp32, eager"
"""The curve that the others are compared with."""
TOLERANCE = 0.05
"""By how much window means of the losses may differ, as a share."""
STATE_TOLERANCE = 0.1
"""How far compiled steps may part from eager ones in fp32 after ten of them, as a share of what has changed: Adam makes
steps of full size of gradients that are nearly nothing, and those differ by rounding."""
VIEW_TOLERANCES = {"fp32": 0.02, "fp16": 0.1, "bf16": 0.3}
"""Grey levels by which compiled views may differ from eager ones in fp32, on average; bf16 has steps of one level."""


@dataclass(frozen=True)
class SpeedCase:
    """A size at which a step is measured: its images (a case of tools/bench_pipelines.py), stem, the config whose
    augmentation it has, and goals."""

    images: str
    image_size: int
    stem: str
    recipe: str
    from_memory: bool
    rate: float
    ratio: float


SPEED = {
    "step-32": SpeedCase("memory-32", 32, "3x3", "cifar10", True, 20_000, 4),
    "step-96": SpeedCase("short-96", 96, "7x7", "imagenet10", False, 35_000, 10),
    "step-224": SpeedCase("memory-224", 224, "7x7", "imagenet10-224", False, 7_000, 10),
}


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
    share = result["parts"]["augment"]["share"] if result and "parts" in result else None
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
        missing = (
            "losses, tuned against fp32 eager",
            "state after ten steps",
            "compiled views",
            "steps that wait",
            "graphs compiled after warm-up",
            "own kernels",
            "one rank",
        )
        return [Goal(what, "", None, None) for what in missing]
    finite = [value if math.isfinite(value) else math.inf for value in result["deviations"].values()]
    worst = [f"{100 * max(finite):.1f} %"] if finite else []
    curves = [str(len(curve)) for curve in result["curves"].values()][:1]
    watched = list(result["watched"].values())
    steps = [str(one["steps"]) for one in watched][:1]
    errors = [one["error"] for one in watched if one["error"]]
    later = [one["compiled_later"] for one in watched]
    lost, unwatched = ([f"{one} failed" for one in result["failures"] if one.startswith(kind)] for kind in KINDS)
    unknown = unwatched + (["the warm-up failed"] if None in later else [])
    rank = one_rank(result)
    return [
        Goal(
            f"losses over {'?' if not curves else curves[0]} steps, tuned against fp32 eager",
            f"≤ {percent(TOLERANCE)}",
            "; ".join(worst + lost),
            not lost and max(finite) <= TOLERANCE,
        ),
        state_goal(result),
        view_goal(result),
        Goal(
            f"steps that wait, of {'?' if not steps else steps[0]}",
            "none",
            "; ".join(errors[:1] + unwatched) or "none",
            not errors and not unwatched,
        ),
        Goal(
            "graphs compiled after warm-up",
            "0",
            "; ".join([str(sum(filter(None, later))), *unknown]),
            not errors and not unknown and not any(later),
        ),
        kernel_goal(result),
        Goal("one rank: collectives, DDP, batch norm", "works", rank.get("backend") or rank["error"], rank["ok"]),
    ]


def state_goal(result: dict[str, Any]) -> Goal:
    """Whether compiled and recorded steps do what eager ones do, in fp32."""
    compiled = {one: state for one, state in result["states"].items() if one != REFERENCE}
    what, wanted = "state after ten steps, compiled against eager", f"≤ {percent(STATE_TOLERANCE)}"
    if not compiled:
        return Goal(what, wanted, None, None)
    worst = max(value for state in compiled.values() for value in state.values())
    return Goal(what, wanted, f"{100 * worst:.2g} %", worst <= STATE_TOLERANCE)


def view_goal(result: dict[str, Any]) -> Goal:
    """Whether compiled views are the eager ones."""
    tolerated = VIEW_TOLERANCES.items()
    wanted = ", ".join(f"{dtype} ≤ {tolerance}" for dtype, tolerance in tolerated)
    measured, reached = None, None
    if "views" in result:
        means = {dtype: result["views"][dtype]["mean"] for dtype in VIEW_TOLERANCES}
        measured = ", ".join(f"{mean:.2g}" for mean in means.values())
        reached = all(means[dtype] <= tolerance for dtype, tolerance in tolerated)
    return Goal("compiled views against eager ones, grey levels", wanted, measured, reached)


KINDS = ("losses", "watched")
"""With what the names of these pieces of `verify` begin."""


def kernel_goal(result: dict[str, Any]) -> Goal:
    """Whether our kernels make what torch makes."""
    what, wanted = "numbers of our own kernels that are not torch's", "none"
    if failed := result["failures"].get("own kernels"):
        return Goal(what, wanted, failed, False)
    if "kernels" not in result:
        return Goal(what, wanted, None, None)
    wrong = {kernel: share for kernel, share in result["kernels"].items() if share > 0}
    measured = ", ".join(f"{kernel} {100 * share:.2g} %" for kernel, share in wrong.items())
    return Goal(what, wanted, measured or "none", not wrong)


def one_rank(result: dict[str, Any]) -> dict[str, Any]:
    """What it said, or why it said nothing."""
    return result.get("one_rank") or {"ok": False, "error": result["failures"]["one rank"]}


def report(results: dict[str, Any], date: str, parts: Iterable[str]) -> str:
    """The Markdown of those parts that were measured."""
    about = results["about"]
    machine = about["machine"]
    known = ", ".join(f"{name} {version}" for name, version in about["versions"].items() if version)
    lines = [f"# One GPU, {date}", ""]
    if machine["gpu"] is None:
        lines += ["**No GPU was there: these are figures of a CPU, which say nothing of the goals.**", ""]
    if about["lacking"]:
        lines += [f"**Nothing was compiled, for want of {about['lacking']}.**", ""]
    if about["quick"]:
        lines += ["**Quick: sizes are small, to see that every part runs. No figure here means anything.**", ""]
    lines += [
        "By `python tools/gpu_report.py`; every single reading is in the JSON file beside this one.",
        "Speed is of generated images (photo-like JPEGs), quality of real ones. All figures: median (lowest–highest)",
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
    for name in parts:
        if name in results:
            lines += ["", f"## `{name}`", "", *section(name, results[name])]
    return "\n".join(lines) + "\n"


def section(name: str, result: dict[str, Any]) -> list[str]:
    """What one part found."""
    lines = [f"- measured {result['date']} in {result['took']:.0f} s"]
    if "failed" in result:  # after it had found whatever follows
        lines.append(f"- **failed**: {result['failed']}")
    if "earlier" in result:
        lines.append(f"- what was measured {result['earlier']['date']} is kept in the JSON file")
    if name in SPEED and "results" in result:
        lines += speed_section(result)
    if name == "verify" and "curves" in result:
        lines += verify_section(result)
    if name == "memory" and "queue_ms" in result:
        lines += memory_section(result)
    if name == "small-batch" and "results" in result:
        lines += small_batch_section(result)
    if "runs" in result:
        lines += run_section(result)
    return lines


def memory_section(result: dict[str, Any]) -> list[str]:
    """The queue's part, and the whole of which it is one."""
    queue = result["queue_ms"]["median"]
    lines = [f"- contrast against J = 65 536, forwards and backwards, and the update of Q: {queue:.3g} ms"]
    if "share" in result:
        share = 100 * result["share"]["median"]
        lines.append(f"- the step with them: {result['step_ms']:.3g} ms, of which that is {share:.1f} %")
    return lines


def small_batch_section(result: dict[str, Any]) -> list[str]:
    """Both ways to launch it."""
    lines = [f"- {line}" for line in heading(result)]
    lines += [f"- {one}: {found['img_per_s']['median']:,.0f} img/s" for one, found in result["results"].items()]
    lines += [f"- left out: {one}: {why}" for one, why in result["skipped"].items()]
    if gain := result["results"].get(GRAPHS, {}).get("ratio"):
        lines.append(f"- recorded, it is {gain['median']:.3f} times as fast")
    return lines


def speed_section(result: dict[str, Any]) -> list[str]:
    """Tables as `bench step` prints them, and what to do next; those of them that were reached."""
    notes = [f"- {line}" for line in [*heading(result), *(remarks(result) if "parts" in result else [])]]
    notes += [f"- {one}: {about['note']}; first batch after {about['first_batch_seconds']:.1f} s"
              for one, about in result["contenders"].items()]  # fmt: skip
    notes += [f"- left out: {one}: {why}" for one, why in result["skipped"].items()]
    if gain := result["results"].get(GRAPHS, {}).get("of_ceiling"):
        times = f"{gain['median']:.3f} times"
        notes.append(f"- a CUDA graph of the whole step makes {times} the throughput of the fixed batch")
    whole_steps = table(CONTENDERS, contender_rows(result))
    if "parts" not in result:
        return [*notes, "", *whole_steps]
    parts = result["parts"]
    worst = max(parts, key=lambda part: parts[part]["ms"]["median"] - parts[part]["floor_ms"])
    above = parts[worst]["ms"]["median"] - parts[worst]["floor_ms"]
    notes.append(
        f"- bound: the floors that memory sets are {percent(memory_share(parts))} of all floors; the next gain would "
        f"be in `{worst}`, {above:.2f} ms above its floor"
    )
    return [*notes, "", *whole_steps, "", *table(PARTS_HEAD, part_rows(result))]


def memory_share(parts: dict[str, Any]) -> float:
    """Share of the floors that bandwidth sets."""
    total = sum(part["floor_ms"] for part in parts.values())
    return sum(part["floor_ms"] for part in parts.values() if part["bound"] == "memory") / total


def table(head: tuple[str, ...], rows: list[list[str]]) -> list[str]:
    """In Markdown."""
    return [f"| {' | '.join(head)} |", "|" + " --- |" * len(head), *(f"| {' | '.join(row)} |" for row in rows)]


def verify_section(result: dict[str, Any]) -> list[str]:
    """Curves at a few steps, and what was watched."""
    failed = [f"- **failed**: {one}: {why}" for one, why in result["failures"].items()]
    watched = [
        f"- {variant}: {one['graphs']} graphs, and {one['compiled_later']} more in {one['steps']} steps that may "
        f"not wait: {one['error'] or 'none did'}"
        if one["graphs"] is not None
        else f"- {variant}: the warm-up failed: {one['error']}"
        for variant, one in result["watched"].items()
    ]
    watched += [
        f"- {one} after ten steps, off by: " + ", ".join(f"{kind} {100 * value:.2g} %" for kind, value in state.items())
        for one, state in result["states"].items()
        if one != REFERENCE
    ]
    watched += [
        f"- compiled views, {dtype}: {views['mean']:.2g} grey levels from eager ones in fp32 on average, "
        f"{views['largest']:.2g} at most; {100 * views['off']:.2g} % of them are off by more than one somewhere"
        for dtype, views in result.get("views", {}).items()
    ]
    rank = one_rank(result)
    works = "works" if rank["ok"] else rank["error"]
    said = f"- one rank: {rank.get('backend', '')} {works}; two NCCL ranks need two GPUs"
    curves, deviations = result["curves"], result["deviations"]
    if not curves:
        return [*failed, *watched, said]
    length = len(next(iter(curves.values())))
    shown = sorted({step * (length - 1) // 5 for step in range(6)})
    rows = [
        [
            one,
            *(f"{curve[step]:.3f}" for step in shown),
            f"{100 * deviations[one]:.2f} %" if one in deviations else "",
        ]
        for one, curve in curves.items()
    ]
    head = ("loss at step", *(str(step) for step in shown), "largest deviation")
    note = f"- deviation: of means over {WINDOW} steps from those of {REFERENCE}; figure: the SVG beside this file"
    return [*failed, *watched, said, note, "", *table(head, rows)]


def run_section(result: dict[str, Any]) -> list[str]:
    """Runs and their figures."""
    rows = []
    for one, run in result["runs"].items():
        scores = run["evaluation"]
        figures = [f"{100 * scores[metric]:.1f}" for metric in ("acc", "nmi", "ari")]
        rows.append([one, run["data"], *figures, f"{run['img_per_s']:,.0f}", str(run["steps"]), f"{run['seconds']:.0f}",
                     " ".join(run["overrides"])])  # fmt: skip
    head = ("run", "images", "ACC", "NMI", "ARI", "img/s", "steps", "wall time, s", "settings")
    return [f"- images: {result['why']}; the wall time is of `tcc-fast train`, all of it", "", *table(head, rows)]


COLOURS = ("#1b6ca8", "#d1495b", "#66a182", "#edae49", "#5c4d7d", "#00798c", "#8d5524", "#e377c2", "#7f7f7f")


def curves_svg(curves: dict[str, list[float]]) -> str:
    """The curves over each other."""
    width, height, left, top = 720, 360, 50, 20
    values = [value for curve in curves.values() for value in curve if math.isfinite(value)]
    low, high = min(values, default=0.0), max(values, default=0.0)
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


def write(results: dict[str, Any], out: Path, date: str, parts: Iterable[str]) -> None:
    """The JSON, the report, and the figure of the curves."""
    save(results, out)
    out.write_text(report(results, date, parts), encoding="utf-8")
    if curves := results.get("verify", {}).get("curves"):
        out.with_suffix(".svg").write_text(curves_svg(curves), encoding="utf-8")


def save(results: dict[str, Any], out: Path) -> None:
    """The JSON beside the report: all of it or, if the process ends meanwhile, what was there before."""
    out.parent.mkdir(parents=True, exist_ok=True)
    new = out.with_suffix(".new")
    new.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    new.replace(out.with_suffix(".json"))
