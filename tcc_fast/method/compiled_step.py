"""The step of Algorithm 1 in compiled pieces: none is compiled anew while a run goes on.

Three calls make a step: forward passes and losses with their backward pass (one graph each), the fused optimiser, and
what follows it (queues and moving average, one graph). Two of the graphs exist twice in a run with a warm-up: without
and with clusters. :class:`GraphedStep` records all of it once and replays that as a single CUDA graph.

With several ranks the graphs hold what equations (4) to (9) and batch norm exchange, and the gradients are averaged
between the backward pass and the optimiser.

Whatever differs from step to step is a tensor on the device that is filled without waiting: as a Python number it
would be a part of the compiled code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from tcc_fast.batch import Batch
from tcc_fast.distributed import average_gradients_
from tcc_fast.draws import fastest_bits
from tcc_fast.method.model import momentum_at, update_twin
from tcc_fast.method.step import SCALAR_LOSSES, Keys, Losses, Noises, TrainingStep

SCALARS = len(SCALAR_LOSSES)
WARM_UP = 3
"""Steps before a recording, in which everything is compiled and whatever is allocated once is there."""


def keep_pooling_whole() -> None:
    """Have Inductor compile the gradient of max pooling as one kernel, in the layout that its images have.

    Of that in an encoder of the user's own; ours has `tcc_fast.method.max_pool`. From torch 2.13 on it would be added
    up in zeros, in fp32, channels first and atomically.
    """
    from torch._inductor.decomposition import decompositions, select_decomp_table

    for table in (decompositions, select_decomp_table()):  # the second may be a copy of the first
        table.pop(torch.ops.aten.max_pool2d_with_indices_backward.default, None)


class DeviceScalar:
    """A number on the device, written only when it changes."""

    def __init__(self, device: torch.device) -> None:
        self.tensor, self._value = torch.zeros((), device=device), 0.0

    def set_no_sync(self, value: float) -> None:
        """Set the number."""
        if value != self._value:
            self.tensor.fill_(value)
            self._value = value


class CompiledStep(TrainingStep):
    """A `TrainingStep` whose pieces are compiled.

    Args:
        args: as of `TrainingStep`, but for θ: no data parallelism is around it, whose work this does, so the ranks
            must begin with the same one; the optimiser from ``build_optimizer(..., compiled=True)``.
        backend: of torch.compile.
        kwargs: as of `TrainingStep`.
    """

    def __init__(self, *args: Any, backend: str | Callable[..., Any] = "inductor", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        device = self.twin.prototypes.device
        self._alpha, self._step_size = DeviceScalar(device), DeviceScalar(device)
        self._bits = fastest_bits(device, compiled=True)
        if backend == "inductor":
            keep_pooling_whole()
        options: dict[str, Any] = {"fullgraph": True, "dynamic": False, "backend": backend}
        self._compiled_contrast = torch.compile(self._contrast, **options)
        self._compiled_update = torch.compile(self._update_queues_and_twin, **options)

    def __call__(self, batch: Batch, step: int) -> Losses:
        self._set_no_sync(step)
        noises = self.noises(batch.index, step)
        return unpack(self._run(batch.view_1, batch.view_2, noises, self.clusters_on(step)))

    def _set_no_sync(self, step: int) -> None:
        momentum = self.config.momentum
        self._alpha.set_no_sync(self.alpha_at(step))
        self._step_size.set_no_sync(1.0 - momentum_at(step, momentum.decay, momentum.warmup))

    def _run(self, view_1: Tensor, view_2: Tensor, noises: Noises, clusters_on: bool) -> Tensor:
        """The step itself, without a number of Python's that changes; returns the losses in one tensor."""
        loss, reported, new_keys = self._compiled_contrast(view_1, view_2, noises, self._alpha.tensor, clusters_on)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        for parameter in self._idle_parameters(clusters_on):
            parameter.grad = None
        average_gradients_(self._theta)
        self.move_theta()
        self._compiled_update(new_keys, self._step_size.tensor, clusters_on)
        return reported

    def _contrast(
        self, view_1: Tensor, view_2: Tensor, noises: Noises, alpha: Tensor, clusters_on: bool
    ) -> tuple[Tensor, Tensor, Keys]:
        losses, new_keys = self.contrast_views(view_1, view_2, noises, alpha, clusters_on)
        # Detached here, or the backward pass would run through every one of them, with gradients of zero.
        return losses.loss, pack(losses).detach(), new_keys

    def _update_queues_and_twin(self, new_keys: Keys, step_size: Tensor, clusters_on: bool) -> None:
        self.enqueue(new_keys, clusters_on)
        update_twin(self.twin, self._theta, step_size)


def pack(losses: Losses) -> Tensor:
    """Losses in one tensor, (SCALARS + 2 K,)."""
    return torch.cat([torch.stack(losses[:SCALARS]), *losses[SCALARS:]])


