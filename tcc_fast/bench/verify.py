"""Is what was tuned still right? Losses and state of the tuned step beside the plain one's, compiled views beside eager
ones, and what a step must not do."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import islice
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._dynamo.utils import counters

from tcc_fast.batch import Batch
from tcc_fast.bench.contenders import Task, open_feed
from tcc_fast.bench.stepping import endless
from tcc_fast.method.compiled_step import GraphedStep
from tcc_fast.method.optim import learning_rate, set_learning_rate
from tcc_fast.method.step import TrainingStep
from tcc_fast.pipelines.view_maker import TensorViews
from tcc_fast.precision import Precision
from tcc_fast.settings import AugmentConfig

STATE_AFTER = 10
"""Steps after which what they have changed is compared."""
WINDOW = 25
"""Steps over which curves are averaged before they are compared: single steps differ by what rounding makes of them."""


State = dict[str, Tensor]
"""What a step changes, by name: ``model.``, ``twin.`` and ``queues.`` with their parameters and buffers."""


class Curve(NamedTuple):
    """What a short training gave."""

    losses: list[float]
    state: State
    """After `STATE_AFTER` of its steps."""


def loss_curve(training_step: TrainingStep, task: Task, precision: Precision, steps: int) -> Curve:
    """Train for a while, on the same images and draws whatever the step is.

    Args:
        training_step: of the task's settings, on its device.
        task: images, settings (K must be set) and device; its own precision must be fp32.
        precision: of the encoders.
        steps: how many.
    """
    pipeline, _ = open_feed(task)
    losses, state = [], state_of(training_step)
    with closing(pipeline), exact_products(precision is Precision.FP32):
        for step, batch in enumerate(islice(endless(pipeline), steps)):
            set_learning_rate(training_step.optimizer, learning_rate(task.config.optim, step, steps))
            losses.append(training_step(in_dtype(batch, precision.dtype), step).loss.clone())
            if step + 1 == STATE_AFTER:
                state = state_of(training_step)
    return Curve(torch.stack(losses).tolist(), state)


def state_of(step: TrainingStep) -> State:
    """A copy of all that a step changes."""
    return {name: tensor.detach().clone() for name, tensor in _changed_by(step).items()}


def restore(step: TrainingStep, state: State) -> None:
    """Put a step back to where it was, with an optimiser that has seen nothing; compiled code stays valid.

    In fp16 the scale of the loss stays, which changes no gradient that does not overflow.
    """
    with torch.no_grad():
        for name, tensor in _changed_by(step).items():
            tensor.copy_(state[name])
    step.optimizer.state.clear()
    step.optimizer.zero_grad(set_to_none=True)
    if isinstance(step, GraphedStep):
        step.forget()  # its recording writes to the moments that are gone


def _changed_by(step: TrainingStep) -> State:
    parts = {"model": step.model, "twin": step.twin, "queues.P": step.queues.cluster, "queues.Q": step.queues.instance}
    return {
        f"{part}.{name}": tensor
        for part, module in parts.items()
        for name, tensor in module.state_dict(keep_vars=True).items()
    }


def state_deviation(before: State, reference: State, other: State) -> dict[str, float]:
    """How far two steps have parted, as a share of what the reference has changed since ``before``.

    Of all tensors of a kind together: ``parameters``, ``statistics`` of batch norm, the ``twin``'s of both, ``queues``.
    What stands still in one of them is off by 1.
    """
    squares: dict[str, list[float]] = {}
    for name, was in before.items():
        moved = reference[name].double() - was.double()
        apart = other[name].double() - reference[name].double()
        pair = squares.setdefault(_kind(name), [0.0, 0.0])
        pair[0] += float(apart.square().sum())
        pair[1] += float(moved.square().sum())
    return {kind: 0.0 if apart == 0 else math.sqrt(apart / moved) if moved else math.inf
            for kind, (apart, moved) in squares.items()}  # fmt: skip


def _kind(name: str) -> str:
    part = name.partition(".")[0]
    kind = "statistics" if "running_" in name else "parameters"
    return {"queues": "queues", "twin": f"twin's {kind}"}.get(part, kind)


class ViewDeviation(NamedTuple):
    """By how much compiled views differ from eager ones, in grey levels of 0 to 255."""

    mean: float
    largest: float
    off: float
    """Share of the views that are off by more than a level somewhere."""


def view_deviation(
    recipe: AugmentConfig, image_size: int, device: torch.device, dtype: torch.dtype = torch.float32, count: int = 256
) -> ViewDeviation:
    """Views of noise and of smooth images, made by compiled code in ``dtype``, and by eager code in float32."""
    generator = torch.Generator().manual_seed(0)
    stored = image_size * 4 // 3
    coarse = torch.rand(count, 3, 8, 8, generator=generator)
    smooth = F.interpolate(coarse, (stored, stored), mode="bilinear", align_corners=False)
    noise = 0.1 * torch.rand(count, 3, stored, stored, generator=generator)
    images = (255 * (0.9 * smooth + noise)).to(torch.uint8).permute(0, 2, 3, 1).contiguous().to(device)
    sizes = torch.full((count, 2), stored, device=device)
    index, bases = torch.arange(count, device=device), (11, 22)
    zero, one = torch.zeros(3), torch.ones(3)
    with exact_products(True):
        made = [
            torch.cat(
                TensorViews(recipe, image_size, zero, one, device, made_in, compiled).views_of_stored(
                    images, sizes, index, bases
                )
            )
            for compiled, made_in in ((False, torch.float32), (True, dtype))
        ]
    off = 255 * (made[1].float() - made[0]).abs()
    return ViewDeviation(float(off.mean()), float(off.max()), float((off.flatten(1).amax(dim=1) > 1).float().mean()))


def in_dtype(batch: Batch, dtype: torch.dtype) -> Batch:
    """The same views as a pipeline would give them in another precision."""
    return Batch(batch.view_1.to(dtype), batch.view_2.to(dtype), batch.index)


@contextmanager
def exact_products(exact: bool) -> Iterator[None]:
    """Compute within this context without TF32, which GPUs otherwise use for convolutions in fp32, and by the same
    convolutions each time; or with TF32 and the fastest that cuDNN finds, which may be others for an eager step than
    for a compiled one.
    """
    cudnn = torch.backends.cudnn
    before = (torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic)
    torch.set_float32_matmul_precision("highest" if exact else "high")
    cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic = not exact, not exact, exact
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic = before[1:]


def deviation(reference: list[float], other: list[float], window: int = WINDOW) -> float:
    """The largest difference of two curves' window means, as a share of the reference's; nan if one is not finite."""
    one, two = (torch.tensor(curve, dtype=torch.float64) for curve in (reference, other))
    whole = max(window, len(one) // window * window)
    means = [curve[:whole].view(-1, min(window, len(curve))).mean(dim=1) for curve in (one, two)]
    return float(((means[1] - means[0]).abs() / means[0].abs()).max())


def watch(training_step: TrainingStep, batches: Iterable[Batch], warm_up: int, steps: int) -> dict[str, Any]:
    """Train, and see to it that after the warm-up nothing waits for the device and nothing is compiled.

    Returns:
        ``steps``; ``graphs``, how many were compiled by then; ``compiled_later``, graphs and Triton's kernels (0 if all
        is well; both None if the warm-up failed), and ``error``: what torch says if a step waits for a GPU, would be
        compiled anew or fails, else None. Waiting is only seen on a GPU.
    """
    taken = iter(batches)
    device = training_step.twin.prototypes.device
    before = later = error = None
    kernels: list[str] = []
    try:
        for step, batch in enumerate(islice(taken, warm_up)):
            training_step(batch, step)
        before = counters["stats"]["unique_graphs"]
        with (
            refusing_to_wait(device),
            torch.compiler.set_stance("fail_on_recompile"),
            kernels_compiled() as kernels,
        ):
            for step in range(warm_up, warm_up + steps):
                set_learning_rate(training_step.optimizer, 1e-3 / (1 + step))
                training_step(next(taken), step)
    except RuntimeError as reason:  # whatever it is, the report shall say it
        error = f"{type(reason).__name__}: {reason}".splitlines()[0]
    if before is not None:
        later = counters["stats"]["unique_graphs"] - before + len(kernels)
    return {"steps": steps, "graphs": before, "compiled_later": later, "error": error}


@contextmanager
def kernels_compiled() -> Iterator[list[str]]:
    """The names of what Triton compiles meanwhile by itself, for arguments that it has not met."""
    names: list[str] = []
    if importlib.util.find_spec("triton") is None:
        yield names
        return
    from triton import knobs

    def note(**about: Any) -> None:
        names.append(about["repr"])

    before, knobs.runtime.jit_post_compile_hook = knobs.runtime.jit_post_compile_hook, note
    try:
        yield names
    finally:
        knobs.runtime.jit_post_compile_hook = before


@contextmanager
def refusing_to_wait(device: torch.device) -> Iterator[None]:
    """Raise an error within this context wherever the host would wait for a GPU."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
