"""Batch norm whose statistics are those of the global batch, so that the number of ranks does not matter."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tcc_fast.distributed import sum_over_ranks, total_over_ranks_, world_size


class GlobalBatchNorm(_BatchNorm):
    """(b, C, ...) normalised by mean and variance over all ranks' images. For CPUs: torch's own refuses them."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions after the channels."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
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

    @torch.no_grad()
    def _track(self, mean: Tensor, unbiased: Tensor) -> None:
        assert self.momentum is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(unbiased, self.momentum)
        self.num_batches_tracked.add_(1)


def share_batch_statistics(module: nn.Module, on_cuda: bool) -> nn.Module:
    """Replace every batch norm in ``module``; parameters, buffers and their names stay. torch's own does it on CUDA."""
    if on_cuda:
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    if isinstance(module, _BatchNorm):
        shared = GlobalBatchNorm(module.num_features, module.eps, module.momentum, module.affine)
        for name, parameter in module.named_parameters(recurse=False):
            setattr(shared, name, parameter)
        for name, buffer in module.named_buffers(recurse=False):
            setattr(shared, name, buffer)
        return shared.train(module.training)
    for name, child in module.named_children():
        setattr(module, name, share_batch_statistics(child, on_cuda))
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