def unpack(packed: Tensor) -> Losses:
    """The opposite of :func:`pack`; views of ``packed``."""
    return Losses(*packed[:SCALARS].unbind(), *packed[SCALARS:].chunk(2))


class Recorder(Protocol):
    """Records work on the device, to replay it."""

    def run_on_stream(self, work: Callable[[], Tensor]) -> Tensor:
        """Do the work now, as it is done when it is recorded."""

    def record(self, work: Callable[[], Tensor]) -> Tensor:
        """Record the work without doing it; its result is what every replay writes anew."""

    def replay(self) -> None:
        """Do the recorded work."""

    def release(self) -> None:
        """Give back what a recording holds."""


class CudaRecorder:
    """`Recorder` by a CUDA graph. It waits for the device when it records, and at no other time."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device, priority=-1)  # of a pool that no pipeline draws from
        self._graph: torch.cuda.CUDAGraph | None = None

    def run_on_stream(self, work: Callable[[], Tensor]) -> Tensor:
        here = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(here)  # autograd must not have seen the stream that is in use otherwise
        with torch.cuda.stream(self._stream):
            result = work()
        here.wait_stream(self._stream)
        return result

    def record(self, work: Callable[[], Tensor]) -> Tensor:
        graph = torch.cuda.CUDAGraph()
        # Threads of a pipeline may pin or allocate memory meanwhile, which is none of this recording.
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            result = work()
        self._graph = graph
        return result

    def replay(self) -> None:
        assert self._graph is not None
        self._graph.replay()

    def release(self) -> None:
        self._graph = None


@contextmanager
def capturable(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Set Adam's flag `capturable`, as torch wants it while a CUDA graph is captured. The state is on the device."""
    groups = [group for group in optimizer.param_groups if "capturable" in group]
    before = [group["capturable"] for group in groups]
    for group in groups:
        group["capturable"] = True
    try:
        yield
    finally:
        for group, value in zip(groups, before, strict=True):
            group["capturable"] = value


class GraphedStep(CompiledStep):
    """A `CompiledStep` that is launched as one: after a few steps it is recorded, and from then on replayed.

    Queues, moving average, parameters and the optimiser's state are written in place, hence at the addresses that were
    recorded. It is in one of three states: it warms up (``_warm_steps`` below `WARM_UP`), then records the next step
    (``_reported`` is None), then replays it. When clusters begin, or after :meth:`forget`, it warms up again.

    Args:
        args: as of `CompiledStep`.
        compiled: a step of the same networks, queues and optimiser, whose compiled pieces are taken; None: its own.
        recorder: None: CUDA graphs.
        kwargs: as of `CompiledStep`.
    """

    def __init__(
        self, *args: Any, compiled: CompiledStep | None = None, recorder: Recorder | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        if compiled is not None:
            self._compiled_contrast, self._compiled_update = compiled._compiled_contrast, compiled._compiled_update
        self._recorder = CudaRecorder(self.twin.prototypes.device) if recorder is None else recorder
        self._phase: bool | None = None
        self._begin(None)

    def forget(self) -> None:
        """Record anew, since what the recording writes to has been replaced."""
        self._begin(None)

    def _begin(self, phase: bool | None) -> None:
        self._phase, self._warm_steps = phase, 0
        self._inputs: list[Tensor] = []
        self._reported: Tensor | None = None
        # All memory of the last recording, in which the gradients lie as well.
        self.optimizer.zero_grad(set_to_none=True)
        self._recorder.release()

    def __call__(self, batch: Batch, step: int) -> Losses:
        self._set_no_sync(step)
        clusters_on, noises = self.clusters_on(step), self.noises(batch.index, step)
        if clusters_on is not self._phase:
            self._begin(clusters_on)
        inputs = [batch.view_1, batch.view_2, *(noise for noise in noises if noise is not None)]
        if self._warm_steps < WARM_UP:
            self._warm_steps += 1
            work = lambda: self._run(batch.view_1, batch.view_2, noises, clusters_on)  # noqa: E731
            return unpack(self._recorder.run_on_stream(work))
        if self._reported is None:
            self._inputs = [torch.empty_like(tensor) for tensor in inputs]
            with capturable(self.optimizer):
                self._reported = self._recorder.record(lambda: self._run_on_inputs(len(noises), clusters_on))
        torch._foreach_copy_(self._inputs, inputs)
        self._recorder.replay()
        return unpack(self._reported.clone())  # the next replay writes there again

    def _run_on_inputs(self, count: int, clusters_on: bool) -> Tensor:
        view_1, view_2, *drawn = self._inputs
        return self._run(view_1, view_2, tuple(drawn) if drawn else (None,) * count, clusters_on)
