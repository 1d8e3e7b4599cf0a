"""From what a user typed to what is run: which data, which config, which folder. Bare forms find their own."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tcc_fast.config import built_in_names, load_config, parse_override
from tcc_fast.datasets.manifest import MANIFEST_FILE, read_manifest
from tcc_fast.distributed import decide, processes
from tcc_fast.own_pictures import refuse_pictures
from tcc_fast.runs.checkpoint_folder import find_checkpoint, path_of, point_link
from tcc_fast.runs.run_files import CONFIG_FILE, DATA_FILE, read_data
from tcc_fast.runs.seeds_folder import refuse_seeds
from tcc_fast.settings import Config
from tcc_fast.train import Resume

DATA, RUNS = Path("data"), Path("runs")


@dataclass(frozen=True)
class Plan:
    """A run to be made."""

    config: Config
    data: Path
    run: Path
    resume: Resume
    checkpoint: Path | None
    """The checkpoint to continue, when one was named."""


def plan_run(config: str | None, data: Path | None, out: Path | None, resume: str | None, overrides: list[str]) -> Plan:
    """Decide on data, config and folder, for all processes.

    Args:
        config: name or file; None: that of the run to continue; else the built-in one named as the data set, or
            `folder`.
        data: data set folder; None: that of the run to continue, else the only one under data/.
        out: run folder; None: runs/NAME-DATE-TIME.
        resume: None, `auto`, `latest`, a run or one of its checkpoints.
        overrides: KEY=VALUE.

    Raises:
        ValueError: something is missing or ambiguous; says how to choose.
    """
    for override in overrides:
        parse_override(override)  # before a data set is looked for, which may stand among them
    processes()  # from here on, several of them know of each other
    if resume not in (None, "auto"):
        return decide(lambda: _continuation(resume, config, data, out, overrides))
    return decide(lambda: _beginning(config, data, out, resume, overrides))


def _beginning(
    config: str | None, data: Path | None, out: Path | None, resume: str | None, overrides: list[str]
) -> Plan:
    if resume == "auto":
        if out is None:
            raise ValueError("--resume auto needs --out RUN: the folder to continue if it is there, or to start")
        if begun := _begun(out):  # also one that was killed before its first checkpoint
            config, data = config or str(begun / CONFIG_FILE), data or read_data(begun)
    data = data or _only_dataset()
    name = read_manifest(data)[0].name
    config = config or (name if name in built_in_names() else "folder")
    settings = load_config(config, overrides)
    if out is None:
        out = RUNS / f"{data.resolve().name}-{time.strftime('%Y%m%d-%H%M%S')}"
    elif not _begun(out):
        refuse_pictures("--out", out)
    return Plan(settings, data, out, "auto" if resume else "no", None)


def _continuation(resume: str, config: str | None, data: Path | None, out: Path | None, overrides: list[str]) -> Plan:
    refuse_seeds(path_of(resume))  # of which only the best would be continued
    checkpoint = find_checkpoint(resume)
    if checkpoint.resolve().parent.name != "checkpoints":
        raise ValueError(f"{checkpoint} lies in no run folder, so it cannot be continued; it can be evaluated")
    run = checkpoint.resolve().parent.parent
    if out is not None and out.resolve() != run:
        raise ValueError(f"--resume {resume} continues in {run}: leave --out away, or make it the same")
    settings = load_config(config or str(run / CONFIG_FILE), overrides)
    # Of a run, the newest is looked for when its lock is held: the one before may still be writing.
    named = checkpoint if Path(resume).resolve() == checkpoint.resolve() else None
    return Plan(settings, data or read_data(run), run, "must", named)


def _begun(out: Path) -> Path | None:
    """A run, or one of several seeds, that was begun in a folder."""
    candidates = [out, *sorted(out.glob("seed-*"))]
    return next((run for run in candidates if (run / DATA_FILE).is_file()), None)


def _only_dataset() -> Path:
    found = sorted(path.parent for path in DATA.glob(f"[!.]*/{MANIFEST_FILE}"))
    if len(found) == 1:
        return found[0]
    if found:
        choices = ", ".join(str(path) for path in found)
        raise ValueError(f"there are several data sets: {choices}. Choose one with --data {found[0]}")
    raise ValueError(
        "there is no data set under data/: make one with `tcc-fast convert digits`, "
        "or from your own images with `tcc-fast convert folder --src IMAGES`"
    )


def point_latest_at(run: Path) -> None:
    """Make runs/latest a link to the run; a run does not fail for want of it."""
    try:
        RUNS.mkdir(exist_ok=True)
        point_link(RUNS / "latest", os.path.relpath(run.resolve(), RUNS.resolve()))
    except OSError as error:
        print(f"warning: runs/latest could not be set ({error.strerror}); name the run by its folder", file=sys.stderr)
