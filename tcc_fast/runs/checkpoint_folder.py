"""Which checkpoints a run has, which of them it keeps, and how to find one."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

STATE_FILE = "state.json"
BEST = "best"
"""In ``checkpoints/`` the one with the lowest loss; beside several seeds the one that was chosen."""


def list_checkpoints(run: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    found = (run / "checkpoints").glob("step-*")
    return sorted(path for path in found if re.fullmatch(r"step-\d+", path.name) and (path / STATE_FILE).is_file())


def find_checkpoint(where: str | Path) -> Path:
    """The checkpoint folder that a run, the best of several seeds, a checkpoint folder or the word `latest` means.

    Raises:
        ValueError: there is none.
    """
    path = path_of(where)
    if (path / STATE_FILE).is_file():
        return path
    found = list_checkpoints(path)
    if found:
        return found[-1]
    if (path / BEST).is_dir():  # several seeds
        return find_checkpoint(path / BEST)
    if not path.exists():
        raise ValueError(f"no checkpoint at {path}: the folder does not exist")
    if seeds := sorted(path.glob("seed-*/checkpoints")):
        raise ValueError(f"{path} holds several seeds, of which none is chosen yet: name one, as {seeds[0].parent}")
    if (path / "metrics.jsonl").is_file():
        raise ValueError(f"no checkpoint at {path} yet: start that run again with --resume auto --out {path}")
    raise ValueError(
        f"no checkpoint at {path}: expected a run (with checkpoints/step-*/) or one of its checkpoint folders"
    )


def path_of(where: str | Path) -> Path:
    """A path, or what the word `latest` means: where runs/latest leads, which messages then name."""
    if str(where) != "latest":
        return Path(where)
    link = Path("runs/latest")
    return Path(os.path.normpath(link.parent / link.readlink())) if link.is_symlink() else link


def are_of_one_run(checkpoints: Iterable[Path]) -> bool:
    """Whether checkpoints are moments of one run; False: each is of a run of its own.

    Raises:
        ValueError: neither, or one is there twice.
    """
    found = [checkpoint.resolve() for checkpoint in checkpoints]
    if twice := next((one for one in found if found.count(one) > 1), None):
        raise ValueError(
            f"the same checkpoint is named twice: {twice} (checkpoints/best and runs/latest are links): name each once"
        )
    runs = {checkpoint.parent for checkpoint in found}
    if 1 < len(runs) < len(found):
        raise ValueError(
            "some of these checkpoints are of the same run: name one of each run, for their mean and deviation, or "
            "several of a single run, for its course"
        )
    return len(runs) == 1


def drop_later_checkpoints(run: Path, step: int, say: Callable[[str], None] = lambda sentence: None) -> None:
    """Remove the checkpoints after ``step``: the run goes on from there, and they are no longer part of it.

    ``say`` is told which, before they go.
    """
    later = [path for path in list_checkpoints(run) if int(path.name.removeprefix("step-")) > step]
    if later:
        checkpoints = "1 later checkpoint is" if len(later) == 1 else f"{len(later)} later checkpoints are"
        names = ", ".join(path.name for path in later)
        say(f"{checkpoints} removed ({names}), and what metrics.jsonl has after step {step}")
    best = run / "checkpoints" / BEST
    for path in later:
        if best.resolve() == path.resolve():
            best.unlink()
        remove_checkpoint(path)


def keep_newest(run: Path, keep: int) -> None:
    """Point ``checkpoints/best`` at the lowest loss, and remove what is neither that nor among the newest ``keep``."""
    found = list_checkpoints(run)
    losses = {path: loss for path in found if (loss := _loss_of(path)) is not None}
    best = min(losses, key=lambda path: losses[path], default=None)
    if best:
        point_link(run / "checkpoints" / BEST, best.name)
    for old in found[:-keep]:
        if old != best:
            remove_checkpoint(old)


def remove_checkpoint(checkpoint: Path) -> None:
    """Remove a checkpoint; out of sight first, so that a kill in between leaves no half one."""
    hidden = checkpoint.with_name(f".partial-{checkpoint.name}-removed")
    checkpoint.rename(hidden)
    shutil.rmtree(hidden)


def point_link(link: Path, target: str) -> None:
    """Make ``link`` a symbolic link to ``target``, whatever it was; it is never missing meanwhile."""
    fresh = link.with_name(f".{link.name}-{os.getpid()}")
    fresh.unlink(missing_ok=True)
    try:
        fresh.symlink_to(target)
        fresh.replace(link)
    finally:
        fresh.unlink(missing_ok=True)


def _loss_of(checkpoint: Path) -> float | None:
    try:
        loss = json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))["loss"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # there is none, or it is damaged
    return loss if isinstance(loss, float) else None
