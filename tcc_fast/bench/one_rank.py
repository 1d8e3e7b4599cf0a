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
from tcc_fast.bench.verify import exact_products
from tcc_fast.computing import compile_mode
from tcc_fast.config import Config, LossConfig, ModelConfig, QueueConfig, TrainConfig
from tcc_fast.method.batch_norm import share_batch_statistics
from tcc_fast.method.model import TCC, momentum_twin
from tcc_fast.method.optim import build_optimizer
from tcc_fast.method.step import TrainingStep, build_queues
from tcc_fast.session import STEPS

STEPS_TAKEN, IMAGES, SIDE = 5, 32, 32
TOLERANCE = 1e-3
"""Of losses, as a share: in fp32, another way through batch norm."""


def check(device: torch.device) -> dict[str, Any]:
    """The losses of a few steps, eager and, where steps are compiled, compiled: with every collective and without any.

    Raises:
        AssertionError: they differ.
    """
    backend = "nccl" if device.type == "cuda" else "gloo"
    with one_rank(backend), exact_products(True):
        wanted = losses(device, "off")
        for mode in ("off", compile_mode("auto", device, 1)):
            distributed.traffic.clear()
            with exchanging_alone():
                found = losses(device, mode)
            assert mode != "off" or distributed.traffic.total() > 0, "nothing was exchanged"
            assert torch.allclose(found, wanted, rtol=TOLERANCE), f"train.compile={mode}: {found} is not {wanted}"
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
    """Tensors go through collectives, although nobody else is there."""
    distributed.exchange_alone = True
    try:
        yield
    finally:
        distributed.exchange_alone = False


def losses(device: torch.device, compiling: str) -> Tensor:
    """Of a few steps on noise, (STEPS_TAKEN,): shared batch norm and data parallelism where ranks exchange."""
    settings = Config(
        model=ModelConfig(backbone="resnet_small", width=8, num_clusters=4),
        loss=LossConfig(swap_weight=0.5, swap_neighbours=3),
        queue=QueueConfig(instance_length=4 * IMAGES),
        train=TrainConfig(batch_size=IMAGES),
    )
    torch.manual_seed(0)
    model = TCC(settings.model, settings.loss)
    if distributed.exchanging():
        share_batch_statistics(model)
    model = model.to(device).to(memory_format=torch.channels_last)
    twin, queues = momentum_twin(model), build_queues(settings, 4, device=device)
    optimizer = build_optimizer(model, settings.optim, compiled=compiling != "off")
    around = distributed.exchanging() and compiling == "off"
    theta = distributed.keep_own_buffers(DistributedDataParallel(model)) if around else model
    step: TrainingStep = STEPS[compiling](settings, theta, twin, queues, optimizer, Unwrapping("no"))
    return torch.stack([step(noise(number, device), number).loss for number in range(STEPS_TAKEN)]).cpu()


class Unwrapping(SingleProcess):
    """Looks through data parallelism."""

    def unwrap_model(self, model: torch.nn.Module) -> Any:
        """θ itself."""
        return model.module if isinstance(model, DistributedDataParallel) else model


def noise(seed: int, device: torch.device) -> Batch:
    """Two views, and some images' indices."""
    generator = torch.Generator().manual_seed(seed)
    views = torch.randn(2, IMAGES, 3, SIDE, SIDE, generator=generator)
    view_1, view_2 = (view.to(device).contiguous(memory_format=torch.channels_last) for view in views)
    return Batch(view_1, view_2, torch.arange(IMAGES, device=device))


if __name__ == "__main__":
    print(json.dumps(check(torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu"))))
