"""The few collectives that training needs; those of tensors are the identity where nothing is exchanged.

b is this rank's part of a batch of B = W b; every rank's part is equally large.
"""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

Result = TypeVar("Result")

# Its name since torch 2.13, and the one before.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


traffic: Counter[str] = Counter()
"""Bytes of the tensors that this rank has put into sums, or got from a gathering, by kind, but for what was compiled.
What goes over the wire follows from the algorithm: a ring sends about twice these bytes for a sum, and once for a
gathering."""

exchange_alone = False
"""Whether a single rank exchanges tensors with itself, in a process group, so that a check needs no second GPU."""

PATIENCE = timedelta(minutes=30)
"""How long a rank waits for another: longer than the start of the prototypes takes the main one."""


def told_to_use_cpu() -> bool:
    """Whether the environment asks for the CPU, as Accelerate understands it."""
    return bool(parse_flag_from_env("ACCELERATE_USE_CPU"))


def processes() -> PartialState:
    """This process among those that train together, as its launcher arranged.

    Raises:
        ValueError: several were launched that do not know of each other: each would train for itself.
    """
    cpu = not torch.accelerator.is_available() or told_to_use_cpu()
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    state = PartialState(cpu=cpu, **({"timeout": PATIENCE} if launched > 1 else {}))
    if state.num_processes != launched:
        raise ValueError(
            f"{launched} processes were launched, but this one knows of {state.num_processes}: "
            "start them with accelerate launch or torchrun"
        )
    return state


def leave() -> None:
    """The end of this process's part: nothing is sent after it.

    What wraps a network in data parallelism should be gone by then: if it is the last to hold the group, a thread of
    gloo that gives back a tensor and the one that ends the group may wait for each other.
    """
    if dist.is_available() and dist.is_initialized():
        gc.collect()
        dist.destroy_process_group()


class RaisedOnMain(ValueError):
    """What stops this rank stopped the main one, which says so."""


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def exchanging() -> bool:
    """Whether tensors go through collectives."""
    return exchange_alone or world_size() > 1


def rank() -> int:
    """Rank of this process among those that train together."""
    return dist.get_rank() if world_size() > 1 else 0


def _count(kind: str, x: Tensor) -> None:
    if not torch.compiler.is_compiling():  # which would compile anew for every sum
        traffic[kind] += x.nbytes


def gather(x: Tensor) -> Tensor:
    """Tensors (b, ...) of all ranks as one, (B, ...), in rank order. No gradient."""
    if not exchanging():
        return x
    result = x.new_empty((world_size() * len(x), *x.shape[1:]))
    _all_gather(result, x.detach().contiguous())
    _count("gather", result)
    return result


def own_part(x: Tensor) -> Tensor:
    """This rank's part (b, ...) of a tensor (B, ...), as a copy."""
    size = len(x) // world_size()
    return x[rank() * size : (rank() + 1) * size].clone()


def total_over_ranks_(x: Tensor) -> Tensor:
    """Sum of ``x`` over all ranks, in place. No gradient."""
    if exchanging():
        dist.all_reduce(x)
        _count("sum", x)
    return x


def max_over_ranks_(x: Tensor) -> Tensor:
    """Largest of ``x`` over all ranks, element by element, in place. No gradient."""
    if exchanging():
        dist.all_reduce(x, dist.ReduceOp.MAX)
        _count("max", x)
    return x


def gather_objects(x: Any) -> list[Any]:
    """All ranks' small Python objects, in rank order."""
    if world_size() == 1:
        return [x]
    found: list[Any] = [None] * world_size()
    dist.all_gather_object(found, x)
    return found


def decide(work: Callable[[], Result]) -> Result:
    """What ``work`` gives on the main rank, on every rank.

    Raises:
        ValueError, OSError: as raised there; on the other ranks `RaisedOnMain`.
    """
    if world_size() == 1:
        return work()
    answer: list[Any] = [None, None]
    trouble: Exception | None = None
    if rank() == 0:
        try:
            answer[0] = work()
        except (ValueError, OSError) as error:
            answer[1], trouble = str(error), error
    dist.broadcast_object_list(answer, 0)
    if trouble:
        raise trouble
    if answer[1] is not None:
        raise RaisedOnMain(answer[1])
    result: Result = answer[0]
    return result


def from_main_(x: Tensor) -> Tensor:
    """The main rank's ``x``, in place. No gradient."""
    return from_rank_(x, 0)


def from_rank_(x: Tensor, source: int) -> Tensor:
    """Another rank's ``x``, in place. No gradient."""
    if exchanging():
        dist.broadcast(x, source)
    return x


def average_gradients_(model: nn.Module) -> None:
    """Mean over all ranks, in place, of the gradients that there are: one sum for all of them."""
    if not exchanging():
        return
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    # In the order of memory, which autograd makes that of the parameters, so on all ranks the same and without gaps.
    flat = [gradient.as_strided((gradient.numel(),), (1,)) for gradient in gradients]
    total = total_over_ranks_(torch.cat(flat)).div_(world_size())
    torch._foreach_copy_(flat, list(total.split([len(part) for part in flat])))


def keep_own_buffers(model: nn.Module) -> nn.Module:
    """Stop data parallelism from copying the main rank's buffers before every forward pass.

    The ranks' running statistics are alike, or averaged when they are needed, and θ̂ runs beside the wrapped θ.
    """
    if isinstance(model, DistributedDataParallel):
        model.broadcast_buffers = False
    return model


class _SumOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        # A view, since in torch 2.11 what was written in place and is returned leaves compiled code without a gradient.
        return total_over_ranks_(x.clone()).view_as(x)

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        # Every rank's loss depends on every rank's addend.
        return total_over_ranks_(gradients[0].clone())


def sum_over_ranks(x: Tensor) -> Tensor:
    """Differentiable sum of ``x`` over all ranks; the gradient is the sum of all ranks' gradients."""
    return _SumOverRanks.apply(x) if exchanging() else x
