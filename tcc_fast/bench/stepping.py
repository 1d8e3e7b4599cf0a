"""The training step as a contender: built from settings alone, and fed by a pipeline or by one fixed batch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from tcc_fast.batch import Batch, Pipeline
from tcc_fast.bench.contenders import Openers, Task, ahead, open_feed
from tcc_fast.bench.plain import build_plain_step, loader_note, plain_batches, plain_loader
from tcc_fast.bench.rounds import REPEATS, Source
from tcc_fast.bench.single_process import SingleProcess
from tcc_fast.method.compiled_step import CompiledStep, GraphedStep
from tcc_fast.method.model import TCC, momentum_twin
from tcc_fast.method.optim import build_optimizer
from tcc_fast.method.step import TrainingStep, build_queues
from tcc_fast.pipelines.torch_views import end_workers
from tcc_fast.precision import Precision
from tcc_fast.session import STEPS
from tcc_fast.settings import Config

PLAIN = "plain"
PLAIN_FIXED = "plain, fixed"
FED = "tcc-fast"
FIXED = "fixed batch"
GRAPHS = "fixed batch, graphs"


@dataclass(frozen=True)
class StepTask:
    """What is measured.

    Attributes:
        task: images, settings (K must be set), device and precision.
        compiling: `off`, `on` or `graphs`.
        from_memory: whether the plain loader reads decoded images.
        plain_batch: of the plain version, if smaller: its workers hold many batches, and fill them before each turn.
    """

    task: Task
    compiling: str
    from_memory: bool = True
    plain_batch: int = 256

    @property
    def config(self) -> Config:
        return self.task.config


def build_step(config: Config, device: torch.device, precision: Precision, compiling: str) -> TrainingStep:
    """A fresh step of these settings, for one process; clusters are on from its first step.

    Args:
        config: K must be set.
        device: where it runs.
        precision: of the encoders.
        compiling: `off`, `on` or `graphs`.
    """
    assert config.model.num_clusters is not None
    torch.manual_seed(config.seed)
    model = TCC(config.model, config.loss).to(device).to(memory_format=torch.channels_last)
    queues = build_queues(config, config.model.num_clusters, device=device)
    optimizer = build_optimizer(model, config.optim, compiled=compiling != "off")
    parts = (config, model, momentum_twin(model), queues, optimizer, SingleProcess())
    return STEPS[compiling](*parts, precision=precision)


def eager(step: TrainingStep) -> TrainingStep:
    """The step of the same networks, queues and optimiser, not compiled."""
    return TrainingStep(**_parts(step))


def recorded(step: TrainingStep) -> GraphedStep:
    """The same compiled step, of the same networks, launched as one CUDA graph."""
    assert isinstance(step, CompiledStep)
    return GraphedStep(**_parts(step), compiled=step)


def _parts(step: TrainingStep) -> dict[str, Any]:
    """What a step was made of, by the names of its arguments."""
    names = ("config", "model", "twin", "queues", "optimizer", "accelerator", "precision")
    return {name: getattr(step, name) for name in names}


def endless(pipeline: Pipeline) -> Iterator[Batch]:
    """The batches of a pipeline, epoch after epoch."""
    while True:
        yield from pipeline


def fixed_batch(task: Task, channels_last: bool = True) -> Batch:
    """Noise in the shape of a batch, on the device."""
    generator = torch.Generator(task.device).manual_seed(0)
    batch, size = task.config.train.batch_size, task.config.data.image_size
    layout = torch.channels_last if channels_last else torch.contiguous_format

    def view() -> Tensor:
        noise = torch.randn(batch, 3, size, size, generator=generator, device=task.device)
        return noise.to(task.precision.dtype).contiguous(memory_format=layout)

    return Batch(view(), view(), torch.arange(batch, device=task.device))


def steps(training_step: TrainingStep, batches: Iterable[Batch]) -> Iterator[int]:
    """Train on each batch; gives the number of its images. Losses are kept for a while, as for the log."""
    kept = []
    for step, batch in enumerate(batches):
        kept.append(training_step(batch, step).loss)
        if len(kept) == 20:
            torch.stack(kept)
            kept.clear()
        yield len(batch.index)


def own_step(what: StepTask) -> Callable[[], TrainingStep]:
    """Builds the step of a task when it is first asked for; it is compiled once for all who use it."""
    task = what.task
    return lru_cache(lambda: build_step(task.config, task.device, task.precision, what.compiling))


def step_openers(
    what: StepTask,
    plain: bool = True,
    feeds: tuple[str | None, ...] = (None,),
    ours: Callable[[], TrainingStep] | None = None,
) -> Openers:
    """The contenders; the plain one first, since its workers are best forked before there are threads.

    Args:
        what: images, settings and switches.
        plain: with the plain version.
        feeds: pipelines that feed our step, each a contender; None: the one that the settings choose.
        ours: `own_step`, where it is needed elsewhere as well.
    """
    task, ours = what.task, ours or own_step(what)
    repeats = 0 if task.device.type == "cuda" else REPEATS  # of what a disturbed CPU hardly slows
    plain_size = min(what.plain_batch, task.config.train.batch_size)
    train = task.config.train.model_copy(update={"batch_size": plain_size})
    plain_task = replace(task, config=task.config.model_copy(update={"train": train}), precision=Precision.FP32)

    def plain_fed() -> Source:
        loader = plain_loader(plain_task, what.from_memory)
        source = steps(build_plain_step(plain_task.config, task.device), plain_batches(loader, task.device))
        where = "from memory" if what.from_memory else "decoded by Pillow"
        note = f"eager, fp32, NCHW, batches of {loader.batch_size}; DataLoader with PIL transforms, images {where}"
        note += loader_note(loader, plain_task)
        return Source(source, note, 2 * task.threads, max(1, task.threads), lambda: end_workers(loader))

    def plain_fixed() -> Source:
        batches = itertools.repeat(fixed_batch(plain_task, channels_last=False))
        source = steps(build_plain_step(plain_task.config, task.device), batches)
        return Source(source, "the same, on one batch", repeats=repeats)

    def fed(pipeline_name: str | None) -> Source:
        pipeline, choice = open_feed(task, pipeline_name, what.compiling != "off")
        note = f"compile={what.compiling}, pipeline {choice.name}"
        again = repeats if choice.name == "resident" else REPEATS
        source = steps(ours(), endless(pipeline))
        return Source(source, note, ahead(choice.name, task.threads), close=pipeline.close, repeats=again)

    def fixed() -> Source:
        batches = itertools.repeat(fixed_batch(task))
        return Source(steps(ours(), batches), f"compile={what.compiling}", repeats=repeats)

    def graphs() -> Source:
        batches = itertools.repeat(fixed_batch(task))
        return Source(steps(recorded(ours()), batches), "compile=graphs", repeats=repeats)

    found: Openers = {PLAIN: plain_fed, PLAIN_FIXED: plain_fixed} if plain else {}
    found |= {fed_by(name): partial(fed, name) for name in feeds}
    found[FIXED] = fixed
    if what.compiling == "on" and task.device.type == "cuda":
        found[GRAPHS] = graphs
    return found


def fed_by(pipeline: str | None) -> str:
    """The contender's name; None: the pipeline that the settings choose."""
    return FED if pipeline is None else f"{FED}, {pipeline}"
