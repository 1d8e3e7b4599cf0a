"""The live display of a training run: a panel on a terminal, plain lines anywhere else."""

from __future__ import annotations

import contextlib
import os
import time
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table


class PatientConsole(Console):
    """A console that goes silent when standard output is closed, where rich would end the training."""

    def on_broken_pipe(self) -> None:
        """Go silent, instead of leaving the process, as rich does."""
        self.quiet = True
        with contextlib.suppress(OSError, ValueError):  # one that is no file
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        """Write what is there, also what rich's thread has drawn."""
        try:
            super().__exit__(kind, error, trace)
        except OSError:  # the terminal is gone
            self.on_broken_pipe()


class Display:
    """Shows a run. On ranks other than the first it shows nothing.

    Args:
        total_steps: of the whole run.
        epochs: of the whole run.
        done_steps: done already, in a run that continues.
        active: False shows nothing.
        console: where to; default: standard output.
    """

    def __init__(
        self, total_steps: int, epochs: int, done_steps: int = 0, active: bool = True, console: Console | None = None
    ) -> None:
        self.console = console or PatientConsole(highlight=False)
        self.total_steps, self.epochs, self.active = total_steps, epochs, active
        self._seen: tuple[int, float] | None = None  # step and time of the line before
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
        )
        self._task = self._progress.add_task("steps", total=total_steps, completed=done_steps)
        self._table: RenderableType = ""
        live = active and self.console.is_terminal and not self.console.is_dumb_terminal
        self._live = Live(console=self.console, refresh_per_second=4, get_renderable=self._render) if live else None

    def __enter__(self) -> Display:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def say(self, sentence: str) -> None:
        """Print a sentence above the panel."""
        if self.active:
            self.console.print(sentence, markup=False, soft_wrap=True)

    def alarm(self, sentence: str) -> None:
        """Print a warning."""
        if self.active:
            self.console.print(f"warning: {sentence}", style="bold yellow", markup=False, soft_wrap=True)

    def update(self, line: dict[str, float]) -> None:
        """Show one logged line."""
        if not self.active:
            return
        step = int(line["step"])
        if self._live:
            self._progress.update(self._task, completed=step)
            self._table = _panel(line, self.epochs)
            return
        left = self._time_left(step)
        self.console.print(
            f"epoch {_epoch(line, self.epochs)} step {step}/{self.total_steps} loss {line['loss']:.3f} "
            f"(instance {line['loss_instance']:.3f} cluster {line['loss_cluster']:.3f} "
            f"kl {line['kl_uniform']:.3f}) entropy {line['entropy']:.2f} of mean {line['entropy_mean']:.2f} "
            f"clusters {line['smallest_cluster']:.1%}-{line['largest_cluster']:.1%} "
            f"{line['images_per_second']:.0f} img/s{left}",
            markup=False,
            soft_wrap=True,
        )

    def _time_left(self, step: int) -> str:
        now, before = time.perf_counter(), self._seen
        self._seen = (step, now)
        if before is None or step <= before[0]:
            return ""
        return f" {duration((self.total_steps - step) * (now - before[1]) / (step - before[0]))} left"

    def _render(self) -> RenderableType:
        return Group(self._table, self._progress)


def _epoch(line: dict[str, float], epochs: int) -> str:
    """An epoch as shown: counted from 1, as steps are; metrics.jsonl counts epochs from 0."""
    return f"{line['epoch'] + 1:.0f}/{epochs}"


def _panel(line: dict[str, float], epochs: int) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_row("epoch", _epoch(line, epochs), "learning rate", f"{line['lr']:.2e}")
    table.add_row("loss", f"{line['loss']:.4f}", "images / s", f"{line['images_per_second']:.0f}")
    table.add_row("  instance", f"{line['loss_instance']:.4f}", "entropy of π", f"{line['entropy']:.3f}")
    table.add_row("  cluster", f"{line['loss_cluster']:.4f}", "entropy of mean π", f"{line['entropy_mean']:.3f}")
    table.add_row(
        "  KL to uniform",
        f"{line['kl_uniform']:.4f}",
        "smallest, largest cluster",
        f"{line['smallest_cluster']:.1%}, {line['largest_cluster']:.1%}",
    )
    return table


def duration(seconds: float) -> str:
    """Seconds as people say them: 2h05m, 3m07s."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"
