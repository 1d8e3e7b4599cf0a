"""Contenders against each other: opened, measured in rounds, summarised."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from tcc_fast.bench.calibrate import Calibration
from tcc_fast.bench.contenders import BASELINE, DECODE, Openers, Task
from tcc_fast.bench.machine import describe_data, describe_machine, versions
from tcc_fast.bench.rounds import Calibrate, Source, Turn, first_batch, reason, run_rounds
from tcc_fast.bench.summary import summarise


def compare(
    task: Task,
    contenders: Openers,
    rounds: int = 5,
    seconds: float = 3.0,
    say: Callable[[str], None] = lambda sentence: None,
    calibrate: Calibrate | None = None,
    baseline: str = BASELINE,
    ceiling: str = DECODE,
    keep: Callable[[dict[str, Any]], None] = lambda found: None,
) -> dict[str, Any]:
    """Measure contenders against each other.

    Args:
        task: what they work on; for the record.
        contenders: as `openers` gives them, or others besides. One that cannot work is left out.
        rounds: in each of which every contender has one turn.
        seconds: of a turn, at least; it ends with a whole batch.
        say: told what goes on.
        calibrate: in place of the fixed piece of work.
        baseline: the contender that the others are compared with.
        ceiling: the one of which the others reach a share.
        keep: given after each round what is returned after the last.

    Returns:
        Plain data: what was measured and on what, every turn under ``turns``, the figures of `summarise` under
        ``results``, and what was left out, or failed later on, and why under ``skipped``.

    Raises:
        ValueError: an option is out of range, or not one contender could work.
    """
    check_options(rounds, seconds)
    sources: dict[str, Source] = {}
    first: dict[str, float] = {}
    skipped: dict[str, str] = {}
    own = Calibration() if calibrate is None else None
    try:
        for name, open_source in contenders.items():
            say(f"opening {name}")
            try:
                sources[name], first[name] = first_batch(open_source, task.device)
            except Exception as error:  # whatever is wrong with one, the others can be measured
                skipped[name] = reason(error)
        _check_any(sources, ceiling, skipped)
        used = calibrate or own
        assert used is not None
        started = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        about = {
            "started": started,
            "machine": describe_machine(task.device),
            "versions": versions(),
            "data": describe_data(task),
            "device": str(task.device),
            "dtype": str(task.precision.dtype).removeprefix("torch."),
            "threads": task.threads,
            "long_epochs": task.long_epochs,
            "rounds": rounds,
            "seconds": seconds,
            "baseline": baseline if baseline in sources else None,
            "contenders": {
                name: {"note": source.note, "first_batch_seconds": first[name]} for name, source in sources.items()
            },
        }

        def found_so_far(made: list[Turn], failed: dict[str, str]) -> dict[str, Any]:
            turns = [turn.to_json(used.best) for turn in made]  # judged by the best of all, also those after a turn
            return about | {
                "calibration_best": used.best,
                "repeated": sum(not turn["kept"] for turn in turns),
                "skipped": skipped | failed,
                "results": summarise(turns, baseline, ceiling),
                "turns": turns,
            }

        made, failed = run_rounds(
            sources, rounds, seconds, task.device, used, say, lambda *found: keep(found_so_far(*found))
        )
        _check_any((turn.contender for turn in made if turn.kept), ceiling, skipped | failed)
    finally:
        for source in sources.values():
            source.close()
        if own is not None:
            own.close()
    return found_so_far(made, failed)


def _check_any(names: Iterable[str], ceiling: str, skipped: dict[str, str]) -> None:
    """Raise `ValueError` if there is none but the ceiling; says why each was left out."""
    if not set(names) - {ceiling}:
        raise ValueError(
            "no pipeline could be measured: " + "; ".join(f"{name}: {why}" for name, why in skipped.items())
        )


def check_options(rounds: int, seconds: float) -> None:
    """Raise `ValueError` for a number of rounds or seconds that measures nothing."""
    if rounds < 1:
        raise ValueError(f"--rounds is {rounds}, but must be at least 1")
    if not 0 < seconds <= 600:
        raise ValueError(f"--seconds is {seconds:g}, but must be more than 0 and at most 600")
