"""Optimiser and learning rate."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from tcc_fast.settings import OptimConfig


def build_optimizer(model: nn.Module, config: OptimConfig, compiled: bool = False) -> torch.optim.Optimizer:
    """The optimiser that ``config.name`` names, with no decay on prototypes, biases and batch norm.

    Matrices and convolutions are what decays: every parameter of two or more dimensions but μ.

    Args:
        model: θ, on its device.
        config: the optimiser's settings.
        compiled: for a compiled step: one fused pass on any device, and the learning rate is a tensor there.
    """
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        decays = parameter.ndim >= 2 and not name.endswith("prototypes")
        (decayed if decays else kept).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    device = next(model.parameters()).device
    fused = compiled or device.type == "cuda"
    lr = torch.tensor(config.lr, device=device) if compiled else config.lr
    if config.name == "sgd":
        sgd = torch.optim.SGD(groups, lr=lr, momentum=config.sgd_momentum, fused=fused)
        if fused and config.sgd_momentum:
            sgd.register_step_pre_hook(_give_momentum)
        return sgd
    optimizer = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return optimizer(groups, lr=lr, fused=fused)


@torch.no_grad()
def _give_momentum(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    """Fused SGD fails where some parameters have momentum and others, that join later, do not. From 0 it is the same:
    momentum begins as the first gradient."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None and optimizer.state[parameter].get("momentum_buffer") is None:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def learning_rate(config: OptimConfig, step: int, total_steps: int) -> float:
    """Learning rate of step ``step`` (from 0) of ``total_steps``: a pure function, so resuming needs no state."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "cosine":
        progress = (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps)
        return config.lr * 0.5 * (1.0 + math.cos(math.pi * progress))
    if config.schedule == "steps":
        return config.lr * 0.1 ** sum(step / total_steps >= milestone for milestone in config.milestones)
    return config.lr


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group; where it is a tensor, nothing waits for it."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr
