"""The max pooling of a ResNet's stem, with a gradient that is cheap on a GPU also where steps are compiled.

What Inductor makes of that gradient computes, for each element, where its four windows lie: by the instructions that it
compiles to for an H200, that would be 0.9 ms for 1 024 images of 96 px, where its memory would need 0.1: an estimate.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class MaxPool(nn.MaxPool2d):
    """3 × 3 with stride 2 and padding 1."""

    def __init__(self) -> None:
        super().__init__(3, stride=2, padding=1)

    def forward(self, input: Tensor) -> Tensor:
        if torch.is_grad_enabled() and torch.compiler.is_compiling() and input.device.type in OWN_GRADIENT_ON:
            largest, _ = largest_and_places(input)
            return largest
        return super().forward(input)


OWN_GRADIENT_ON = {"cuda"}
"""Types of devices."""


@torch.library.custom_op("tcc_fast::max_pool", mutates_args=(), device_types="cuda")
def largest_and_places(x: Tensor) -> tuple[Tensor, Tensor]:
    """The largest values, and at which of a window's nine places each was.

    Args:
        x: (N, C, H, W).

    Returns:
        (N, C, OH, OW) each, channels-last, the latter uint8.
    """
    from tcc_fast.method import max_pool_kernels

    return max_pool_kernels.pool(_channels_last(x))


@torch.library.custom_op("tcc_fast::max_pool_gradient", mutates_args=(), device_types="cuda")
def gradient(of_output: Tensor, places: Tensor, height: int, width: int) -> Tensor:
    """The gradient of x, (N, C, H, W), from that of the largest values and their places, (N, C, OH, OW) each."""
    from tcc_fast.method import max_pool_kernels

    return max_pool_kernels.gradient(_channels_last(of_output), places, height, width)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def empty(like: Tensor, height: int, width: int, dtype: torch.dtype) -> Tensor:
    """Room for images, (N, C, height, width), channels-last."""
    shape = (like.shape[0], height, width, like.shape[1])
    return like.new_empty(shape, dtype=dtype).permute(0, 3, 1, 2)


@largest_and_places.register_fake
def _(x: Tensor) -> tuple[Tensor, Tensor]:
    rows, columns = (x.shape[2] + 1) // 2, (x.shape[3] + 1) // 2
    return empty(x, rows, columns, x.dtype), empty(x, rows, columns, torch.uint8)


@gradient.register_fake
def _(of_output: Tensor, places: Tensor, height: int, width: int) -> Tensor:
    return empty(of_output, height, width, of_output.dtype)


def _keep_places(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
    ctx.height, ctx.width = inputs[0].shape[2:]
    ctx.save_for_backward(output[1])


def _backward(ctx: Any, of_largest: Tensor, of_places: Tensor | None) -> Tensor:
    return gradient(of_largest, *ctx.saved_tensors, ctx.height, ctx.width)


largest_and_places.register_autograd(_backward, setup_context=_keep_places)
