"""Batch norm: torch's without its count of batches, and one whose statistics are those of the global batch."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tcc_fast.distributed import gather, sum_over_ranks, total_over_ranks_, world_size


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
    images, of which there are none here.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions after the channels."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        if input.is_cuda and not torch.compiler.is_compiling():  # a compiler fuses what is below as well
            return self.fused(input)
        dtype = input.dtype
        if dtype in (torch.bfloat16, torch.float16):
            input = input.float()  # sums over many pixels need it
        summed = [dim for dim in range(input.ndim) if dim != 1]
        count = input.numel() // input.shape[1] * world_size()
        shape = [-1 if dim == 1 else 1 for dim in range(input.ndim)]
        mean = sum_over_ranks(input.sum(dim=summed)) / count
        centred = input - mean.view(shape)
        variance = sum_over_ranks(centred.square().sum(dim=summed)) / count
        self._track(mean.detach(), variance.detach() * (count / max(1, count - 1)))
        result = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            result = result * self.weight.view(shape) + self.bias.view(shape)
        return result.to(dtype)

    def fused(self, input: Tensor, kernels: Any = torch) -> Tensor:
        """The same by torch's kernels for CUDA, which ``kernels`` may replace."""
        tracked = (self.running_mean, self.running_var, self.momentum, self.eps)
        result: Tensor = _Fused.apply(input, self.weight, self.bias, tracked, kernels)
        return result

    @torch.no_grad()
    def _track(self, mean: Tensor, unbiased: Tensor) -> None:
        assert self.momentum is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(unbiased, self.momentum)


class _Fused(torch.autograd.Function):
    """What torch's SyncBatchNorm does with the same kernels, but for the waiting."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, tracked: tuple[Any, ...], kernels: Any
    ) -> Tensor:
        *running, momentum, eps = tracked
        x = _dense(x)
        own = torch.stack(kernels.batch_norm_stats(x, eps))  # mean and 1 / standard deviation, (2, C)
        means, scales = gather(own.unsqueeze(0)).unbind(1)
        counts = torch.full((len(means),), x.numel() // x.shape[1], dtype=means.dtype, device=x.device)
        mean, scale = kernels.batch_norm_gather_stats_with_counts(x, means, scales, *running, momentum, eps, counts)
        ctx.save_for_backward(x, weight, mean, scale, counts.to(torch.int32))
        ctx.kernels = kernels
        result: Tensor = kernels.batch_norm_elemt(x, weight, bias, mean, scale, eps)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale, counts = ctx.saved_tensors
        gradient, affine = _dense(gradients[0]), weight is not None
        *sums, of_weight, of_bias = ctx.kernels.batch_norm_backward_reduce(
            gradient, x, mean, scale, weight, True, affine, affine
        )
        sums = total_over_ranks_(torch.stack(sums))
        of_input = ctx.kernels.batch_norm_backward_elemt(gradient, x, mean, scale, weight, *sums, counts)
        return of_input, of_weight if affine else None, of_bias if affine else None, None, None


def _dense(x: Tensor) -> Tensor:
    """In a layout that the kernels know."""
    return x if x.is_contiguous(memory_format=torch.channels_last) else x.contiguous()


def share_batch_statistics(module: nn.Module) -> nn.Module:
    """Replace every batch norm in ``module``; parameters, buffers and their names stay."""
    if isinstance(module, _BatchNorm):
        shared = GlobalBatchNorm(module.num_features, module.eps, module.momentum, module.affine)
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
