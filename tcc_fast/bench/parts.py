"""Where the time and the memory of a step go: the same work in pieces, with a mark after each.

Whole, the step overlaps and fuses more than its pieces do; both are shown. Time is taken by CUDA events on a GPU, so
that nothing waits between the pieces, and by the clock on a CPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, Protocol

import torch

from tcc_fast.batch import Batch
from tcc_fast.method.model import momentum_at, update_twin
from tcc_fast.method.step import TrainingStep

PARTS = (
    "augment",
    "momentum forward",
    "online forward",
    "losses and queues",
    "backward",
    "optimiser",
    "EMA",
)


class Meter(Protocol):
    """Takes note of what has passed since the last mark."""

    def start(self) -> None:
        """Begin a step."""

    def mark(self, part: str) -> None:
        """Count what has passed since the last mark to this part, beside what it has already."""

    def read(self) -> list[dict[str, float]]:
        """What each part had in every step since the meter was made."""


class Clock:
    """Milliseconds on a CPU."""

    def __init__(self) -> None:
        self._found: list[dict[str, float]] = []

    def start(self) -> None:
        self._found.append({})
        self._last = time.perf_counter()

    def mark(self, part: str) -> None:
        now, found = time.perf_counter(), self._found[-1]
        found[part] = found.get(part, 0.0) + 1e3 * (now - self._last)
        self._last = now

    def read(self) -> list[dict[str, float]]:
        return self._found


class CudaClock:
    """Milliseconds of a GPU, between events.

    It waits only when it is read: a step that begins on an idle GPU would wait for the host in its first parts.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.current_stream(device)
        self._steps: list[list[tuple[str, Any]]] = []

    def start(self) -> None:
        self._steps.append([])
        self.mark("")

    def mark(self, part: str) -> None:
        event = torch.cuda.Event(enable_timing=True)
        event.record(self._stream)
        self._steps[-1].append((part, event))

    def read(self) -> list[dict[str, float]]:
        self._steps[-1][-1][1].synchronize()
        return [self._of_step(events) for events in self._steps]

    def _of_step(self, events: list[tuple[str, Any]]) -> dict[str, float]:
        found: dict[str, float] = {}
        for (_, before), (part, after) in pairwise(events):
            found[part] = found.get(part, 0.0) + before.elapsed_time(after)
        return found


class PeakMemory:
    """Bytes allocated on a GPU at the worst moment of each part, all that lives besides it included. Waits."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._found: list[dict[str, float]] = []

    def start(self) -> None:
        torch.cuda.synchronize(self._device)
        self._found.append({})
        torch.cuda.reset_peak_memory_stats(self._device)

    def mark(self, part: str) -> None:
        torch.cuda.synchronize(self._device)
        peak, found = float(torch.cuda.max_memory_allocated(self._device)), self._found[-1]
        found[part] = max(found.get(part, 0.0), peak)
        torch.cuda.reset_peak_memory_stats(self._device)

    def read(self) -> list[dict[str, float]]:
        return self._found


def clock(device: torch.device) -> Meter:
    """The meter of time for a device."""
    return CudaClock(device) if device.type == "cuda" else Clock()


class PiecewiseStep:
    """A training step that is done piece by piece.

    Args:
        training_step: an eager one; its optimiser made for a compiled step if ``compiled``.
        compiled: compile each piece.
    """

    def __init__(self, training_step: TrainingStep, compiled: bool) -> None:
        self.step = training_step

        def piece(function: Callable[..., Any]) -> Callable[..., Any]:
            return torch.compile(function, fullgraph=True, dynamic=False) if compiled else function

        self._online, self._momentum = piece(training_step.online), piece(training_step.momentum)
        self._compare, self._enqueue, self._update_twin = (
            piece(self._loss),
            piece(training_step.enqueue),
            piece(update_twin),
        )
        device = training_step.twin.prototypes.device
        momentum = training_step.config.momentum
        step_size = 1.0 - momentum_at(10**9, momentum.decay, momentum.warmup)
        self._step_size: Any = torch.tensor(step_size, device=device) if compiled else step_size
        self._alpha: Any = torch.tensor(0.5, device=device) if compiled else 0.5

    def _loss(self, online: Any, momentum: Any, alpha: Any) -> Any:
        losses, new_keys = self.step.compare(online, momentum, alpha, True)
        return losses.loss, new_keys

    def __call__(self, batches: Iterator[Batch], number: int, meter: Meter) -> None:
        """One step on the next batch, marked part by part; clusters are on."""
        step = self.step
        meter.start()
        batch = next(batches)
        meter.mark("augment")
        noises = step.noises(batch.index, max(number, step.start_step))
        meter.mark("losses and queues")
        losses, first_keys = [], None
        directions = [(batch.view_1, batch.view_2), (batch.view_2, batch.view_1)]
        for place, (view, other) in enumerate(directions[: 1 + step.config.loss.symmetric]):
            momentum = self._momentum(other, noises[2 * place + 1], True)
            meter.mark("momentum forward")
            online = self._online(view, noises[2 * place], True)
            meter.mark("online forward")
            loss, new_keys = self._compare(online, momentum, self._alpha)
            losses.append(loss)
            first_keys = first_keys or new_keys
            meter.mark("losses and queues")
        step.optimizer.zero_grad(set_to_none=True)
        step.scaler.scale(sum(losses) / len(losses)).backward()  # type: ignore[no-untyped-call]
        del loss, losses, online, momentum
        meter.mark("backward")
        step.move_theta()
        meter.mark("optimiser")
        self._enqueue(first_keys, True)
        meter.mark("losses and queues")
        self._update_twin(step.twin, step.model, self._step_size)
        meter.mark("EMA")


def measure_parts(
    piecewise: PiecewiseStep, batches: Iterator[Batch], meter: Meter, rounds: int, warm_up: int = 3
) -> list[dict[str, float]]:
    """What a new meter says of each of ``rounds`` steps, after ``warm_up`` others."""
    for number in range(warm_up + rounds):
        piecewise(batches, number, meter)
    return meter.read()[warm_up:]


def busy_milliseconds(work: Callable[[], None], device: torch.device) -> float | None:
    """How long a GPU computes or copies while the work is done.

    None on a CPU, which is never seen idle here, and where the profiler sees nothing of the GPU: it may be forbidden.
    """
    if device.type != "cuda":
        return None
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiler:
        work()
        torch.cuda.synchronize(device)
    spans = [
        (event.time_range.start, event.time_range.end)
        for event in profiler.events()
        if event.device_type == DeviceType.CUDA and not event.is_user_annotation  # which span gaps as well
    ]
    return covered(spans) / 1e3 if spans else None  # from microseconds


def covered(spans: list[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total
