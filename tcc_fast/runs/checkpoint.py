"""Checkpoints: a folder of safetensors and JSON, written beside and renamed. Nothing is ever unpickled.

A run's folder holds ``checkpoints/step-XXXXXXXXX/`` with

- ``model.safetensors``: θ, all that inference needs; keys are the plain module names;
- ``twin.safetensors``: θ̂, batch-norm statistics included;
- ``queues.safetensors``: P, and how many keys Q was ever given;
- ``queue-RRRRR-of-WWWWW.safetensors``: the shard of Q at each rank, with the keys' numbers;
- ``optimizer.safetensors``: the optimiser's state, as ``parameter name:entry``;
- ``rng.safetensors``: torch's generators;
- ``log.safetensors``: losses not yet reported, when a run was stopped within an epoch;
- ``state.json``: step, pipeline state, precision, scale of the loss, config, data set, sha256 of every other file.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from tcc_fast.distributed import gather_objects, rank
from tcc_fast.method.model import TCC
from tcc_fast.method.step import Queues
from tcc_fast.notice import Notice
from tcc_fast.on_disk import sha256_of, sync_to_disk
from tcc_fast.runs.checkpoint_folder import keep_newest, remove_checkpoint
from tcc_fast.runs.run_state import RunState, write_state
from tcc_fast.runs.tensor_file import save_tensors
from tcc_fast.runs.training_tensors import (
    WRITTEN,
    Training,
    load_optimizer,
    optimizer_tensors,
    queue_tensors,
    rng_tensors,
    set_rng,
)
from tcc_fast.settings import Config


def save_checkpoint(run: Path, state: RunState, training: Training, keep: int, log: dict[str, Tensor]) -> Path:
    """Write a checkpoint of ``state.step`` into ``run/checkpoints`` and remove all but the newest ``keep``.

    A matter of all ranks, on one file system: each writes its shard of Q, the main one the rest. The folder appears
    under its name only when every file in it is complete and on disk. The one with the lowest loss is kept, too, and
    ``checkpoints/best`` links to it.

    Args:
        run: the run's folder.
        state: all that is not a tensor.
        training: all that is.
        keep: how many of the newest stay.
        log: losses not yet reported.

    Raises:
        ValueError: it cannot be written (a full disk, a read-only folder), on any rank; earlier checkpoints are
            untouched.
    """
    parent = run / "checkpoints"
    final = parent / f"step-{state.step:09d}"
    partial = parent / f".partial-{final.name}"
    main = rank() == 0
    digests: dict[str, str] = {}
    try:
        _together(lambda: _make_folder(partial) if main else None)
        for part in _together(lambda: _write_shard(partial, training.queues)):
            digests |= part
        _together(lambda: _write_rest(partial, final, state, training, log, digests) if main else None)
    except _Failed as failure:
        if main:
            shutil.rmtree(partial, ignore_errors=True)
        raise ValueError(
            f"{parent}: step {state.step} could not be written ({failure}); earlier checkpoints are "
            f"untouched. Make room, or make the folder writable, and continue with --resume auto --out {run}"
        ) from failure
    if main:
        try:
            keep_newest(run, keep)
        except OSError as error:
            warnings.warn(f"{parent}: old checkpoints cannot be removed ({error})", Notice, stacklevel=2)
    return final


class _Failed(Exception):
    """Some rank could not write."""


def _together(work: Callable[[], Any]) -> list[Any]:
    """What ``work`` gives on each rank; if it fails on one, all raise."""
    result, trouble = None, None
    try:
        result = work()
    except (OSError, SafetensorError) as error:
        trouble = str(error)
    answers = gather_objects((result, trouble))
    failed = [
        f"rank {number}: {said}" if len(answers) > 1 else said for number, (_, said) in enumerate(answers) if said
    ]
    if failed:
        raise _Failed("; ".join(failed))
    return [result for result, _ in answers]


def _make_folder(partial: Path) -> None:
    partial.parent.mkdir(parents=True, exist_ok=True)
    for leftover in partial.parent.glob(".partial-*"):  # of a run that was killed while writing
        shutil.rmtree(leftover)
    partial.mkdir()


def _write_shard(partial: Path, queues: Queues) -> dict[str, str]:
    queue = queues.instance
    path = partial / f"queue-{queue.rank:05d}-of-{queue.ranks:05d}.safetensors"
    return {path.name: _write_tensors(path, {"keys": queue.keys, "numbers": queue.numbers})}


def _write_tensors(path: Path, tensors: dict[str, Tensor]) -> str:
    """Write tensors to a file, see it on disk, and return its sha256."""
    save_tensors({key: tensor.detach().contiguous().cpu() for key, tensor in tensors.items()}, path)
    sync_to_disk(path)
    return sha256_of(path)


def _write_rest(
    partial: Path,
    final: Path,
    state: RunState,
    training: Training,
    log: dict[str, Tensor],
    digests: dict[str, str],
) -> None:
    tensors = {
        "model": training.model.state_dict(),
        "twin": training.twin.state_dict(),
        "queues": queue_tensors(training.queues),
        "optimizer": optimizer_tensors(training.model, training.optimizer),
        "rng": rng_tensors(),
        **({"log": log} if log else {}),
    }
    for name, entries in tensors.items():
        path = partial / f"{name}.safetensors"
        digests[path.name] = _write_tensors(path, entries)
    sync_to_disk(write_state(partial, state, digests))
    sync_to_disk(partial)
    if final.exists():  # not complete, or it would have been continued from: the remains of a copy, say
        remove_checkpoint(final)
    partial.rename(final)
    sync_to_disk(final.parent)


def load_model(checkpoint: Path, config: Config) -> TCC:
    """θ alone, in evaluation mode, on the CPU: all that inference needs."""
    model = TCC(config.model, config.loss)
    _load_module(model, checkpoint / "model.safetensors")
    return model.eval()


def load_weights(checkpoint: Path) -> dict[str, Tensor]:
    """The tensors of θ by name, on the CPU."""
    return _load(checkpoint / "model.safetensors")


def load_training(checkpoint: Path, training: Training) -> dict[str, Tensor]:
    """Put everything that training changes back to where the checkpoint was taken, in place.

    The number of ranks may be another one than then.

    Returns:
        The losses that were not yet reported.
    """
    _load_module(training.model, checkpoint / "model.safetensors")
    _load_module(training.twin, checkpoint / "twin.safetensors")
    saved = _load(checkpoint / "queues.safetensors")
    for key, tensor in queue_tensors(training.queues).items():
        if saved[key].shape != tensor.shape:
            raise ValueError(f"{checkpoint}: queue {key} is {tuple(saved[key].shape)}, not {tuple(tensor.shape)}")
        tensor.copy_(saved[key])
    shards = map(_load, sorted(checkpoint.glob("queue-*-of-*.safetensors")))
    try:
        training.queues.instance.restore(((shard["numbers"], shard["keys"]) for shard in shards), saved[WRITTEN])
    except ValueError as error:
        raise ValueError(f"{checkpoint}: {error}: a queue-*.safetensors of a rank is not there") from None
    load_optimizer(_load(checkpoint / "optimizer.safetensors"), training.model, training.optimizer)
    set_rng(_load(checkpoint / "rng.safetensors"))
    log = checkpoint / "log.safetensors"
    return _load(log) if log.exists() else {}


def _load(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read ({error}): take another checkpoint") from None


def _load_module(module: nn.Module, path: Path) -> None:
    try:
        module.load_state_dict(_load(path))
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit the model of its config: {what_does_not_fit(error)}") from None


def what_does_not_fit(error: RuntimeError) -> str:
    """What torch says of weights for another network, which would be a line for each tensor, in one."""
    title, *lines = str(error).splitlines()
    first, *more = lines or [title]
    others = f", and {len(more)} more such" if more else ""
    return f"{first.strip()}{others}; is the code of its encoder (model.backbone) still as it was?"
