"""How far a conversion is: a bar on a terminal, a plain line now and then elsewhere. Always on stderr."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

SECONDS_BETWEEN_LINES = 30.0
Advance = Callable[[int], None]


@contextlib.contextmanager
def show_progress(title: str, count: Callable[[], int | None], enabled: bool, unit: str = "files") -> Iterator[Advance]:
    """Yields a function to be called with the number of items (`unit`) done so far.

    `count` gives the number of items to come; it is asked only where a bar is drawn, since it may be slow.
    """
    if not enabled:
        yield lambda done: None
        return
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_terminal:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(title, total=count())
            yield lambda done: bar.update(task, completed=done)
        return
    next_line = time.monotonic() + SECONDS_BETWEEN_LINES

    def line(done: int) -> None:
        nonlocal next_line
        if time.monotonic() >= next_line:
            next_line = time.monotonic() + SECONDS_BETWEEN_LINES
            print(f"{title}: {done} {unit} done", file=sys.stderr, flush=True)

    yield line
