"""`tcc-fast bench step`: how fast a training step is, where its time goes, and what bounds it.

Whole steps take turns as the pipelines do (`tcc_fast.bench.compare`): the plain version that a user has today, with its
DataLoader and on one fixed batch; and ours, with its pipeline and on one fixed batch. Then the same work is done in
pieces, with a mark after each (`parts.py`), beside the shortest time that the device allows for it (`roofline.py`).
"""

from __future__ import annotations

import gc
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice
from typing import Any

import torch

from tcc_fast.batch import Batch
from tcc_fast.bench.comparison import compare
from tcc_fast.bench.contenders import open_feed
from tcc_fast.bench.parts import PARTS, PeakMemory, PiecewiseStep, busy_milliseconds, clock, measure_parts
from tcc_fast.bench.roofline import Rates, Work, count_work, measure_rates, utilisation
from tcc_fast.bench.rounds import Calibrate, reason, synchronise
from tcc_fast.bench.stepping import (
    FED,
    FIXED,
    GRAPHS,
    PLAIN,
    StepTask,
    eager,
    endless,
    own_step,
    step_openers,
    steps,
)
from tcc_fast.bench.summary import figure
from tcc_fast.method.model import TCC
from tcc_fast.method.step import TrainingStep
from tcc_fast.precision import tune

PIECEWISE_STEPS = 10
"""Steps that are done in pieces, at least."""
WATCHED_STEPS = 5
"""Steps in which a GPU is watched for idleness."""


def bench_step(
    what: StepTask,
    rounds: int = 3,
    seconds: float = 3.0,
    plain: bool = True,
    feeds: tuple[str | None, ...] = (None,),
    say: Callable[[str], None] = lambda sentence: None,
    calibrate: Calibrate | None = None,
    rates: Rates | None = None,
    keep: Callable[[dict[str, Any]], None] = lambda found: None,
) -> dict[str, Any]:
    """Measure the step.

    Args:
        what: images, settings and switches.
        rounds: in each of which every contender has one turn.
        seconds: of a turn, at least; it ends with a whole step.
        plain: also measure what a user has today.
        feeds: pipelines that feed our step; None: the one that the settings choose.
        say: told what goes on.
        calibrate: in place of the fixed piece of work.
        rates: of the device; None: measured now.
        keep: given all that was found so far, as it is returned, each time that there is more.

    Returns:
        What `compare` gives, with ``ratio`` against the plain version with its DataLoader and ``of_ceiling`` against
        our step on one fixed batch; ``rates`` of the device; ``parts`` (`summarise_parts`); ``whole`` (milliseconds a
        step as trained, utilisation, idleness); ``pieces``, every single reading; and, on CUDA, ``recorded``, what
        `compare` gives of a recorded step and the fixed batch, from which the former's figures are.

    Raises:
        ValueError: an option is out of range, or nothing could be measured.
    """
    task = what.task
    tune(task.device, task.precision)
    ours = own_step(what)
    contenders = step_openers(what, plain, feeds, ours)
    recording = contenders.pop(GRAPHS, None) is not None
    compiling = {"compile": what.compiling}

    def keep_round(found: dict[str, Any]) -> None:
        keep(found | compiling)

    result = compare(task, contenders, rounds, seconds, say, calibrate, PLAIN, FIXED, keep_round) | compiling
    del contenders
    gc.collect()  # models and batches of the contenders
    say("measuring the device")
    rates = rates or measure_rates(task.device, task.precision.dtype)
    work = count_work(what.config, lambda: TCC(what.config.model, what.config.loss), task.precision)
    result["rates"] = rates.to_json()
    result["whole"] = whole_step(result, work, rates, what.config.train.batch_size)
    keep(result)
    say("piece by piece")
    compiled = what.compiling != "off"
    piecewise = PiecewiseStep(eager(ours()), compiled)
    pipeline, _ = open_feed(task, feeds[0], compiled)
    with closing(pipeline):
        batches = endless(pipeline)
        pieces = measure_parts(piecewise, batches, clock(task.device), max(rounds, PIECEWISE_STEPS))
        result |= {"parts": summarise_parts(pieces, [], work, rates), "pieces": pieces}
        keep(result)
        if task.device.type == "cuda":
            peaks = measure_parts(piecewise, batches, PeakMemory(task.device), 2, 1)
            result["parts"] = summarise_parts(pieces, peaks, work, rates)
            keep(result)
        say("watching for idleness")
        del piecewise
        result["whole"]["idle"] = idleness(ours(), batches, task.device)
    keep(result)
    if recording:  # last of all: if it fails, nothing else may work any more in this process
        gc.collect()
        both = step_openers(what, plain=False, ours=ours)
        pair = {name: both[name] for name in (FIXED, GRAPHS)}
        try:
            add_recorded(result, compare(task, pair, rounds, seconds, say, calibrate, PLAIN, FIXED))
        except Exception as error:
            result["skipped"][GRAPHS] = reason(error)
    return result


def add_recorded(result: dict[str, Any], pair: dict[str, Any]) -> None:
    """Put what rounds of the recorded step and the fixed batch found about the former into a result."""
    for part in ("results", "contenders", "skipped"):
        result[part] |= {name: found for name, found in pair[part].items() if name == GRAPHS}
    result["recorded"] = pair


def idleness(step: TrainingStep, batches: Iterator[Batch], device: torch.device) -> float | None:
    """Share of the time in which a GPU does nothing while it trains; None on a CPU."""
    if device.type != "cuda":
        return None
    training = steps(step, batches)
    deque(islice(training, WATCHED_STEPS), maxlen=0)
    synchronise(device)
    started = time.perf_counter()
    deque(islice(training, WATCHED_STEPS), maxlen=0)
    synchronise(device)
    milliseconds = 1e3 * (time.perf_counter() - started)
    busy = busy_milliseconds(lambda: deque(islice(training, WATCHED_STEPS), maxlen=0).clear(), device)
    return None if busy is None else max(0.0, 1.0 - busy / milliseconds)


def summarise_parts(
    pieces: list[dict[str, float]], peaks: list[dict[str, float]], work: dict[str, Work], rates: Rates
) -> dict[str, dict[str, Any]]:
    """For each part ``ms`` (`Figure`), ``share`` of all parts, ``floor_ms`` and what sets it (``bound``), and
    ``peak_bytes`` or None."""
    total = statistics.median(sum(piece.values()) for piece in pieces)
    found: dict[str, dict[str, Any]] = {}
    for part in PARTS:
        values = [piece[part] for piece in pieces]
        floor, bound = work[part].floor(rates)
        found[part] = {
            "ms": figure(values),
            "share": statistics.median(values) / total,
            "floor_ms": floor,
            "bound": bound,
            "flops": work[part].flops,
            "bytes": work[part].bytes,
            "peak_bytes": max(peak[part] for peak in peaks) if peaks else None,
        }
    return found


def whole_step(result: dict[str, Any], work: dict[str, Work], rates: Rates, batch: int) -> dict[str, Any]:
    """Milliseconds of a step as trained, for each of our contenders, and its utilisation of the device."""
    found: dict[str, Any] = {}
    for name in result["results"]:
        if name == FIXED or name.startswith(FED):
            ms = 1e3 * batch / result["results"][name]["img_per_s"]["median"]
            found[name] = {"ms": ms, "utilisation": utilisation(work, ms, rates)}
    return found | {
        "floor_ms": sum(part.floor(rates)[0] for part in work.values()),
        "flops": sum(part.flops for part in work.values()),
    }
