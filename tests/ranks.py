"""Twenty steps of training on the same global batches, by one process or by several; writes what came of them.

``accelerate launch --multi_gpu --num_processes N tests/ranks.py FOLDER``, or `run` here. Every case of `CASES`
gives FOLDER/CASE.safetensors: losses and gradients of every step, and the parameters, twin and queues at the end.
Where ranks have batch norms of their own, a single process normalises 2 or 4 parts: CASE-2 and CASE-4.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tcc_fast.batch import Batch
from tcc_fast.config import config_from_tree
from tcc_fast.distributed import gather, keep_own_buffers, leave, own_part, rank, total_over_ranks_, traffic, world_size
from tcc_fast.method.batch_norm import BatchNorm2d, average_running_statistics, share_batch_statistics
from tcc_fast.method.compiled_step import CompiledStep
from tcc_fast.method.model import TCC, momentum_twin
from tcc_fast.method.optim import build_optimizer
from tcc_fast.method.step import TrainingStep, build_queues
from tcc_fast.precision import Precision
from tcc_fast.settings import Config

STEPS, BATCH, SIDE, DIM = 20, 16, 5, 6
OVERFLOW = 7
"""Step in which the last rank's gradients are infinite in fp16."""

OWN_STATISTICS = "batch-norm-of-each"

# K, J (50 is no multiple of the batch), departures of the loss, the first step with clusters, dtype and precision.
CASES: dict[str, dict[str, Any]] = {
    "two-clusters": {"K": 2, "J": 50},
    "many-clusters": {"K": 64, "J": 33},
    "long-queue": {"K": 5, "J": 1000},
    "short-queue": {"K": 5, "J": 7},
    "symmetric": {"K": 3, "J": 50, "loss": {"symmetric": True, "alpha": 0.75}},
    "warm-up": {"K": 3, "J": 50, "loss": {"symmetric": True}, "start": 6},
    "no-cluster-track": {"K": 3, "J": 50, "loss": {"cluster_track": False}},
    "unconditioned": {"K": 3, "J": 50, "model": {"condition_on_cluster": False}},
    "swap": {"K": 3, "J": 50, "loss": {"symmetric": True, "swap_weight": 0.8}},
    "swap neighbours": {"K": 3, "J": 50, "loss": {"symmetric": True, "swap_weight": 0.8, "swap_neighbours": 4}},
    # Without the batch norm on f, before which a bias has a gradient of zero: Adam would make steps of its rounding.
    "adam": {"K": 3, "J": 50, "optim": {"name": "adamw", "lr": 0.01}, "model": {"feature_batch_norm": False}},
    "compiled": {
        "K": 3,
        "J": 50,
        "compiled": True,
        "precision": Precision.FP16,
        "loss": {"symmetric": True, "swap_weight": 0.8, "swap_neighbours": 4},
        "start": 6,
    },
    "single": {"K": 3, "J": 50, "dtype": torch.float32},
    # In fp16, gradients are scaled, and overflow once; autocast leaves double precision as it is.
    "scaled": {"K": 3, "J": 50, "precision": Precision.FP16},
    OWN_STATISTICS: {"K": 3, "J": 50, "model": {"sync_batch_norm": False}},
}


def settings(case: dict[str, Any]) -> Config:
    return config_from_tree(
        {
            "seed": 5,
            "model": {"num_clusters": case["K"], "feature_dim": DIM, "feature_batch_norm": True}
            | case.get("model", {}),
            "loss": {"temperature": 0.5} | case.get("loss", {}),
            "queue": {"cluster_multiple": 3, "instance_length": case["J"]},
            # 1 - m, the rate, and α above: what single precision holds exactly, in which a compiled step is told them.
            "momentum": {"decay": 0.875},
            "optim": {"name": "sgd", "lr": 0.125} | case.get("optim", {}),
            "train": {"batch_size": BATCH},
        }
    )


def normalise_in_parts(module: nn.Module, parts: int) -> None:
    """Let every batch norm take each of so many parts of a batch by itself, as ranks without shared statistics do."""
    for norm in module.modules():
        if isinstance(norm, _BatchNorm):
            norm.forward = partial(_in_parts, norm.forward, parts)


def _in_parts(forward: Callable[[Tensor], Tensor], parts: int, x: Tensor) -> Tensor:
    return torch.cat([forward(part) for part in x.chunk(parts)])


def encoder() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False),
        BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, DIM),
    )


