"""All of a checkpoint that is not a tensor: ``state.json``, which also vouches for the files beside it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tcc_fast.config import config_from_tree
from tcc_fast.on_disk import sha256_of
from tcc_fast.runs.checkpoint_folder import STATE_FILE
from tcc_fast.settings import Config

FORMAT_VERSION = 2


@dataclass(frozen=True)
class RunState:
    """All of a run that is not a tensor."""

    step: int
    """Steps done."""
    pipeline: dict[str, int]
    """Where the next batch comes from."""
    config: Config
    """Complete: ``model.num_clusters`` is set."""
    dataset: dict[str, Any]
    """Name, number of images, fingerprint, mean, std and path of the data set that was trained on."""
    backend: str
    """Name of the pipeline that made the views."""
    loss: float | None
    """Mean loss of the epoch that ended here; None within an epoch, and while epochs cannot be compared."""
    precision: str
    """What was computed in, a `Precision`."""
    loss_scale: dict[str, Any]
    """State of the scaler of gradients; empty unless it is fp16."""


def write_state(checkpoint: Path, state: RunState, digests: dict[str, str]) -> Path:
    """Write ``state.json``, with the sha256 of every other file by its name; returns its path."""
    content = {
        "format_version": FORMAT_VERSION,
        "step": state.step,
        "pipeline": state.pipeline,
        "dataset": state.dataset,
        "backend": state.backend,
        "loss": state.loss,
        "precision": state.precision,
        "loss_scale": state.loss_scale,
        "config": state.config.model_dump(mode="json"),
        "sha256": dict(sorted(digests.items())),
    }
    path = checkpoint / STATE_FILE
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return path


def read_state(checkpoint: Path) -> RunState:
    """All of a checkpoint that is not a tensor, after checking every file's sha256.

    Raises:
        ValueError: a file is missing, damaged, or of another format version; names the file.
    """
    path = checkpoint / STATE_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content["format_version"]
        if version != FORMAT_VERSION:
            raise ValueError(f"{path} is of format version {version}, this tcc-fast reads {FORMAT_VERSION}")
        for name, digest in content["sha256"].items():
            file = checkpoint / name
            if not file.is_file():
                raise ValueError(f"{file} is missing: take another checkpoint")
            if sha256_of(file) != digest:
                raise ValueError(f"{file} is damaged (its sha256 differs): take another checkpoint")
        return RunState(
            step=content["step"],
            pipeline=content["pipeline"],
            dataset=content["dataset"],
            config=config_from_tree(content["config"]),
            backend=content["backend"],
            loss=content["loss"],
            precision=content["precision"],
            loss_scale=content["loss_scale"],
        )
    except OSError as error:
        raise ValueError(
            f"{error.filename or path} cannot be read ({error.strerror}): mend that, or take another checkpoint"
        ) from None
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} cannot be read ({error!r}): take another checkpoint") from None
