"""Turns of several contenders, interleaved, so that each is compared with what ran in the same moments."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import torch

from tcc_fast.bench.idle import wait_until_idle

SLOW = 1.25
"""A turn counts as disturbed if the calibration around it took this many times its best."""
REPEATS = 2
"""How often a disturbed turn is repeated before it is kept as it is."""
WARM_UP = 1.0
"""Seconds, at least, that a contender works before the first round."""
IDLE_LIMIT = 2.0
"""Seconds beyond what its queues need that a contender gets to come to rest."""


@dataclass
class Source:
    """Something that makes batches.

    Attributes:
        batches: endless; the number of images in each.
        note: what it is, for people.
        ahead: batches that it may have ready before they are asked for.
        stride: batches that are in the making side by side: a turn is a multiple of it, else it would begin after
            the first of them and end after the last, or the other way round.
        close: ends all that it started.
        repeats: how often a turn of it is made again when the CPU was disturbed; 0 for what waits for a GPU alone.
    """

    batches: Iterator[int]
    note: str = ""
    ahead: int = 0
    stride: int = 1
    close: Callable[[], None] = lambda: None
    repeats: int = REPEATS


class Calibrate(Protocol):
    """`tcc_fast.bench.calibrate.Calibration`, or a stand-in."""

    best: float

    def __call__(self) -> float: ...


@dataclass(frozen=True)
class Turn:
    """One contender at work without a break."""

    round: int
    place: int
    """In the order of its round."""
    contender: str
    attempt: int
    images: int
    batches: int
    seconds: float
    calibration_before: float
    """Seconds."""
    calibration_after: float
    rested: bool
    """Whether everything was idle before it; if not, another contender was still filling its queues."""
    kept: bool = False
    """False: it was disturbed, and repeated."""

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.images / self.seconds

    def slowdown(self, best: float) -> float:
        """The slower of the two calibrations, as a multiple of the best one."""
        return max(self.calibration_before, self.calibration_after) / best

    def to_json(self, best: float) -> dict[str, Any]:
        """The turn as plain data; `disturbed` is judged by the best calibration of all."""
        return asdict(self) | {"img_per_s": self.rate, "disturbed": self.slowdown(best) > SLOW}


def first_batch(open_source: Callable[[], Source], device: torch.device) -> tuple[Source, float]:
    """Open a contender and warm it up; returns it with the seconds to its first batch.

    Raises:
        ValueError: it cannot work here; says why.
    """
    started = time.perf_counter()
    source = open_source()
    try:
        next(source.batches)
        synchronise(device)
        seconds = time.perf_counter() - started
        _, batches, took = take(source, device, WARM_UP)
        wait_until_idle(_filling(source, took / batches))
    except BaseException:
        source.close()
        raise
    return source, seconds


def run_rounds(
    sources: dict[str, Source],
    rounds: int,
    seconds: float,
    device: torch.device,
    calibrate: Calibrate,
    say: Callable[[str], None],
    after_round: Callable[[list[Turn], dict[str, str]], None] = lambda turns, failed: None,
) -> tuple[list[Turn], dict[str, str]]:
    """Every turn that was made, those that had to be repeated included, and why which contenders had no more of them.

    The order within a round moves on by one. A contender that fails has no further turns; those it had count.

    Args:
        sources: the contenders, warmed up.
        rounds: in each of which every contender has a turn that is kept.
        seconds: of a turn, at least.
        device: whose work is waited for at both ends of a turn.
        calibrate: run before and after each turn.
        say: told what goes on.
        after_round: given what will be returned, as far as it is known after each round that has a turn.
    """
    turns: list[Turn] = []
    failed: dict[str, str] = {}
    names = list(sources)
    for number in range(rounds):
        shift = number % len(names)
        for place, name in enumerate(names[shift:] + names[:shift]):
            for attempt in range(1 + sources[name].repeats):
                if name in failed:
                    break
                say(f"round {number + 1} of {rounds}: {name}" + (", repeated" if attempt else ""))
                try:
                    turn = _turn(sources[name], seconds, device, calibrate, (number, place, name, attempt))
                except Exception as error:  # such as a lack of memory; the others can still be measured
                    failed[name] = f"from round {number + 1} on: {reason(error)}"
                    break
                if turn.slowdown(calibrate.best) <= SLOW or attempt == sources[name].repeats:
                    turns.append(replace(turn, kept=True))
                    break
                turns.append(turn)
        if turns:
            after_round(turns, failed)
    return turns, failed


def reason(error: Exception) -> str:
    """Why something was left out: a `ValueError` of ours says it by itself."""
    return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"


def _turn(
    source: Source, seconds: float, device: torch.device, calibrate: Calibrate, label: tuple[int, int, str, int]
) -> Turn:
    synchronise(device)
    rested = wait_until_idle(IDLE_LIMIT)
    before = calibrate()
    for _ in range(source.ahead + 1):  # what was made while the others had their turns
        next(source.batches)
    images, batches, took = take(source, device, seconds)
    wait_until_idle(_filling(source, took / batches))
    return Turn(*label, images, batches, took, before, calibrate(), rested)


def _filling(source: Source, seconds: float) -> float:
    """How long, at most, a contender may still fill its queues, at so many seconds a batch."""
    return IDLE_LIMIT + (source.ahead + source.stride) * seconds


def take(source: Source, device: torch.device, seconds: float) -> tuple[int, int, float]:
    """Take batches for at least so many seconds; returns images, batches and the seconds that it took."""
    synchronise(device)
    images, batches, started, pace = 0, 0, time.perf_counter(), Pace(device)
    while True:
        images += next(source.batches)
        batches += 1
        pace()
        if batches % source.stride == 0 and time.perf_counter() - started >= seconds:
            break
    synchronise(device)
    return images, batches, time.perf_counter() - started


class Pace:
    """Called after each batch, keeps the host from running further ahead of a GPU than `AHEAD` batches.

    A recorded step is launched in a moment: by the clock of the host, a turn of seconds would be one of minutes.
    """

    AHEAD = 2

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._events: deque[torch.cuda.Event] = deque()

    def __call__(self) -> None:
        if self._device.type != "cuda":
            return
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self._device))
        self._events.append(event)
        if len(self._events) > self.AHEAD:
            self._events.popleft().synchronize()


def synchronise(device: torch.device) -> None:
    """Wait for the work of a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