def global_batch(step: int, dtype: torch.dtype) -> Batch:
    generator = torch.Generator().manual_seed(100 + step)
    views = [torch.randn(BATCH, 3, SIDE, SIDE, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2)]
    return Batch(views[0], views[1], torch.randperm(BATCH, generator=generator))


def train(case: dict[str, Any], accelerator: Accelerator, parts: int = 1) -> dict[str, Tensor]:
    """Twenty steps; ``parts`` of a single process are what the ranks are whose batch norms are their own."""
    config, dtype = settings(case), case.get("dtype", torch.float64)
    torch.compiler.reset()
    torch.manual_seed(1)
    model = TCC(config.model, config.loss, encoder()).to(dtype)
    if config.model.sync_batch_norm and world_size() > 1:
        share_batch_statistics(model)
    twin = momentum_twin(model)
    if parts > 1:
        normalise_in_parts(model, parts)
        normalise_in_parts(twin, parts)
    queues = build_queues(config, case["K"], dtype)
    compiled = case.get("compiled", False) and world_size() > 1
    optimizer = build_optimizer(model, config.optim, compiled)
    # Inductor writes into what others may read; four ranks would compile the same once more, on as few cores.
    backend = "inductor" if shutil.which("g++") and world_size() == 2 else "aot_eager"
    kind = partial(CompiledStep, backend=backend) if compiled else TrainingStep
    prepared = accelerator.prepare_model(model, evaluation_mode=compiled)  # as a session does it
    theta, start, precision = keep_own_buffers(prepared), case.get("start", 0), case.get("precision", Precision.FP32)
    step = kind(config, theta, twin, queues, optimizer, accelerator, start, precision)
    scaler, factor = step.scaler, torch.ones(())
    scale = scaler.scale
    scaler.scale = lambda loss: scale(loss) * factor
    found: dict[str, Tensor] = {}
    losses = []
    for number in range(STEPS):
        if not case.get("compiled"):  # in a run, sums grow
            traffic.clear()
        whole = global_batch(number, dtype)
        overflows = precision is Precision.FP16 and number == OVERFLOW
        factor.fill_(torch.inf if overflows and rank() == world_size() - 1 else 1.0)
        begins = number in (0, start)  # a phase, which is compiled once
        with torch.compiler.set_stance("default" if begins else "fail_on_recompile"):
            result = step(Batch(*(own_part(part) for part in (whole.view_1, whole.view_2, whole.index))), number)
        sent = torch.tensor([traffic[kind] for kind in ("gather", "sum", "max")])
        mean = [total_over_ranks_(part.clone()) / world_size() for part in result[:6]]
        losses.append(torch.stack(mean))
        for name, parameter in model.named_parameters():
            there = parameter.grad is not None and not overflows
            found[f"gradient {number:02} {name}"] = parameter.grad.clone() if there else torch.zeros(0)
    found["losses"] = torch.stack(losses)
    if not config.model.sync_batch_norm:
        for network in (model, twin):
            running = {name: buffer for name, buffer in network.named_buffers() if "running_" in name}
            means = {name: gather(buffer.unsqueeze(0)).mean(dim=0) for name, buffer in running.items()}
            average_running_statistics(network)
            for name, mean in means.items():
                torch.testing.assert_close(running[name], mean, msg=name)
    found |= {f"model {name}": tensor for name, tensor in model.state_dict().items()}
    found |= {f"twin {name}": tensor for name, tensor in twin.state_dict().items()}
    found["P"] = queues.cluster.keys
    for same in (queues.cluster.keys, *model.buffers(), *model.parameters(), *twin.buffers(), *twin.parameters()):
        copies = gather(same.unsqueeze(0))
        assert (copies == copies[0]).all(), "ranks differ in what must be the same"
    queue = queues.instance
    numbers, keys = gather(queue.numbers.masked_fill(~queue.valid, -1)), gather(queue.keys)
    order = numbers.argsort()
    found["Q"] = keys[order[numbers[order] >= 0]]
    found["sent"] = sent
    found["shard"] = torch.tensor(queue.keys.shape[0])
    return {name: tensor.detach().clone().contiguous() for name, tensor in found.items()}


def run(folder: Path) -> None:
    accelerator = Accelerator(cpu=True)
    for name, case in CASES.items():
        reference = world_size() == 1 and name == OWN_STATISTICS
        for parts in (2, 4) if reference else (1,):
            found = train(case, accelerator, parts)
            if accelerator.is_main_process:
                save_file(found, folder / (f"{name}-{parts}.safetensors" if reference else f"{name}.safetensors"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(Path(sys.argv[1]))
    leave()
    os._exit(0)  # as `python -m tcc_fast` does, and for the same reason
