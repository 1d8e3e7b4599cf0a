"""Files to be written, looked at before the work: they can be, and nothing that is wanted is lost by it."""

from __future__ import annotations

import os
from pathlib import Path

from tcc_fast.datasets.manifest import MANIFEST_FILE
from tcc_fast.own_pictures import refuse_picture
from tcc_fast.runs.checkpoint_folder import STATE_FILE
from tcc_fast.runs.run_files import CONFIG_FILE, DATA_FILE, METRICS_FILE

WHOLE = {MANIFEST_FILE: "a data set", STATE_FILE: "a checkpoint"}
"""What is all there is in a folder where this file is."""
OF_RUN = (CONFIG_FILE, DATA_FILE, METRICS_FILE)


def check_outputs(*files: Path | None) -> None:
    """Check that outputs can be written, and replace neither pictures nor what data sets and runs consist of.

    Raises:
        ValueError: says what stands against it; minutes of work are still to come.
    """
    for file in filter(None, files):
        folder = file.absolute().parent
        if not folder.is_dir():
            raise ValueError(f"{file}: the folder {file.parent} does not exist; make it first")
        if file.is_dir():
            raise ValueError(f"{file}: is a folder; name a file to write")
        refuse_picture(file)
        parts = [what for mark, what in WHOLE.items() if (folder / mark).is_file()]
        parts += ["a run"] if file.name in OF_RUN and (folder / DATA_FILE).is_file() else []
        if parts and file.exists():
            raise ValueError(f"{file}: is part of {parts[0]}, and would be written over; name another file")
        in_place = file.exists() and not file.is_file()  # a pipe, as `write_whole` writes it
        if not os.access(file if in_place else file.resolve().parent, os.W_OK):
            raise ValueError(f"{file}: cannot be written there; name another place")
