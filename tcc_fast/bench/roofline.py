"""What the device can do, and what a step asks of it: the time that no version of it can beat.

Work is counted, not guessed: floating-point operations by torch's FlopCounterMode, and bytes by the shapes that pass
through each layer. The bytes are those of a step in which each convolution reads its input and writes its output once,
each batch norm reads its input twice (moments, then values) and writes it once, and all else is fused into those.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from tcc_fast.bench.rounds import synchronise
from tcc_fast.bench.single_process import SingleProcess
from tcc_fast.method.model import Outputs
from tcc_fast.method.step import TrainingStep, build_queues
from tcc_fast.precision import Precision
from tcc_fast.settings import Config

COUNTED = 2
"""Images that the network's work is counted on; it is proportional to their number."""


@dataclass(frozen=True)
class Rates:
    """What the device does in a second, measured."""

    flops: float
    """Of a large matrix product in the compute dtype."""
    bytes: float
    """Read and written by a large copy."""

    def to_json(self) -> dict[str, float]:
        """The rates as plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Work:
    """What a part of a step must do at least, for a batch."""

    flops: float = 0.0
    bytes: float = 0.0

    def floor(self, rates: Rates) -> tuple[float, str]:
        """The shortest time in milliseconds, and what sets it: `arithmetic` or `memory`."""
        compute, move = 1e3 * self.flops / rates.flops, 1e3 * self.bytes / rates.bytes
        return (compute, "arithmetic") if compute > move else (move, "memory")


def measure_rates(device: torch.device, dtype: torch.dtype, side: int | None = None, size: int | None = None) -> Rates:
    """Matrix rate and copy bandwidth: the best of ten, on random numbers.

    Args:
        device: which.
        dtype: of the matrices.
        side: of the square matrices; None: 8192 on a GPU, 512 on a CPU.
        size: bytes that are copied; None: 1 GiB on a GPU, 64 MiB on a CPU.
    """
    cuda = device.type == "cuda"
    side, size = side or (8192 if cuda else 512), size or (1 << 30 if cuda else 1 << 26)
    one, other = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    product = torch.empty(side, side, device=device, dtype=dtype)
    source = torch.randn(size // 4, device=device)
    target = torch.empty_like(source)
    return Rates(
        2 * side**3 / _best(lambda: torch.mm(one, other, out=product), device),
        2 * source.nbytes / _best(lambda: target.copy_(source), device),
    )


def _best(work: Callable[[], Tensor], device: torch.device) -> float:
    """Seconds that the work takes at best; each of ten tries is long enough for the clock."""
    for _ in range(3):
        work()
    repeats, seconds = 10 if device.type == "cuda" else 1, []
    for _ in range(10):
        synchronise(device)
        started = time.perf_counter()
        for _ in range(repeats):
            work()
        synchronise(device)
        seconds.append((time.perf_counter() - started) / repeats)
    return min(seconds) if median(seconds) > 0 else float("inf")


def count_work(config: Config, build: Callable[[], nn.Module], precision: Precision) -> dict[str, Work]:
    """The work of each part of a step on a batch.

    Args:
        config: K must be set.
        build: makes the network.
        precision: of activations.
    """
    assert config.model.num_clusters is not None
    size, batch = config.data.image_size, config.train.batch_size
    model: Any = build()
    with Elements(model) as elements:
        forward, outputs = counted(lambda: model(torch.randn(COUNTED, 3, size, size), None, True))
    back, _ = counted(sum(output.sum() for output in outputs).backward)
    losses, losses_back = count_losses(config, outputs)
    directions = 2 if config.loss.symmetric else 1
    scale = directions * batch / COUNTED
    of_element = precision.dtype.itemsize
    parameters = sum(parameter.numel() for parameter in model.parameters())
    passes = 3 if config.optim.name == "sgd" else 4  # parameter, gradient, moments
    logits = 4 * directions * batch * config.queue.instance_length
    queue = config.queue.instance_length * config.model.feature_dim
    stored = 3 * size * size * batch
    return {
        "augment": Work(bytes=stored + 2 * stored * of_element),
        "momentum forward": Work(scale * forward, scale * of_element * elements.forward),
        "online forward": Work(scale * forward, scale * of_element * elements.forward),
        # Q is read, and its logits are written and read again.
        "losses and queues": Work(directions * losses, 4 * queue + 2 * logits),
        "backward": Work(scale * back + directions * losses_back, scale * of_element * elements.backward + 2 * logits),
        "optimiser": Work(bytes=4 * parameters * (2 * passes - 1)),  # all is read, and all but the gradient written
        "EMA": Work(bytes=4 * parameters * 3),
    }


def count_losses(config: Config, outputs: Outputs) -> tuple[int, int]:
    """Floating-point operations of equations (4) to (9) and of their backward pass, of one direction.

    Some of them do not grow with the batch, so they are counted at its size, of tensors that have no numbers.

    Args:
        config: K must be set.
        outputs: of the network, on any number of images.
    """
    assert config.model.num_clusters is not None
    with FakeTensorMode():
        queues = build_queues(config, config.model.num_clusters)
        step = TrainingStep(config, nn.Identity(), nn.Identity(), queues, None, SingleProcess())  # type: ignore[arg-type]
        shapes = [(config.train.batch_size, output.shape[1]) for output in outputs]
        online = Outputs(*(torch.empty(shape, requires_grad=True) for shape in shapes))
        momentum = Outputs(*(torch.empty(shape) for shape in shapes))
        forward, (result, _) = counted(lambda: step.compare(online, momentum, 0.5, True))
        backward, _ = counted(result.loss.backward)
    return forward, backward


def counted(work: Callable[[], Any]) -> tuple[int, Any]:
    """Floating-point operations of matrix products and convolutions, and the result."""
    with FlopCounterMode(display=False) as counter:
        result = work()
    return counter.get_total_flops(), result


class Elements:
    """Numbers that pass through memory in the layers of a network, in one forward pass and its backward pass."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.forward = self.backward = 0

    def __enter__(self) -> Elements:
        self._handles = [
            module.register_forward_hook(self._note)
            for module in self.network.modules()
            if isinstance(module, nn.Conv2d | nn.Linear | _BatchNorm)
        ]
        return self

    def _note(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        read, written = inputs[0].numel(), output.numel()
        if isinstance(module, _BatchNorm):
            self.forward += 2 * read + written
            self.backward += 2 * (read + written) + read  # input and gradient: for the sums, then for the result
        else:
            self.forward += read + written
            self.backward += 2 * written + 2 * read  # gradient twice, input once, its gradient once

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()


def utilisation(work: dict[str, Work], milliseconds: float, rates: Rates) -> float:
    """Share of the measured matrix rate that a step of so many milliseconds uses."""
    return sum(part.flops for part in work.values()) / (rates.flops * milliseconds / 1e3)
