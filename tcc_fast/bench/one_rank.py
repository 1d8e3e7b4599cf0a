"""A process group of one rank: that collectives, data parallelism and shared batch norm work on this device at all.

    python -m tcc_fast.bench.one_rank          # NCCL on a GPU, gloo on a CPU; prints one line of JSON

Two NCCL ranks cannot share one GPU, so what several ranks compute together is tested on CPUs (tests/test_ranks.py).
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tcc_fast.method.batch_norm import share_batch_statistics


def check(device: torch.device) -> dict[str, Any]:
    """Sum, maximum, gathering and broadcast, and a data-parallel step through a shared batch norm.

    Raises:
        AssertionError: a result is wrong.
    """
    backend = "nccl" if device.type == "cuda" else "gloo"
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group(backend, init_method=f"file://{Path(folder) / 'store'}", rank=0, world_size=1)
        try:
            work_together(device)
        finally:
            dist.destroy_process_group()
    return {"backend": backend, "ok": True}


def work_together(device: torch.device) -> None:
    """What `check` is about, in the process group that is there."""
    x = torch.arange(4.0, device=device)
    for operation in (dist.ReduceOp.SUM, dist.ReduceOp.MAX):
        y = x.clone()
        dist.all_reduce(y, operation)
        assert torch.equal(x, y), operation
    gathered = torch.empty_like(x)
    (dist.all_gather_into_tensor if device.type == "cuda" else _all_gather)(gathered, x)
    dist.broadcast(gathered, 0)
    assert torch.equal(gathered, x)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(288, 4)).to(device)
    images = torch.randn(16, 3, 8, 8, device=device)
    alone = network(images)
    shared = DistributedDataParallel(share_batch_statistics(network))
    together = shared(images)
    together.square().mean().backward()
    assert torch.allclose(alone, together, atol=1e-4)
    assert all(parameter.grad is not None for parameter in shared.parameters())


def _all_gather(result: torch.Tensor, own: torch.Tensor) -> None:
    dist.all_gather([result], own)


if __name__ == "__main__":
    print(json.dumps(check(torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu"))))
