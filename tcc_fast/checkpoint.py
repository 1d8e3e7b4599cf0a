"""Checkpoints: a folder of safetensors and JSON, written beside and renamed. Nothing is ever unpickled.

A run's folder holds ``checkpoints/step-XXXXXXXXX/`` with

- ``model.safetensors``: θ, all that inference needs; keys are the plain module names;
- ``twin.safetensors``: θ̂, batch-norm statistics included;
- ``queues.safetensors``: P, and how many keys Q was ever given;
- ``queue-RRRRR-of-WWWWW.safetensors``: the shard of Q at each rank, with the keys' numbers;
- ``optimizer.safetensors``: the optimiser's state, as ``parameter name:entry``;
- ``rng.safetensors``: torch's generators;
- ``log.safetensors``: losses not yet reported, when a run was stopped within an epoch;
- ``state.json``: step, pipeline state, precision, config, data set, and the sha256 of every other file.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tcc_fast.config import Config, config_from_tree
from tcc_fast.distributed import gather_objects, rank
from tcc_fast.model import TCC
from tcc_fast.step import Queues

FORMAT_VERSION = 2
STATE_FILE = "state.json"
BEST = "best"
WRITTEN = "instance.written"


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
    loss: float | None = None
    """Mean loss of the epoch that ended here; None within an epoch, and while epochs cannot be compared."""
    precision: str | None = None
    """What was computed in, `bf16` or `fp32`; None in checkpoints that do not say it yet."""


@dataclass(frozen=True)
class Training:
    """All tensors that training changes."""

    model: TCC
    twin: TCC
    queues: Queues
    optimizer: torch.optim.Optimizer


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
            "untouched. Make room, or make the folder writable, and continue with --resume"
        ) from failure
    if main:
        try:
            _tidy(run, keep)
        except OSError as error:
            warnings.warn(f"{parent}: old checkpoints cannot be removed ({error})", RuntimeWarning, stacklevel=2)
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
    """Write, see it on disk, and return the sha256."""
    save_file({key: tensor.detach().contiguous().cpu() for key, tensor in tensors.items()}, path)
    _sync_to_disk(path)
    return _sha256(path)


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
        "queues": _queue_tensors(training.queues),
        "optimizer": _optimizer_tensors(training.model, training.optimizer),
        "rng": _rng_tensors(),
        **({"log": log} if log else {}),
    }
    for name, entries in tensors.items():
        path = partial / f"{name}.safetensors"
        digests[path.name] = _write_tensors(path, entries)
    content = {
        "format_version": FORMAT_VERSION,
        "step": state.step,
        "pipeline": state.pipeline,
        "dataset": state.dataset,
        "backend": state.backend,
        "loss": state.loss,
        "precision": state.precision,
        "config": state.config.model_dump(mode="json"),
        "sha256": dict(sorted(digests.items())),
    }
    (partial / STATE_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    _sync_to_disk(partial / STATE_FILE)
    _sync_to_disk(partial)
    if final.exists():  # not complete, or it would have been continued from: the remains of a copy, say
        _remove(final)
    partial.rename(final)
    _sync_to_disk(final.parent)


def _tidy(run: Path, keep: int) -> None:
    """Point ``best`` at the lowest loss, and remove what is neither that nor among the newest."""
    found = list_checkpoints(run)
    losses = {path: loss for path in found if (loss := _loss_of(path)) is not None}
    best = min(losses, key=lambda path: losses[path], default=None)
    if best:
        point_link(run / "checkpoints" / BEST, best.name)
    for old in found[:-keep]:
        if old != best:
            _remove(old)


def point_link(link: Path, target: str) -> None:
    """Make ``link`` a symbolic link to ``target``, whatever it was; it is never missing meanwhile."""
    fresh = link.with_name(f".{link.name}-{os.getpid()}")
    fresh.unlink(missing_ok=True)
    try:
        fresh.symlink_to(target)
        fresh.replace(link)
    finally:
        fresh.unlink(missing_ok=True)


def _remove(checkpoint: Path) -> None:
    """Out of sight first: a kill in between leaves no half checkpoint."""
    hidden = checkpoint.with_name(f".partial-{checkpoint.name}-removed")
    checkpoint.rename(hidden)
    shutil.rmtree(hidden)


def _loss_of(checkpoint: Path) -> float | None:
    try:
        loss = json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))["loss"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # there is none, or it is of an earlier version
    return loss if isinstance(loss, float) else None


def list_checkpoints(run: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    found = (run / "checkpoints").glob("step-*")
    return sorted(path for path in found if re.fullmatch(r"step-\d+", path.name) and (path / STATE_FILE).is_file())


def drop_later_checkpoints(run: Path, step: int, say: Callable[[str], None] = lambda sentence: None) -> None:
    """Remove the checkpoints after ``step``: the run goes on from there, and they are no longer part of it.

    ``say`` is told which, before they go.
    """
    later = [path for path in list_checkpoints(run) if int(path.name.removeprefix("step-")) > step]
    if later:
        checkpoints = "1 later checkpoint is" if len(later) == 1 else f"{len(later)} later checkpoints are"
        names = ", ".join(path.name for path in later)
        say(f"{checkpoints} removed ({names}), and what metrics.jsonl has after step {step}")
    best = run / "checkpoints" / BEST
    for path in later:
        if best.resolve() == path.resolve():
            best.unlink()
        _remove(path)


def path_of(where: str | Path) -> Path:
    """A path, or what the word `latest` means."""
    return Path("runs/latest") if str(where) == "latest" else Path(where)


def find_checkpoint(where: str | Path) -> Path:
    """The checkpoint folder that a run, the best of several seeds, a checkpoint folder or the word `latest` means.

    Raises:
        ValueError: there is none.
    """
    path = path_of(where)
    if (path / STATE_FILE).is_file():
        return path
    found = list_checkpoints(path)
    if found:
        return found[-1]
    if (path / BEST).is_dir():  # several seeds
        return find_checkpoint(path / BEST)
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
            backend=content["backend"],
            loss=content["loss"],
            precision=content.get("precision"),
        )
    except (OSError, json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} cannot be read ({error!r}): take another checkpoint") from None


def load_model(checkpoint: Path, config: Config) -> TCC:
    """θ alone, in evaluation mode, on the CPU: all that inference needs."""
    model = TCC(config.model, config.loss)
    _load_module(model, checkpoint / "model.safetensors")
    return model.eval()


def load_training(checkpoint: Path, training: Training) -> dict[str, Tensor]:
    """Put everything that training changes back to where the checkpoint was taken, in place.

    The number of ranks may be another one than then.

    Returns:
        The losses that were not yet reported.
    """
    _load_module(training.model, checkpoint / "model.safetensors")
    _load_module(training.twin, checkpoint / "twin.safetensors")
    saved = _load(checkpoint / "queues.safetensors")
    for key, tensor in _queue_tensors(training.queues).items():
        if saved[key].shape != tensor.shape:
            raise ValueError(f"{checkpoint}: queue {key} is {tuple(saved[key].shape)}, not {tuple(tensor.shape)}")
        tensor.copy_(saved[key])
    shards = map(_load, sorted(checkpoint.glob("queue-*-of-*.safetensors")))
    try:
        training.queues.instance.restore(((shard["numbers"], shard["keys"]) for shard in shards), saved[WRITTEN])
    except ValueError as error:
        raise ValueError(f"{checkpoint}: {error}: a queue-*.safetensors of a rank is not there") from None
    _load_optimizer(_load(checkpoint / "optimizer.safetensors"), training.model, training.optimizer)
    _set_rng(_load(checkpoint / "rng.safetensors"))
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
        raise ValueError(f"{path} does not fit the model of its config: {' '.join(str(error).split())}") from None


def _queue_tensors(queues: Queues) -> dict[str, Tensor]:
    """What is the same at every rank."""
    cluster = {f"cluster.{key}": tensor for key, tensor in queues.cluster.state_dict().items()}
    return {**cluster, WRITTEN: queues.instance.written}


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
