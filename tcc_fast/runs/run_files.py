"""What a run has in its folder from its first moment on: its settings, and which data set it is of."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from tcc_fast.config import load_config
from tcc_fast.settings import Config
from tcc_fast.whole_file import write_whole

CONFIG_FILE = "config.yaml"
DATA_FILE = "data.json"
METRICS_FILE = "metrics.jsonl"


def write_run_files(run: Path, config: Config, data: Path) -> None:
    """Write config.yaml and then data.json: where that is, a run can be continued.

    A config.yaml that says the same already stays as it is, comments and all.

    Raises:
        OSError: there is no room, or no right to write.
    """
    if not _says(run / CONFIG_FILE, config):
        write_whole(run / CONFIG_FILE, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    write_whole(run / DATA_FILE, json.dumps({"path": str(data)}) + "\n")


def read_data(run: Path) -> Path:
    """The data set folder that a run was begun with.

    Raises:
        ValueError: the file says nothing of it.
    """
    try:
        return Path(json.loads((run / DATA_FILE).read_text(encoding="utf-8"))["path"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(f"{run / DATA_FILE} does not say where the data set is: name it with --data") from None


def _says(file: Path, config: Config) -> bool:
    try:
        return file.is_file() and load_config(str(file)) == config
    except ValueError:
        return False
