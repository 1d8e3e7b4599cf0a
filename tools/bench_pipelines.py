"""Measure the pipelines on images made for it, and hold the figures against goals.

    python tools/bench_pipelines.py                          # every case: some 20 minutes on 2 cores
    python tools/bench_pipelines.py short-96 memory-32       # some of them; the others stay as they were

The images are photo-like and the same everywhere; they are made and converted once, in the work folder. The record
goes to docs/records/DATE-pipelines.md, every single turn to the JSON file beside it. A case that is measured again
replaces its figures there.

The baseline is what users run today, a DataLoader with PIL transforms, and the faster one of two: our `torch` pipeline
(torchvision's `transforms.v2`, every draw seeded), and `plain` (the older `transforms`, nothing seeded; images that
fit into memory are read from an array, as torchvision's CIFAR10 does).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console

from tcc_fast.bench import BASELINE, DECODE, Source, Task, compare, openers, summarise
from tcc_fast.bench.plain import loader_note, plain_batches, plain_loader
from tcc_fast.bench.show import count, end_saying, heading, percent, say_on_stderr, show_comparison, times, with_spread
from tcc_fast.cores import default_workers
from tcc_fast.datasets import convert, open_dataset
from tcc_fast.datasets.manifest import MANIFEST_FILE
from tcc_fast.pipelines.torch_views import end_workers
from tcc_fast.settings import AugmentConfig, Config, DataConfig, TrainConfig

PLAIN = "plain"
RECIPE = AugmentConfig(jitter=0.8, hue=0.1)
"""Crop 0.2–1, flip 0.5, jitter 0.4/0.4/0.4/0.1 with p 0.8, grey 0.2."""
TINY_SIDE, TINY_EACH = 32, 20
"""Pixels, and how many tiny images are cut from each photo: enough that the processor's cache does not hold them."""
JPEG_QUALITY = 90


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        source: `photos` or `tiny`.
        short_side: to which they are converted, in pixels; 0 keeps their size.
        image_size: of the views.
        pipelines: to be measured beside `plain`.
        files: whether images are decoded in every epoch: then decoding alone is measured as well.
    """

    title: str
    source: str
    short_side: int
    image_size: int
    pipelines: tuple[str, ...]
    files: bool


ALL, IN_MEMORY = ("torch", "resident", "ffcv", "dali"), ("torch", "resident")
CASES = {
    "short-96": Case("JPEG, short side 160 → 96", "photos", 160, 96, ALL, True),
    "full-96": Case("JPEG, original size → 96", "photos", 0, 96, ALL, True),
    "full-224": Case("JPEG, original size → 224", "photos", 0, 224, ALL, True),
    "memory-32": Case("in memory, 32 → 32", "tiny", 0, 32, IN_MEMORY, False),
    "memory-96": Case("in memory, 96 → 96", "photos", 96, 96, IN_MEMORY, False),
    "memory-224": Case("in memory, 256 → 224", "photos", 256, 224, IN_MEMORY, False),
}


@dataclass(frozen=True)
class Goal:
    """What the best of some pipelines shall reach in a case: `figure` is `ratio` or `of_ceiling`."""

    what: str
    case: str
    pipelines: tuple[str, ...]
    figure: str
    target: float


BEST = ("ffcv", "dali")
GOALS = [
    *(
        Goal(
            f"`resident`, two views, against the PIL DataLoader, {size} px", f"memory-{name}", ("resident",), "ratio", x
        )
        for size, name, x in (("32", 32, 45), ("96", 96, 15), ("256 → 224", 224, 11))
    ),
    Goal("best of `dali`, `ffcv` against the PIL DataLoader, short side 160 → 96", "short-96", BEST, "ratio", 7),
    Goal("the same, original size → 224", "full-224", BEST, "ratio", 5.5),
    Goal("share of decoding alone, short side 160 → 96", "short-96", BEST, "of_ceiling", 0.5),
    *(
        Goal(
            f"`dali` against the PIL DataLoader, {CASES[case].title.removeprefix('JPEG, ')}",
            case,
            ("dali",),
            "ratio",
            1.8,
        )
        for case in ("short-96", "full-96", "full-224")
    ),
]


# Images.


def photo(seed: int) -> Image.Image:
    """Detail at every scale, as photographs have it, a few hard edges and a little noise: 500 × 375 or so."""
    rng = np.random.default_rng(seed)
    width, height = [(500, 375), (500, 333), (500, 400), (375, 500)][rng.integers(4)]
    pixels = np.zeros((height, width, 3), np.float32)
    cells, strength = 4, 46.0
    while cells < 400:
        grid = rng.normal(0, strength, (3, max(2, cells * height // width), cells)).astype(np.float32)
        for channel in range(3):
            layer = Image.fromarray(grid[channel]).resize((width, height), Image.Resampling.BICUBIC)
            pixels[..., channel] += np.asarray(layer)
        cells, strength = 2 * cells, 0.75 * strength
    grey = pixels.mean(axis=2, keepdims=True)
    pixels = 128 + 1.2 * grey + 0.5 * (pixels - grey)
    for _ in range(6):
        top, left = rng.integers(0, height * 3 // 4), rng.integers(0, width * 3 // 4)
        pixels[top : top + height // 4, left : left + width // 5] += rng.normal(0, 50, 3)
    pixels += rng.normal(0, 4, (height, width, 1))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def make_photo(folder: Path, number: int) -> None:
    """One JPEG."""
    photo(number).save(folder / f"{number:06}.jpg", quality=JPEG_QUALITY)


def make_tiny(folder: Path, number: int) -> None:
    """Square parts of a photo, reduced to tiny images: PNGs."""
    rng, whole = np.random.default_rng(number), photo(number)
    for part in range(TINY_EACH):
        side = int(rng.integers(64, min(whole.size) + 1))
        left, top = (int(rng.integers(0, length - side + 1)) for length in whole.size)
        tiny = whole.resize((TINY_SIDE, TINY_SIDE), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
        tiny.save(folder / f"{number * TINY_EACH + part:07}.png")


MAKERS: dict[str, Callable[[Path, int], None]] = {"photos": make_photo, "tiny": make_tiny}


def make_source(source: str, amount: int, work: Path, processes: int) -> Path:
    """The folder of raw images, made unless it is there; complete or not there at all."""
    folder = work / f"{source}-{amount}"
    if folder.is_dir():
        return folder
    unfinished = folder.with_suffix(".unfinished")
    unfinished.mkdir(parents=True, exist_ok=True)
    make = partial(MAKERS[source], unfinished)
    if processes > 1:
        with ProcessPoolExecutor(processes, multiprocessing.get_context("fork")) as pool:
            list(pool.map(make, range(amount), chunksize=16))
    else:
        list(map(make, range(amount)))
    return unfinished.rename(folder)


def make_set(case: Case, amount: int, quality: int, work: Path, processes: int) -> Path:
    """The case's data set, converted unless it is there."""
    raw = make_source(case.source, amount, work, processes)
    formats = "tar,beton" if case.files else "tar"
    folder = work / f"{raw.name}-short{case.short_side}-q{quality}-{formats.replace(',', '-')}"
    if not (folder / MANIFEST_FILE).exists():
        convert(
            "folder",
            folder,
            raw,
            short_side=case.short_side,
            quality=quality,
            labels="none",
            workers=processes,
            formats=formats,
            progress=False,
        )
    return folder


