"""Checkpoints: a folder of safetensors and JSON, written beside and renamed. Nothing is ever unpickled.

A run's folder holds ``checkpoints/step-XXXXXXXXX/`` with

- ``model.safetensors``: θ, all that inference needs; keys are the plain module names;
- ``twin.safetensors``: θ̂, batch-norm statistics included;
- ``queues.safetensors``: P and Q with their positions;
- ``optimizer.safetensors``: the optimiser's state, as ``parameter name:entry``;
- ``rng.safetensors``: torch's generators;
- ``state.json``: step, pipeline state, config, data set, and the sha256 of every other file.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tcc_fast.config import Config, config_from_tree
from tcc_fast.model import TCC
from tcc_fast.step import Queues

FORMAT_VERSION = 1
STATE_FILE = "state.json"


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


def save_checkpoint(
    run: Path, state: RunState, model: TCC, twin: TCC, queues: Queues, optimizer: torch.optim.Optimizer, keep: int
) -> Path:
    """Write a checkpoint of ``state.step`` into ``run/checkpoints`` and remove all but the newest ``keep``.

    The folder appears under its name only when every file in it is complete and on disk.

    Raises:
        ValueError: it cannot be written (a full disk, a read-only folder); earlier checkpoints are untouched.
    """
    try:
        return _write(run, state, model, twin, queues, optimizer, keep)
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{run / 'checkpoints'}: step {state.step} could not be written ({error}); earlier checkpoints are "
            "untouched. Make room, or make the folder writable, and continue with --resume"
        ) from error


def _write(
    run: Path, state: RunState, model: TCC, twin: TCC, queues: Queues, optimizer: torch.optim.Optimizer, keep: int
) -> Path:
    parent = run / "checkpoints"
    parent.mkdir(parents=True, exist_ok=True)
    for leftover in parent.glob(".partial-*"):  # of a run that was killed while writing
        shutil.rmtree(leftover)
    final = parent / f"step-{state.step:09d}"
    partial = parent / f".partial-{final.name}"
    partial.mkdir()
    tensors = {
        "model": model.state_dict(),
        "twin": twin.state_dict(),
        "queues": _queue_tensors(queues),
        "optimizer": _optimizer_tensors(model, optimizer),
        "rng": _rng_tensors(),
    }
    digests = {}
    for name, entries in tensors.items():
        path = partial / f"{name}.safetensors"
        save_file({key: tensor.detach().contiguous().cpu() for key, tensor in entries.items()}, path)
        digests[path.name] = _sha256(path)
    content = {
        "format_version": FORMAT_VERSION,
        "step": state.step,
        "pipeline": state.pipeline,
        "dataset": state.dataset,
        "config": state.config.model_dump(mode="json"),
        "sha256": digests,
    }
    (partial / STATE_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    for path in [*partial.iterdir(), partial]:
        _sync_to_disk(path)
    if final.exists():  # the same step again, after a resume
        shutil.rmtree(final)
    partial.rename(final)
    _sync_to_disk(parent)
    for old in list_checkpoints(run)[:-keep]:
        shutil.rmtree(old)
    return final


def list_checkpoints(run: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    return sorted(path for path in (run / "checkpoints").glob("step-*") if (path / STATE_FILE).is_file())


def drop_later_checkpoints(run: Path, step: int) -> None:
    """Remove the checkpoints after ``step``: the run goes on from there, and they are no longer part of it."""
    for path in list_checkpoints(run):
        if int(path.name.removeprefix("step-")) > step:
            shutil.rmtree(path)


def find_checkpoint(where: str | Path) -> Path:
    """The checkpoint folder that a run, a checkpoint folder or the word `latest` means.

    Raises:
        ValueError: there is none.
    """
    path = Path("runs/latest") if str(where) == "latest" else Path(where)
    if (path / STATE_FILE).is_file():
        return path
    found = list_checkpoints(path)
    if found:
        return found[-1]
    if not path.exists():
        raise ValueError(f"no checkpoint at {path}: the folder does not exist")
    raise ValueError(
        f"no checkpoint at {path}: expected a run (with checkpoints/step-*/) or one of its checkpoint folders"
    )


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
            if _sha256(file) != digest:
                raise ValueError(f"{file} is damaged (its sha256 differs): take another checkpoint")
        return RunState(
            step=content["step"],
            pipeline=content["pipeline"],
            dataset=content["dataset"],
            config=config_from_tree(content["config"]),
        )
    except (OSError, json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} cannot be read ({error!r}): take another checkpoint") from None


def load_model(checkpoint: Path, config: Config) -> TCC:
    """θ alone, in evaluation mode, on the CPU: all that inference needs."""
    model = TCC(config.model, config.loss)
    _load_module(model, checkpoint / "model.safetensors")
    return model.eval()


def load_training(checkpoint: Path, model: TCC, twin: TCC, queues: Queues, optimizer: torch.optim.Optimizer) -> None:
    """Put everything that training changes back to where the checkpoint was taken, in place."""
    _load_module(model, checkpoint / "model.safetensors")
    _load_module(twin, checkpoint / "twin.safetensors")
    saved = _load(checkpoint / "queues.safetensors")
    for key, tensor in _queue_tensors(queues).items():
        if saved[key].shape != tensor.shape:
            raise ValueError(f"{checkpoint}: queue {key} is {tuple(saved[key].shape)}, not {tuple(tensor.shape)}")
        tensor.copy_(saved[key])
    _load_optimizer(_load(checkpoint / "optimizer.safetensors"), model, optimizer)
    _set_rng(_load(checkpoint / "rng.safetensors"))


def _load(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read ({error}): take another checkpoint") from None


def _load_module(module: nn.Module, path: Path) -> None:
    try:
        module.load_state_dict(_load(path))
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit the model of its config: {' '.join(str(error).split())}") from None


def _queue_tensors(queues: Queues) -> dict[str, Tensor]:
    parts = {"cluster": queues.cluster, "instance": queues.instance}
    return {f"{name}.{key}": tensor for name, queue in parts.items() for key, tensor in queue.state_dict().items()}


def _optimizer_tensors(model: TCC, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{name}:{entry}": value
        for name, parameter in model.named_parameters()
        for entry, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def _load_optimizer(saved: dict[str, Tensor], model: TCC, optimizer: torch.optim.Optimizer) -> None:
    parameters = dict(model.named_parameters())
    optimizer.state.clear()
    for key, value in saved.items():
        name, _, entry = key.rpartition(":")
        parameter = parameters[name]
        # Moments live beside their parameter; Adam's step counter stays on the CPU unless the update is fused.
        beside = value.ndim > 0 or parameter.is_cuda
        # A copy: what safetensors reads is a map of the file, which may be gone tomorrow.
        optimizer.state[parameter][entry] = value.to(parameter.device if beside else "cpu", copy=True)
        if value.shape == parameter.shape and value.ndim == 4:
            optimizer.state[parameter][entry] = torch.empty_like(parameter).copy_(value)  # keep channels-last


def _rng_tensors() -> dict[str, Tensor]:
    states = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _set_rng(states: dict[str, Tensor]) -> None:
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
