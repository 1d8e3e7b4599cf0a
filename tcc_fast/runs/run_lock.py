"""One training at a time: the lock on a run's folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import TextIO

from tcc_fast.distributed import decide

LOCK_FILE = ".lock"

_held: set[TextIO] = set()


def _let_go_in_child() -> None:
    """Let go of the lock in a forked child (a DataLoader's worker), which would hold it for some seconds longer."""
    for file in _held:
        file.close()
    _held.clear()


os.register_at_fork(after_in_child=_let_go_in_child)


class RunLock:
    """Holds a run's folder, which it makes if need be, while it is entered; a matter of all ranks.

    The main rank holds the lock. It goes with the process, so one that was killed leaves none behind. A folder that was
    made here and got nothing in it is removed again. File systems without locks are used without.

    Raises:
        ValueError: another process trains into the folder.
    """

    def __init__(self, run: Path) -> None:
        self.run = run
        self._file: TextIO | None = None
        self._made = False

    def __enter__(self) -> RunLock:
        decide(self._take)
        return self

    def _take(self) -> None:
        self._made = not self.run.exists()
        self.run.mkdir(parents=True, exist_ok=True)
        path = self.run / LOCK_FILE
        file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            file.close()
            raise ValueError(
                f"another training (process {holder}) writes to {self.run}: wait for its end, or choose another --out"
            ) from None
        except OSError:  # this file system has no locks
            pass
        try:
            file.truncate(0)
            file.write(f"{os.getpid()} on {os.uname().nodename}\n")
            file.flush()
        except OSError as error:
            with contextlib.suppress(OSError):  # which would try to write once more
                file.close()
            raise ValueError(f"{path} cannot be written ({error.strerror}): make room, or change --out") from None
        self._file = file
        _held.add(file)

    def __exit__(self, *error: object) -> None:
        if self._file is None:  # not the main rank
            return
        _held.discard(self._file)
        if self._made and [path.name for path in self.run.iterdir()] == [LOCK_FILE]:
            (self.run / LOCK_FILE).unlink()
            self.run.rmdir()
        self._file.close()