# The plain baseline.


def open_plain(task: Task, from_memory: bool) -> Source:
    """A DataLoader with torchvision's older transforms as a contender."""
    loader = plain_loader(task, from_memory)
    note = "DataLoader with torchvision's older transforms, " + ("from memory" if from_memory else "decoded by Pillow")
    note += loader_note(loader, task)
    counts = (len(batch.index) for batch in plain_batches(loader, task.device))
    return Source(counts, note, 2 * task.threads, max(1, task.threads), lambda: end_workers(loader))


# Figures.


def measure(case: Case, data: Path, batch: int, rounds: int, seconds: float, device: torch.device) -> dict[str, Any]:
    """Every turn and figure of a case, as plain data. Epochs do not end: the set stands in for a large one."""
    config = Config(data=DataConfig(image_size=case.image_size), augment=RECIPE, train=TrainConfig(batch_size=batch))
    task = Task(open_dataset(data), config, device, long_epochs=True)
    contenders = {PLAIN: lambda: open_plain(task, not case.files)} | openers(task, case.pipelines, case.files)
    result = compare(task, contenders, rounds, seconds, say_on_stderr)
    end_saying()
    return with_baseline(result)


def with_baseline(result: dict[str, Any]) -> dict[str, Any]:
    """The same with ratios to the faster one of the two DataLoaders."""
    found = result["results"]
    baseline = max((PLAIN, BASELINE), key=lambda name: found[name]["img_per_s"]["median"] if name in found else 0.0)
    return result | {"baseline": baseline, "results": summarise(result["turns"], baseline, DECODE)}


def record(results: dict[str, dict[str, Any]], date: str) -> str:
    """The Markdown record of all cases measured so far."""
    lines = [
        f"# The pipelines, {date}",
        "",
        "By `python tools/bench_pipelines.py`; every single turn is in the JSON file beside this one. img/s are",
        "images a second, two views of each. All figures: median of the rounds (lowest–highest); ratios are taken",
        "within a round, against the faster one of two DataLoaders with PIL transforms (its name is in the table).",
        "",
        "## Goals",
        "",
        "| goal | wanted | measured | |",
        "| --- | --- | --- | --- |",
        *(goal_row(goal, results.get(goal.case)) for goal in GOALS),
        "",
        "## Figures",
        "",
        "| case | baseline | resident | ffcv | dali | decoding alone | best share of it |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *(case_row(CASES[name], results[name]) for name in CASES if name in results),
        "",
    ]
    for name in CASES:
        if name in results:
            lines += case_notes(name, results[name])
    return "\n".join(lines)


