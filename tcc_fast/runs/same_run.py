"""Whether a run continues what a checkpoint began: the same images, and the same settings where they count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tcc_fast.datasets import Dataset
from tcc_fast.runs.first_weights import OF_NETWORK
from tcc_fast.runs.run_state import RunState
from tcc_fast.settings import Config

# What may differ between a run and its continuation: nothing here touches what is computed.
_FREE_KEYS = (
    "data.workers",
    "data.ffcv_cache",
    "train.log_every",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.tensorboard",
)
# What may be changed on purpose, to save a run that goes wrong; it is then no longer the run that was begun.
_CHANGEABLE_KEYS = ("optim.lr", "train.precision", "train.compile")


def describe_dataset(dataset: Dataset) -> dict[str, Any]:
    """What a checkpoint remembers of the data set it was trained on."""
    manifest = dataset.manifest
    return {
        "name": manifest.name,
        "num_images": len(dataset),
        "fingerprint": dataset.fingerprint,
        "mean": list(manifest.mean),
        "std": list(manifest.std),
        "path": str(dataset.path),
    }


def trained_on(saved: RunState, dataset: Dataset) -> bool:
    """Whether a checkpoint was trained on this packed data set, wherever it lies now."""
    return bool(saved.dataset["fingerprint"] == dataset.fingerprint)


def check_same_data(saved: RunState, dataset: Dataset) -> None:
    """See that a checkpoint was trained on this data set, wherever it lies now.

    Raises:
        ValueError: its contents differ.
    """
    if not trained_on(saved, dataset):
        raise ValueError(
            f"the run was trained on {saved.dataset['name']} ({saved.dataset['num_images']} images, "
            f"{saved.dataset['path']}), not on {dataset.path}, whose contents differ: "
            "continue it on its own data set, or start a new run with --out"
        )


def check_same_settings(run: Path, saved: RunState, config: Config) -> list[str]:
    """See that a checkpoint of ``run`` has these settings; returns a sentence on each that was changed and may be.

    Raises:
        ValueError: another one was changed; says which.
    """
    old, new = _flat(saved.config), _flat(config)
    differing = differing_settings(saved.config, config)
    if fixed := [key for key in differing if key not in _CHANGEABLE_KEYS]:
        changes = ", ".join(f"{key} was {old[key]!r}, now {new[key]!r}" for key in fixed)
        of_network = {f"model.{name}" for name in OF_NETWORK}
        weights = "" if of_network & set(fixed) else f", whose first weights may be these: train.init={run}"
        raise ValueError(f"{run} has other settings: {changes}. Use the same, or start a new run with --out{weights}")
    return [f"{key} is {new[key]!r} from here on, and was {old[key]!r}" for key in differing]


def differing_settings(one: Config, other: Config) -> list[str]:
    """Keys of settings that differ and touch what is computed."""
    old, new = _flat(one), _flat(other)
    return [key for key in new if old[key] != new[key] and key not in _FREE_KEYS]


def _flat(config: Config) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in config.model_dump(mode="json").items():
        if isinstance(value, dict):
            flat |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            flat[name] = value
    return flat
