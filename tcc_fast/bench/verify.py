"""Is what was tuned still right? Losses of the tuned step beside the plain one's, and what a step must not do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import islice
from typing import Any

import torch
from torch._dynamo.utils import counters

from tcc_fast.batch import Batch
from tcc_fast.bench.contenders import Task
from tcc_fast.bench.stepping import build_step, endless, open_feed
from tcc_fast.computing import view_dtype
from tcc_fast.optim import learning_rate, set_learning_rate
from tcc_fast.step import TrainingStep

WINDOW = 25
"""Steps over which curves are averaged before they are compared: single steps differ by what rounding makes of them."""


def loss_curve(task: Task, bf16: bool, compiling: str, steps: int) -> list[float]:
    """The loss of each step of a short training, on the same pictures and draws whatever the rest says.

    Args:
        task: pictures, settings (K must be set) and device; its dtype must be float32.
        bf16: whether the encoder runs in bf16.
        compiling: `off`, `on` or `graphs`.
        steps: how many.
    """
    training_step = build_step(task.config, task.device, bf16, compiling)
    pipeline, _ = open_feed(task)
    losses = []
    with closing(pipeline), exact_products(not bf16, compiling != "off"):
        for step, batch in enumerate(islice(endless(pipeline), steps)):
            set_learning_rate(training_step.optimizer, learning_rate(task.config.optim, step, steps))
            losses.append(training_step(in_dtype(batch, bf16), step).loss.clone())
    return torch.stack(losses).tolist()


def in_dtype(batch: Batch, bf16: bool) -> Batch:
    """The same views as a pipeline would give them in bf16."""
    dtype = view_dtype(bf16)
    return Batch(batch.view_1.to(dtype), batch.view_2.to(dtype), batch.index)


@contextmanager
def exact_products(exact: bool, search: bool = False) -> Iterator[None]:
    """Without TF32, which GPUs otherwise use for convolutions in fp32; and whether cuDNN looks for the fastest ones."""
    cudnn = torch.backends.cudnn
    before = (torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.benchmark)
    torch.set_float32_matmul_precision("highest" if exact else "high")
    cudnn.allow_tf32, cudnn.benchmark = not exact, search
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        cudnn.allow_tf32, cudnn.benchmark = before[1:]


def deviation(reference: list[float], other: list[float], window: int = WINDOW) -> float:
    """The largest difference of two curves' window means, as a share of the reference's; nan if one is not finite."""
    one, two = (torch.tensor(curve, dtype=torch.float64) for curve in (reference, other))
    whole = max(window, len(one) // window * window)
    means = [curve[:whole].view(-1, min(window, len(curve))).mean(dim=1) for curve in (one, two)]
    return float(((means[1] - means[0]).abs() / means[0].abs()).max())


def watch(training_step: TrainingStep, batches: Iterable[Batch], warm_up: int, steps: int) -> dict[str, Any]:
    """Train, and see to it that after the warm-up nothing waits for the device and nothing is compiled.

    Returns:
        ``steps``; ``graphs``, how many were compiled by then; ``compiled_later`` (0 if all is well; both None if the
        warm-up failed), and ``error``: what torch says if a step waits for a GPU, would be compiled anew or fails, else
        None. Waiting is only seen on a GPU.
    """
    taken = iter(batches)
    device = training_step.twin.prototypes.device
    before = later = error = None
    try:
        for step, batch in enumerate(islice(taken, warm_up)):
            training_step(batch, step)
        before = counters["stats"]["unique_graphs"]
        with refusing_to_wait(device), torch.compiler.set_stance("fail_on_recompile"):
            for step in range(warm_up, warm_up + steps):
                set_learning_rate(training_step.optimizer, 1e-3 / (1 + step))
                training_step(next(taken), step)
    except RuntimeError as reason:  # whatever it is, the report shall say it
        error = f"{type(reason).__name__}: {reason}".splitlines()[0]
    if before is not None:
        later = counters["stats"]["unique_graphs"] - before
    return {"steps": steps, "graphs": before, "compiled_later": later, "error": error}


@contextmanager
def refusing_to_wait(device: torch.device) -> Iterator[None]:
    """On a GPU, an error wherever the host would wait for it."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
