"""Compiling Triton's kernels for GPUs that are not there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CAPABILITIES = [75, 80, 90, 120]
SHARED = 64 * 2**10
"""Bytes that a program may share on every one of them."""


class AbsentGpu:
    """What Triton asks of a driver when it compiles."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


class Kernels:
    """Stand-ins for kernels of a module: what would be launched is compiled, and that is all."""

    def __init__(
        self, module: Any, names: list[str], capability: int, monkeypatch: pytest.MonkeyPatch, cache: Path
    ) -> None:
        import triton

        monkeypatch.setenv("TRITON_CACHE_DIR", str(cache))
        monkeypatch.setattr(triton.runtime.driver, "_active", AbsentGpu(capability))
        self.compiled: list[Any] = []
        for name in names:
            monkeypatch.setattr(module, name, _Launches(getattr(module, name), self.compiled))

    def check(self, count: int) -> None:
        """That so many were compiled to machine code, for no more memory than there is."""
        assert len(self.compiled) == count
        for kernel in self.compiled:
            assert kernel.asm["cubin"]
            assert kernel.metadata.shared <= SHARED


class _Launches:
    def __init__(self, kernel: Any, compiled: list[Any]) -> None:
        self.kernel, self.compiled = kernel, compiled

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return self._launch

    def _launch(self, *arguments: Any, **constants: Any) -> None:
        self.kernel.device_caches.clear()  # Triton takes it that a device stays what it is
        self.compiled.append(self.kernel.warmup(*arguments, grid=(1,), **constants))
        self.kernel.device_caches.clear()
