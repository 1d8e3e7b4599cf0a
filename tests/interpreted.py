"""Triton's kernels taken as numpy, by a process of its own: that is decided when Triton is imported."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
Calls = tuple[str, str, list[tuple[Any, ...]]]
"""A module, something in it to call, and arguments for it, then for what it returns, and so on."""


def interpret(cases: dict[str, Calls], folder: Path) -> dict[str, Any]:
    """What each returns. ``folder``: for what is exchanged."""
    torch.save(cases, folder / "cases.pt")
    command = [sys.executable, "-m", "tests.interpreted", str(folder / "cases.pt"), str(folder / "results.pt")]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    subprocess.run(command, env=environment, cwd=ROOT, check=True)  # this tree's code, whatever else is installed
    results: dict[str, Any] = torch.load(folder / "results.pt")
    return results


def _call(module: str, name: str, arguments: list[tuple[Any, ...]]) -> Any:
    found = getattr(importlib.import_module(module), name)
    for given in arguments:
        found = found(*given)
    return found


if __name__ == "__main__":
    warnings.simplefilter("error")
    given: dict[str, Calls] = torch.load(sys.argv[1], weights_only=False)
    torch.save({case: _call(*calls) for case, calls in given.items()}, sys.argv[2])
