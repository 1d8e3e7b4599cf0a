"""All tensors that training changes, by the names under which a checkpoint holds them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tcc_fast.method.model import TCC
from tcc_fast.method.step import Queues

WRITTEN = "instance.written"


@dataclass(frozen=True)
class Training:
    """All tensors that training changes."""

    model: TCC
    twin: TCC
    queues: Queues
    optimizer: torch.optim.Optimizer


def queue_tensors(queues: Queues) -> dict[str, Tensor]:
    """Tensors of the queues that are the same at every rank."""
    cluster = {f"cluster.{key}": tensor for key, tensor in queues.cluster.state_dict().items()}
    return {**cluster, WRITTEN: queues.instance.written}


def optimizer_tensors(model: TCC, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state, as ``parameter name:entry``."""
    return {
        f"{name}:{entry}": value
        for name, parameter in model.named_parameters()
        for entry, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def load_optimizer(saved: dict[str, Tensor], model: TCC, optimizer: torch.optim.Optimizer) -> None:
    """Replace the optimiser's state by what `optimizer_tensors` gave."""
    parameters = dict(model.named_parameters())
    optimizer.state.clear()
    for key, value in saved.items():
        name, _, entry = key.rpartition(":")
        parameter = parameters[name]
        # Moments live beside their parameter; Adam's step counter stays on the CPU unless the update is fused.
        beside = value.ndim > 0 or parameter.is_cuda
        # A copy: what safetensors reads is a map of the file, which may be gone tomorrow.
        optimizer.state[parameter][entry] = value.to(parameter.device if beside else "cpu", copy=True)
        if value.shape == parameter.shape and value.ndim == 4:
            optimizer.state[parameter][entry] = torch.empty_like(parameter).copy_(value)  # keep channels-last


def rng_tensors() -> dict[str, Tensor]:
    """States of torch's generators on the CPU and the GPU in use."""
    states = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_rng(states: dict[str, Tensor]) -> None:
    """Put back what `rng_tensors` gave, as far as this machine has those generators."""
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