def best_of(names: tuple[str, ...], result: dict[str, Any]) -> str | None:
    """The fastest of these that was measured."""
    return next((name for name in result["results"] if name in names), None)


def goal_row(goal: Goal, result: dict[str, Any] | None) -> str:
    """A row of the table of goals."""
    form = times if goal.figure == "ratio" else percent
    sign = "×" if goal.figure == "ratio" else ""
    wanted = f"{goal.target:g}×" if sign else percent(goal.target)
    name = best_of(goal.pipelines, result) if result else None
    figure = result["results"][name][goal.figure] if result and name else None
    if figure is None:
        return f"| {goal.what} | {wanted} | | not measured |"
    reached = "reached" if figure["median"] >= goal.target else "**not reached**"
    which = f"`{name}` " if len(goal.pipelines) > 1 else ""
    return f"| {goal.what} | {wanted} | {which}{with_spread(figure, form, sign)} | {reached} |"


def case_row(case: Case, result: dict[str, Any]) -> str:
    """A row of the table of figures."""

    def cell(name: str) -> str:
        figures = result["results"].get(name)
        if figures is None:
            return "left out" if name in result["skipped"] else ""
        ratio = figures["ratio"]
        text = with_spread(figures["img_per_s"], count)
        if ratio is None or name in (result["baseline"], DECODE):
            return text
        return f"{text}, **{with_spread(ratio, times, '×')}**"

    best = best_of(BEST, result)
    share = result["results"][best]["of_ceiling"] if best else None
    shown = f"`{best}` {with_spread(share, percent)}" if share else ""
    cells = [case.title, f"`{result['baseline']}` {cell(result['baseline'])}"]
    return f"| {' | '.join([*cells, *map(cell, ('resident', 'ffcv', 'dali', DECODE)), shown])} |"


def case_notes(name: str, result: dict[str, Any]) -> list[str]:
    """What a case was measured on, both DataLoaders, and what disturbed it."""
    found = result["results"]
    loaders = [f"{one} {with_spread(found[one]['img_per_s'], count)}" for one in (BASELINE, PLAIN) if one in found]
    first = ", ".join(f"{one} {about['first_batch_seconds']:.1f}" for one, about in result["contenders"].items())
    disturbed = sum(figures["disturbed"] for figures in found.values())
    notes = [
        f"measured {result['started']}",
        *heading(result),
        f"the two DataLoaders: {', '.join(loaders)} img/s",
        f"seconds to the first batch: {first}",
        *(f"{one}: {about['note']}" for one, about in result["contenders"].items() if about["note"] != "as asked"),
        *(f"left out: {one}: {why}" for one, why in result["skipped"].items()),
        f"turns repeated because the machine was slow: {result['repeated']}; disturbed nevertheless: {disturbed} "
        f"of {sum(turn['kept'] for turn in result['turns'])}",
    ]
    return [f"### {CASES[name].title} (`{name}`)", "", *(f"- {note}" for note in notes), ""]


def main() -> None:
    """Measure the chosen cases, and write the record."""
    date = time.strftime("%Y-%m-%d")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"some of {', '.join(CASES)}; default: all")
    parser.add_argument("--count", type=int, default=1000, help="photos")
    parser.add_argument("--quality", type=int, default=95, help="of JPEGs that are encoded anew, as by `convert`")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a turn, at least")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--work", type=Path, default=Path("data/bench"), help="where the images are made")
    parser.add_argument("--out", type=Path, default=Path(f"docs/records/{date}-pipelines.md"))
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.cases if name not in CASES]:
        parser.error(f"no case is called {unknown[0]!r}; there are {', '.join(CASES)}")
    raw = arguments.out.with_suffix(".json")
    results = json.loads(raw.read_text(encoding="utf-8")) if raw.exists() else {}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    chosen = arguments.cases or list(CASES)
    sets = {}
    for name in chosen:  # all of them first: what they need later is then in the file cache
        say_on_stderr(f"making the images of {name}")
        sets[name] = make_set(CASES[name], arguments.count, arguments.quality, arguments.work, default_workers())
    end_saying()
    for name in chosen:
        print(f"\n{CASES[name].title}")
        results[name] = measure(
            CASES[name],
            sets[name],
            arguments.batch,
            arguments.rounds,
            arguments.seconds,
            torch.device(arguments.device),
        )
        show_comparison(results[name], Console(highlight=False))
        raw.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        arguments.out.write_text(record(results, date), encoding="utf-8")
    print(f"\nwrote {arguments.out} and {raw}")


if __name__ == "__main__":
    main()
