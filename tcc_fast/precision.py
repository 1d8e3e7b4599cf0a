"""What an encoder computes in: fp32, or one of two 16-bit formats beside it (autocast)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any

import torch


class Precision(StrEnum):
    """What both encoders compute in; parameters, losses, queues and moments are in fp32 whatever it is."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"
    """For GPUs that have tensor cores for nothing else. Its gradients are scaled, or many would be too small for it."""

    @property
    def dtype(self) -> torch.dtype:
        """Type of the views' numbers, so that the first layer need not convert them."""
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self]

    def autocast(self, device: torch.device) -> torch.autocast:
        """A context in which networks compute in this precision; for fp32, as their inputs and parameters are."""
        mixed = self is not Precision.FP32
        return torch.autocast(device.type, self.dtype if mixed else None, enabled=mixed)


def resolve_precision(choice: str, device: torch.device, before: str | None = None) -> Precision:
    """The precision of a choice. `auto`: as it was ``before``, or else 16 bits where the device is made for them.

    Elsewhere these are slower than fp32 (on CPUs two to ten times), but what has begun in them is not computed
    otherwise.

    Raises:
        ValueError: it was bf16, and the device cannot compute in it at all.
    """
    if choice != "auto":
        return Precision(choice)
    if before == Precision.BF16 and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise ValueError(
            f"the checkpoint was trained in bf16, which {device} cannot compute in: use another device, or the CPU "
            "(ACCELERATE_USE_CPU=true)"
        )
    if before is not None:
        return Precision(before)
    able = (precision for precision in (Precision.BF16, Precision.FP16) if has_arithmetic(device, precision))
    return next(able, Precision.FP32)


def why_this_precision(choice: str, precision: Precision, device: torch.device, before: str | None) -> str | None:
    """What a user should know of what `train.precision=auto` has become; ``before`` as in :func:`resolve_precision`."""
    if choice != "auto":
        return None
    if not has_arithmetic(device, precision):
        return (
            f"{precision}, as before; torch knows of no arithmetic for it on {device}, so this may be slower than fp32"
        )
    if before is None and precision is not Precision.BF16 and device.type == "cuda":
        return f"{precision}, since {device} has no arithmetic for bf16"
    return None


def inference_precision(trained: Precision, device: torch.device) -> tuple[Precision, str | None]:
    """What a trained model computes in, and what a user should know of it: as it was trained, but fp32 where that is
    faster. Nothing goes on from here, so nothing has to stay what it was."""
    if has_arithmetic(device, trained):
        return trained, None
    why = f"torch knows of no arithmetic for {trained}, in which it was trained, on {device}"
    return Precision.FP32, f"computing in fp32: {why}; a few images may come out otherwise"


def has_arithmetic(device: torch.device, precision: Precision) -> bool:
    """Whether the device is made for computing in this precision, as far as torch knows."""
    if precision is Precision.FP32:
        return True
    if device.type == "cuda":
        if precision is Precision.BF16:
            return torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.cuda.get_device_capability(device) >= (7, 0)
    # torch before 2.12 does not say what the CPU can do: fp32 is never slow.
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(f"{unit}_{precision}") for unit in ("avx512", "amx"))


def tune(device: torch.device, precision: Precision) -> None:
    """Set what torch keeps for the whole process; nothing on a CPU.

    Beside an encoder in 16 bits, what stays in fp32 (crops, contrasts) may round its factors to TF32, which has as many
    digits or more. In fp32 nothing may, convolutions included, as they would by torch's default. Batches have one
    shape, so cuDNN may look for its fastest convolutions once.
    """
    if device.type == "cuda":
        _round_factors(precision is not Precision.FP32)
        torch.backends.cudnn.benchmark = True


@contextlib.contextmanager
def rounding_as_tuned(device: torch.device, precision: Precision) -> Iterator[None]:
    """Within it, factors are rounded as after :func:`tune`; afterwards as before, for the process is another's."""
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    if device.type == "cuda":
        _round_factors(precision is not Precision.FP32)
    try:
        yield
    finally:
        if device.type == "cuda":
            torch.set_float32_matmul_precision(products)
            torch.backends.cudnn.allow_tf32 = convolutions


def _round_factors(mixed: bool) -> None:
    """Let products and convolutions in fp32 round their factors to TF32, or not."""
    torch.set_float32_matmul_precision("high" if mixed else "highest")
    torch.backends.cudnn.allow_tf32 = mixed
