"""Safetensors files with the rights that files have here."""

from __future__ import annotations

import os
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write contiguous tensors on the CPU; the library's own file is for nobody but its owner, whatever the umask."""
    save_file(tensors, path)
    umask = os.umask(0o077)  # the only way to ask; until it is put back, other threads' files are private at most
    os.umask(umask)
    path.chmod(0o666 & ~umask)
