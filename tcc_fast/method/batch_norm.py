"""Batch norm: torch's without its count of batches, and one whose statistics are those of the global batch."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tcc_fast.distributed import gather, total_over_ranks_, world_size
from tcc_fast.method import batch_norm_kernels


class _Uncounted(_BatchNorm):
    """Leaves `num_batches_tracked` as it is, which only a batch norm without a momentum reads: on a GPU, to count would
    be a launch for each layer, in each network, in each step."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        running = (self.running_mean, self.running_var)
        return F.batch_norm(input, *running, self.weight, self.bias, True, self.momentum or 0.0, self.eps)


class BatchNorm1d(_Uncounted, nn.BatchNorm1d):
    """(b, C) normalised by its own mean and variance."""


class BatchNorm2d(_Uncounted, nn.BatchNorm2d):
    """(b, C, H, W) normalised by its own mean and variance."""


class GlobalBatchNorm(_BatchNorm):
    """(b, C, ...) normalised by mean and variance over all ranks' images, of which each has equally many.

    torch's own SyncBatchNorm refuses CPUs, and on a GPU the host waits in each of its layers: it asks for ranks without
    images, of which there are none here. As there, statistics are exchanged once forwards and once backwards.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        """Accept any number of dimensions after the channels."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        x, kernels = _dense(input), _kernels(input)
        with torch.no_grad():
            own = torch.stack(kernels.batch_norm_stats(x, self.eps))  # mean and 1 / standard deviation, (2, C)
            means, scales = gather(own.unsqueeze(0)).unbind(1)
            counts = torch.full((len(means),), x.numel() // x.shape[1], dtype=means.dtype, device=x.device)
            running = (self.running_mean, self.running_var, self.momentum, self.eps)
            mean, scale = kernels.batch_norm_gather_stats_with_counts(x, means, scales, *running, counts)
        result: Tensor = _Normalise.apply(x, self.weight, self.bias, mean, scale, self.eps, counts)
        return result


def _kernels(x: Tensor) -> Any:
    """The kernels: torch's own where they run; elsewhere, and for a compiler, the same in plain tensor work."""
    return torch if x.is_cuda and not torch.compiler.is_compiling() else batch_norm_kernels


class _Normalise(torch.autograd.Function):
    """Differentiates through the statistics it is given as well, which are those of all ranks' x."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        scale: Tensor,
        eps: float,
        counts: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, scale, counts)
        result: Tensor = _kernels(x).batch_norm_elemt(x, weight, bias, mean, scale, eps)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale, counts = ctx.saved_tensors
        kernels, gradient, affine = _kernels(x), _dense(gradients[0]), weight is not None
        own = kernels.batch_norm_backward_reduce(gradient, x, mean, scale, weight, True, False, False)[:2]
        # From here on only the sums: Inductor lets `own` lie in the stack, which it then sums in place. Gradients are
        # averaged over the ranks, so each may give its share of the whole one of weight and bias.
        sums = total_over_ranks_(torch.stack(own))
        of_bias, of_weight = sums[0] / world_size(), sums[1] * scale / world_size()
        counts = counts.to(torch.int32)  # as torch's kernel wants them here
        of_input = kernels.batch_norm_backward_elemt(gradient, x, mean, scale, weight, *sums, counts)
        return of_input, of_weight if affine else None, of_bias if affine else None, None, None, None, None


def _dense(x: Tensor) -> Tensor:
    """The same numbers in a layout that the kernels know."""
    return x if x.is_contiguous(memory_format=torch.channels_last) else x.contiguous()


def share_batch_statistics(module: nn.Module) -> nn.Module:
    """Replace every batch norm in ``module``; parameters, buffers and their names stay.

    Raises:
        ValueError: one has no momentum, so it averages over all batches, which it would have to count.
    """
    if isinstance(module, _BatchNorm):
        if module.momentum is None:
            raise ValueError(
                "a batch norm with momentum=None cannot be shared by several processes: give it a momentum, or set "
                "model.sync_batch_norm=false"
            )
        shared = GlobalBatchNorm(
            module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats
        )
        for name, parameter in module.named_parameters(recurse=False):
            setattr(shared, name, parameter)
        for name, buffer in module.named_buffers(recurse=False):
            setattr(shared, name, buffer)
        return shared.train(module.training)
    for name, child in module.named_children():
        setattr(module, name, share_batch_statistics(child))
    return module


@torch.no_grad()
def average_running_statistics(module: nn.Module) -> None:
    """Give every rank the mean of all ranks' running statistics, which differ where batch norm is each rank's own."""
    if world_size() == 1:
        return
    for part in module.modules():
        if isinstance(part, _BatchNorm) and part.running_mean is not None and part.running_var is not None:
            for buffer in (part.running_mean, part.running_var):
                total_over_ranks_(buffer).div_(world_size())
