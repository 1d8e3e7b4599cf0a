"""How a device computes: in which precision, how fast at which cost, and whether steps are compiled."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tcc_fast.cores import default_workers
from tcc_fast.distributed import gather_objects


def resolve_precision(choice: str, device: torch.device, before: str | None = None) -> str:
    """`bf16` or `fp32`. `auto` means what it was ``before``, or else bf16 where the device has arithmetic for it.

    Elsewhere bf16 is two to six times slower than fp32 (CPUs), but what has begun in it is not computed otherwise.

    Raises:
        ValueError: it was bf16, and the device cannot compute in it at all.
    """
    if choice != "auto":
        return choice
    if before == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise ValueError(
            f"the checkpoint was trained in bf16, which {device} cannot compute in: use another device, or the CPU "
            "(ACCELERATE_USE_CPU=true)"
        )
    return before or ("bf16" if has_bf16(device) else "fp32")


def has_bf16(device: torch.device) -> bool:
    """Whether the device has arithmetic for bf16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # torch before 2.12 does not say what the CPU can do: fp32 is never slow.
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def tune(device: torch.device, precision: str) -> None:
    """Set what torch keeps for the whole process; nothing on a CPU.

    Beside an encoder in bf16, what stays in fp32 (crops, contrasts) may round its factors to TF32, which has 3 bits
    more. In fp32 nothing may, convolutions included, as they would by torch's default. Batches have one shape, so cuDNN
    may look for its fastest convolutions once.
    """
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high" if precision == "bf16" else "highest")
        torch.backends.cudnn.allow_tf32 = precision == "bf16"
        torch.backends.cudnn.benchmark = True


def cpu_threads(device: torch.device) -> int | None:
    """How many threads what is computed on the CPU may have in a process whose networks are on ``device``.

    Beside a GPU its share of the cores, since launchers set OMP_NUM_THREADS to 1; else None: as many as that says.
    """
    return None if device.type == "cpu" else default_workers()


def view_dtype(bf16: bool) -> torch.dtype:
    """What views are made in, so that the first layer need not convert them."""
    return torch.bfloat16 if bf16 else torch.float32


def compile_mode(choice: str, device: torch.device, processes: int) -> str:
    """`off`, `on` or `graphs`. `auto` is on for CUDA unless :func:`compiler_lacks` something: a matter of all ranks.

    Raises:
        ValueError: CUDA graphs cannot be had here.
    """
    if choice == "auto":
        return "on" if device.type == "cuda" and not compiler_lacks(device) else "off"
    if choice == "graphs" and (device.type != "cuda" or processes > 1):
        raise ValueError("train.compile=graphs needs a CUDA GPU and a single process: use train.compile=on")
    return choice


def compiler_lacks(device: torch.device) -> str | None:
    """What torch.compile needs on a CUDA GPU and one of the ranks does not find; None if all find all.

    A matter of all ranks, which exchange what they compute within compiled code, and so compile together or not at all.
    """
    return next(filter(None, gather_objects(_lacking_here(device))), None)


def _lacking_here(device: torch.device) -> str | None:
    """Of this process. Triton builds its launcher in C; where its parts lie is asked as Triton asks it."""
    major, minor = torch.cuda.get_device_capability(device)
    if major < 7:
        return f"a GPU of compute capability 7.0 (this one has {major}.{minor})"
    if importlib.util.find_spec("triton") is None:
        return "Triton (pip install triton)"
    if not os.environ.get("CC") and not any(shutil.which(name) for name in ("gcc", "clang")):
        return "a C compiler (on Debian: apt install gcc)"
    scheme = sysconfig.get_default_scheme()
    headers = sysconfig.get_paths("posix_prefix" if scheme == "posix_local" else scheme)["include"]
    if not Path(headers, "Python.h").exists():
        return f"Python.h in {headers} (on Debian: apt install python3-dev)"
    return None
