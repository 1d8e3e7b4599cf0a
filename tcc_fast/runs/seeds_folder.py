"""A folder of several seeds is no run of its own: how to tell, and how to go on with it."""

from __future__ import annotations

from pathlib import Path

from tcc_fast.runs.checkpoint_folder import list_checkpoints


def holds_seeds(folder: Path) -> bool:
    """Whether several seeds were trained into a folder, and no run of its own."""
    return not list_checkpoints(folder) and any(folder.glob("seed-*/config.yaml"))


def how_to_continue_seeds(folder: Path) -> str:
    """What to do with a folder that `holds_seeds`."""
    return f"continue all seeds with the same command and --resume auto --out {folder}"


def refuse_seeds(folder: Path) -> None:
    """Raise ValueError for a folder that `holds_seeds`, where a single run is needed."""
    if holds_seeds(folder):
        raise ValueError(f"{folder} holds several seeds, not a single run: {how_to_continue_seeds(folder)}")
