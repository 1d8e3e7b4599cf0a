"""``metrics.jsonl``: what a run has reported, line by line."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from tcc_fast.whole_file import write_whole


class MetricsFile:
    """``metrics.jsonl``: one object per logged step."""

    def __init__(self, path: Path, resumed_step: int) -> None:
        """Open for appending, after dropping the lines after ``resumed_step``, which will be written again."""
        kept = []
        if resumed_step and path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    if json.loads(line)["step"] <= resumed_step:
                        kept.append(line)
                except (ValueError, KeyError, TypeError):  # the half line of a killed run
                    continue
        write_whole(path, "".join(line + "\n" for line in kept))
        self._path, self._file = path, path.open("a", encoding="utf-8")

    def write(self, values: dict[str, Any]) -> None:
        """Append one object."""
        try:
            self._file.write(json.dumps(values) + "\n")
            self._file.flush()
        except OSError as error:
            raise ValueError(
                f"{self._path} cannot be written ({error.strerror}); checkpoints are untouched. Make room, and "
                "continue with --resume"
            ) from error

    def mean_loss(self, first: int) -> float | None:
        """Mean of `loss` over all steps from ``first`` on, counted from 0; None if there are none.

        A line is the mean over the steps since the one before it. If it began before ``first``, it counts for as many
        steps as it has from there on.
        """
        before, total, count = 0, 0.0, 0
        for text in self._path.read_text(encoding="utf-8").splitlines():
            line = json.loads(text)
            if (steps := line["step"] - max(before, first)) > 0:
                total, count = total + steps * line["loss"], count + steps
            before = line["step"]
        return total / count if count else None

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(OSError):  # what could not be written has been said
            self._file.close()
