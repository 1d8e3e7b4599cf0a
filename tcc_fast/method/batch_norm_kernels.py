"""Batch norm over several processes in plain tensor work, for a CPU and for a compiler, which fuses it.

Names, arguments and results are those of torch's kernels for CUDA, which have no version for a CPU. Activations x are
(b, C, ...), in any floating point; statistics are (C,), and in single precision where x has less.
"""

from __future__ import annotations

import torch
from torch import Tensor


def batch_norm_stats(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and 1 / standard deviation of each channel."""
    x, dims = _wide(x), _all_but_channels(x)
    return x.mean(dim=dims), torch.rsqrt(x.var(dim=dims, correction=0) + eps)


def batch_norm_gather_stats_with_counts(
    x: Tensor,
    means: Tensor,
    scales: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    eps: float,
    counts: Tensor,
) -> tuple[Tensor, Tensor]:
    """Mean and 1 / standard deviation of the whole batch, from those of its parts, (W, C), of ``counts`` (W,) numbers.

    The running statistics, if there are any, move in place.
    """
    count = counts.sum()
    weights = (counts / count).unsqueeze(1)
    mean = (weights * means).sum(dim=0)
    variance = (weights * (scales**-2 - eps + (means - mean) ** 2)).sum(dim=0)
    if running_mean is not None and running_var is not None:
        running_mean.lerp_(mean, momentum)
        running_var.lerp_(variance * (count / (count - 1).clamp(min=1)), momentum)
    return mean, torch.rsqrt(variance + eps)


def batch_norm_elemt(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, scale: Tensor, eps: float
) -> Tensor:
    """x normalised, in its own precision; ``scale`` is 1 / standard deviation."""
    made = (_wide(x) - _beside(mean, x)) * _beside(scale, x)
    if weight is not None and bias is not None:
        made = made * _beside(weight, x) + _beside(bias, x)
    return _as_precise_as(x, made)


def batch_norm_backward_reduce(
    gradient: Tensor,
    x: Tensor,
    mean: Tensor,
    scale: Tensor,
    weight: Tensor | None,
    of_input: bool,
    of_weight: bool,
    of_bias: bool,
) -> tuple[Tensor, Tensor, None, None]:
    """Sums over this part: of the gradient, and of it times x - mean; torch's can give more."""
    gradient, dims = _wide(gradient), _all_but_channels(x)
    total = gradient.sum(dim=dims)
    product = (gradient * (_wide(x) - _beside(mean, x))).sum(dim=dims)
    return total, product, None, None


def batch_norm_backward_elemt(
    gradient: Tensor,
    x: Tensor,
    mean: Tensor,
    scale: Tensor,
    weight: Tensor | None,
    total: Tensor,
    product: Tensor,
    counts: Tensor,
) -> Tensor:
    """The gradient of x, given those sums over the whole batch."""
    count = counts.sum()
    through_variance = (_wide(x) - _beside(mean, x)) * _beside(scale**2 * product / count, x)
    rest = _wide(gradient) - _beside(total / count, x) - through_variance
    return _as_precise_as(x, rest * _beside(scale if weight is None else scale * weight, x))


def _wide(x: Tensor) -> Tensor:
    """The same numbers in float32 at least, which sums over many pixels need."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _as_precise_as(x: Tensor, made: Tensor) -> Tensor:
    """A result in the precision of x; not just `made.to(x.dtype)`, since in torch 2.11 a conversion that converts
    nothing, at the end of an autograd.Function, leaves compiled code without a gradient."""
    return made if made.dtype == x.dtype else made.to(x.dtype)


def _all_but_channels(x: Tensor) -> list[int]:
    return [dim for dim in range(x.ndim) if dim != 1]


def _beside(values: Tensor, x: Tensor) -> Tensor:
    """Values of channels, (C,), in the shape that goes with x."""
    return values.view([-1 if dim == 1 else 1 for dim in range(x.ndim)])
