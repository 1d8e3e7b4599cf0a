"""A GPU that is there and not used: why, and what to do."""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch

from tcc_fast.distributed import told_to_use_cpu


def idle_gpu(device: torch.device, root: Path = Path("/")) -> str | None:
    """Why torch leaves an NVIDIA GPU alone that this machine has, and what to do; None if it has none, or was told to.

    Args:
        device: what is computed on.
        root: of the file system.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    told = told_to_use_cpu() or visible in ("", "-1", "NoDevFiles")  # the last by Slurm
    if device.type != "cpu" or told or not any(root.glob("proc/driver/nvidia/gpus/*")):
        return None
    if visible is not None:
        why = f"CUDA_VISIBLE_DEVICES={visible} names none that torch {torch.__version__} can use"
    elif torch.version.cuda is None:
        why = f"torch {torch.__version__} is built without CUDA: install one that is built with it"
    elif not any(root.glob("dev/nvidia[0-9]*")):
        why = "this container may not see it: start it with --gpus all, or as your scheduler asks for GPUs"
    else:
        release = re.search(r"\b\d{3,}\.\d+[.\d]*", _text(root / "proc/driver/nvidia/version"))
        driver = f"the driver {release.group()}" if release else "its driver"
        why = (
            f"{driver} may be too old for torch {torch.__version__}: update it, or install a torch that is built for "
            f"an older CUDA than {torch.version.cuda}"
        )
    return f"this machine has an NVIDIA GPU that is not used, since {why}"


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
