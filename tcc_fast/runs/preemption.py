"""SIGTERM, by which schedulers announce that they will kill, SIGHUP of a terminal that is closed, and Ctrl-C: a
checkpoint, and an exit code for each."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the command line imports this file, and torch takes seconds
    import torch

NAMES = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C", signal.SIGHUP: "SIGHUP"}
EXIT_CODES = {"SIGTERM": 75, "Ctrl-C": 130, "SIGHUP": 129}
"""EX_TEMPFAIL of sysexits.h: start the same command again; and what shells give for the others."""
ECHO = 2.0
"""Seconds in which another Ctrl-C is the same one: launchers hand on theirs, which a terminal has told all already."""

WORD = b"\ntcc-fast: stopping after this step, with a checkpoint; Ctrl-C again stops at once, without one\n"
"""The answer to Ctrl-C."""


class Preempted(Exception):
    """The run stopped because it was asked to; ``checkpoint`` is where it will go on.

    Args:
        checkpoint: of the run.
        advice: how to go on, when it is not that run alone.
        by: who asked, one of `EXIT_CODES`.
    """

    def __init__(self, checkpoint: Path, advice: str = "continue with --resume", by: str = "SIGTERM") -> None:
        super().__init__(f"stopped by {by}; {advice}: everything is in {checkpoint}")
        self.checkpoint, self.by = checkpoint, by


class Preemption:
    """Listens for SIGTERM, SIGHUP and Ctrl-C while it is entered; without effect outside the main thread.

    A second Ctrl-C interrupts at once, as it does where nothing listens. What is ignored, as by nohup, stays so.
    """

    def __init__(self, device: torch.device, agree_every: int) -> None:
        self.device, self.agree_every = device, agree_every
        self.by: str | None = None
        self._since = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Preemption:
        if threading.current_thread() is threading.main_thread():
            self._before = {signal.SIGTERM: signal.signal(signal.SIGTERM, self._hear)}
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                self._before[signal.SIGINT] = signal.signal(signal.SIGINT, self._hear)
            if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
                self._before[signal.SIGHUP] = signal.signal(signal.SIGHUP, self._hear)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.by is None:
            if number == signal.SIGINT and os.environ.get("RANK", "0") == "0":
                with contextlib.suppress(OSError):
                    os.write(2, WORD)  # whatever print was interrupted: a step that is compiled takes minutes
            self.by, self._since = NAMES[signal.Signals(number)], time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._since > ECHO:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def shielded(self) -> Iterator[None]:
        """A context whose child processes, as compilers at work, hear none of it, though a terminal tells all.

        They inherit what this thread blocks; another thread listens meanwhile, so that this one is told as ever.
        """
        if not self._before:
            yield
            return
        over = threading.Event()
        listener = threading.Thread(target=over.wait, name="signal-listener")
        listener.start()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, self._before)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            over.set()
            listener.join()

    def stopped(self, checkpoint: Path) -> Preempted:
        """The exception to raise when a checkpoint is written."""
        return Preempted(checkpoint, by=self.by or "SIGTERM")

    def agreed(self, step: int) -> bool:
        """Whether to stop after this step. Ranks hear it at different moments, so they ask each other now and then."""
        from tcc_fast.distributed import max_over_ranks_, world_size

        if world_size() == 1:
            return self.by is not None
        if step % self.agree_every:
            return False
        import torch

        return bool(max_over_ranks_(torch.tensor(int(self.by is not None), device=self.device)).item())
