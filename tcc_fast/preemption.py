"""SIGTERM, by which schedulers announce that they will kill: a checkpoint, and an exit code that says so."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the command line imports this file, and torch takes seconds
    import torch

EXIT_CODE = 75
"""EX_TEMPFAIL of sysexits.h: start the same command again."""


class Preempted(Exception):
    """The run stopped because it was asked to; ``checkpoint`` is where it will go on.

    Args:
        checkpoint: of the run.
        advice: how to go on, when it is not that run alone.
    """

    def __init__(self, checkpoint: Path, advice: str = "continue with --resume") -> None:
        super().__init__(f"stopped by SIGTERM; {advice}: everything is in {checkpoint}")
        self.checkpoint = checkpoint


class Preemption:
    """Listens for SIGTERM while it is entered; without effect outside the main thread."""

    def __init__(self, device: torch.device, agree_every: int) -> None:
        self.device, self.agree_every = device, agree_every
        self.heard = False
        self._before: Any = None

    def __enter__(self) -> Preemption:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._hear)
        return self

    def __exit__(self, *error: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.heard = True

    def agreed(self, step: int) -> bool:
        """Whether to stop after this step. Ranks hear it at different moments, so they ask each other now and then."""
        from tcc_fast.distributed import max_over_ranks_, world_size

        if world_size() == 1:
            return self.heard
        if step % self.agree_every:
            return False
        import torch

        return bool(max_over_ranks_(torch.tensor(int(self.heard), device=self.device)).item())
