"""A process group of one rank, which exchanges with itself what several would: whether that works on this device.

    python -m tcc_fast.bench.one_rank          # NCCL on a GPU, gloo on a CPU; prints one line of JSON

Two NCCL ranks cannot share one GPU, so what several ranks compute together is tested on CPUs (tests/test_ranks.py).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from tcc_fast import distributed
from tcc_fast.batch import Batch
from tcc_fast.bench.single_process import SingleProcess
from tcc_fast.compiling import compile_mode
from tcc_fast.method.batch_norm import share_batch_statistics
from tcc_fast.method.model import TCC, momentum_twin
from tcc_fast.method.optim import build_optimizer
from tcc_fast.method.step import TrainingStep, build_queues
from tcc_fast.session import STEPS
from tcc_fast.settings import Config, LossConfig, ModelConfig, MomentumConfig, OptimConfig, QueueConfig, TrainConfig

STEPS_TAKEN, IMAGES, SIDE = 3, 32, 32
TOLERANCE = 1e-6
"""As a share of a tensor, or of a hundredth of the largest of its kind where that is more."""

Found = dict[str, Tensor]
"""Losses, gradients and buffers, by kind and name."""


def check(device: torch.device) -> dict[str, Any]:
    """A few steps in double precision, eager and, where steps are compiled, compiled; with all collectives and without.

    Losses, gradients and running statistics are compared. With one rank, a sum cannot be told from what it sums.

    Raises:
        AssertionError: they differ.
    """
    backend = "nccl" if device.type == "cuda" else "gloo"
    with one_rank(backend):
        wanted = train(device, "off")
        for mode in ("off", compile_mode("auto", device, 1)):
            distributed.traffic.clear()
            with exchanging_alone():
                found = train(device, mode)
            assert mode != "off" or distributed.traffic.total() > 0, "nothing was exchanged"
            wrong = differing(found, wanted)
            assert not wrong, f"train.compile={mode}: {len(wrong)} of {len(wanted)} differ, among them {wrong[0]}"
    return {"backend": backend, "ok": True}


@contextmanager
def one_rank(backend: str) -> Iterator[None]:
    """A process group of this process alone."""
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group(backend, init_method=f"file://{Path(folder) / 'store'}", rank=0, world_size=1)
        try:
            yield
        finally:
            dist.destroy_process_group()


@contextmanager
def exchanging_alone() -> Iterator[None]:
    """Send tensors through collectives within this context, although nobody else is there."""
    distributed.exchange_alone = True
    try:
        yield
    finally:
        distributed.exchange_alone = False


def train(device: torch.device, compiling: str) -> Found:
    """What a few steps on noise compute; with shared batch norm and data parallelism where ranks exchange."""
    settings = Config(
        model=ModelConfig(backbone="resnet_small", width=4, num_clusters=4, feature_batch_norm=True),
        loss=LossConfig(symmetric=True, swap_weight=0.5, swap_neighbours=3),
        queue=QueueConfig(instance_length=4 * IMAGES),
        momentum=MomentumConfig(decay=0.875),  # like the rate, exact in fp32, in which compiled steps are told them
        optim=OptimConfig(name="sgd", lr=0.125),
        train=TrainConfig(batch_size=IMAGES),
    )
    torch.manual_seed(0)
    model = TCC(settings.model, settings.loss).double()
    if distributed.exchanging():
        share_batch_statistics(model)
    model = model.to(device).to(memory_format=torch.channels_last)
    twin, queues = momentum_twin(model), build_queues(settings, 4, torch.float64, device)
    optimizer = build_optimizer(model, settings.optim, compiled=compiling != "off")
    around = distributed.exchanging() and compiling == "off"
    theta = distributed.keep_own_buffers(DistributedDataParallel(model)) if around else model
    step: TrainingStep = STEPS[compiling](settings, theta, twin, queues, optimizer, Unwrapping())
    found: Found = {}
    for number in range(STEPS_TAKEN):
        found[f"loss {number}"] = step(noise(number, device), number).loss.clone()
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        found |= {f"gradient {number} {name}": one.clone() for name, one in gradients.items() if one is not None}
    found |= {f"buffer {name}": buffer for name, buffer in model.named_buffers() if "running" in name}
    return found | {f"buffer {name} of θ̂": buffer for name, buffer in twin.named_buffers() if "running" in name}


def differing(found: Found, wanted: Found) -> list[str]:
    """Names of the tensors that differ by more than `TOLERANCE`."""
    sizes = {name: float(tensor.norm()) for name, tensor in wanted.items()}

    def scale(name: str) -> float:
        kind = name.split()[0]
        return max(sizes[name], 0.01 * max(size for other, size in sizes.items() if other.split()[0] == kind))

    missing = sorted(found.keys() ^ wanted.keys())
    both = [name for name in wanted if name in found]
    return missing + [n for n in both if not float((found[n] - wanted[n]).norm()) <= TOLERANCE * scale(n)]


class Unwrapping(SingleProcess):
    """Looks through data parallelism."""

    def unwrap_model(self, model: torch.nn.Module) -> Any:
        """θ itself."""
        return model.module if isinstance(model, DistributedDataParallel) else model


def noise(seed: int, device: torch.device) -> Batch:
    """A batch of noise: two views, and some images' indices."""
    generator = torch.Generator().manual_seed(seed)
    views = torch.randn(2, IMAGES, 3, SIDE, SIDE, generator=generator, dtype=torch.float64)
    view_1, view_2 = (view.to(device).contiguous(memory_format=torch.channels_last) for view in views)
    return Batch(view_1, view_2, torch.arange(IMAGES, device=device))


if __name__ == "__main__":
    print(json.dumps(check(torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu"))))
