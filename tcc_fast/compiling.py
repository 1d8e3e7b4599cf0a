"""Whether steps are compiled, and for want of what they are not."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path

import torch

from tcc_fast.distributed import gather_objects


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


def why_not_compiled(choice: str, mode: str, device: torch.device) -> str | None:
    """What a user of a GPU should know of `train.compile=auto`, if it is off. A matter of all ranks."""
    if (choice, mode, device.type) != ("auto", "off", "cuda"):
        return None
    return f"steps are not compiled for want of {compiler_lacks(device)}: slower, but the same"


def compiler_lacks(device: torch.device) -> str | None:
    """What torch.compile needs on a CUDA GPU and one of the ranks does not find; None if all find all.

    A matter of all ranks, which exchange what they compute within compiled code, and so compile together or not at all.
    """
    return next(filter(None, gather_objects(_lacking_here(device))), None)


def _lacking_here(device: torch.device) -> str | None:
    """What this process does not find, or None. Triton builds its launcher in C, and is asked here for its parts."""
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
