"""What a run reports: losses kept on the device between log lines, and alarms in words."""

from __future__ import annotations

import contextlib
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tcc_fast.distributed import total_over_ranks_, world_size
from tcc_fast.method.step import SCALAR_LOSSES, Losses
from tcc_fast.settings import Config
from tcc_fast.whole_file import write_whole

FEW_A_CLUSTER = 5
"""Images of a cluster in a batch, on average; with fewer, more are advised. Ours, not measured."""
ENOUGH_A_CLUSTER = 20
"""Images of a cluster, on average, among which one that gets none is dead. Ours."""


class NonFiniteLoss(ValueError):
    """A loss became NaN or infinite."""


class LossLog:
    """Collects the losses of every step on the device; reading them waits for the device once per interval."""

    def __init__(self) -> None:
        self.sizes = torch.zeros(0)
        """(K,) images of each cluster, over all ranks, in the interval that was read last."""
        self._clear()

    def _clear(self) -> None:
        self._scalars: list[Tensor] = []
        self._mean_pi: list[Tensor] = []
        self._sizes: list[Tensor] = []
        self._since, self._untimed = time.perf_counter(), 0

    def restart_clock(self) -> None:
        """Leave what has passed since the last reading out of the speed, if no step is waiting to be read."""
        if not self._scalars:
            self._since = time.perf_counter()

    def leave_out(self, seconds: float, steps: int = 0) -> None:
        """Leave these seconds out of the speed, and the steps that took them, if any."""
        self._since += seconds
        self._untimed += steps

    def add_no_sync(self, losses: Losses) -> None:
        """Keep one step's losses."""
        self._scalars.append(torch.stack([getattr(losses, name) for name in SCALAR_LOSSES]))
        self._mean_pi.append(losses.mean_pi)
        self._sizes.append(losses.sizes)

    def tensors(self) -> dict[str, Tensor]:
        """What this rank has collected since the last reading, for a checkpoint in between."""
        parts = {"scalars": self._scalars, "mean_pi": self._mean_pi, "sizes": self._sizes}
        return {name: torch.stack(part) for name, part in parts.items() if part}

    def load_tensors(self, saved: dict[str, Tensor], device: torch.device) -> None:
        """Go on from what :meth:`tensors` gave. It was a single process, since several stop at logged steps only."""
        self._clear()
        if "sizes" in saved:
            saved = saved | {"sizes": saved["sizes"] / world_size()}
        parts = (("scalars", self._scalars), ("mean_pi", self._mean_pi), ("sizes", self._sizes))
        for name, part in parts:
            part.extend(saved[name].to(device, copy=True) if name in saved else ())
        self._untimed = len(self._scalars)  # in another process

    def __len__(self) -> int:
        """Steps since the last reading."""
        return len(self._scalars)

    def read(self, step: int, images: int) -> dict[str, float]:
        """Means over the steps since the last reading, and over all ranks; waits for the device.

        Args:
            step: number of the newest of them, counted from 1.
            images: how many images they trained on, over all ranks.

        Raises:
            NonFiniteLoss: naming the first step and the part of the loss that is not finite.
        """
        scalars = total_over_ranks_(torch.stack(self._scalars)) / world_size()
        table = scalars.tolist()
        for row, values in enumerate(table):
            for name, value in zip(SCALAR_LOSSES, values, strict=True):
                if not math.isfinite(value) and name != "loss":
                    raise NonFiniteLoss(f"{name} became {value} at step {step - len(table) + row + 1}")
        mean_pi = total_over_ranks_(torch.stack(self._mean_pi).mean(dim=0)).double() / world_size()
        sizes = total_over_ranks_(torch.stack(self._sizes).sum(dim=0))
        self.sizes, shares = sizes.cpu(), sizes / sizes.sum()
        means = dict(zip(SCALAR_LOSSES, scalars.double().mean(dim=0).tolist(), strict=True))
        entropy_mean = -(mean_pi * mean_pi.clamp(min=1e-30).log()).sum().item()
        seconds = time.perf_counter() - self._since
        timed = (len(table) - self._untimed) / len(table)  # 0 where every step was compiled: then there is no speed
        line = {
            **means,
            "entropy_mean": entropy_mean,
            "smallest_cluster": shares.min().item(),
            "largest_cluster": shares.max().item(),
            "empty_clusters": int((sizes == 0).sum()),
            "images_per_second": timed * images / seconds,
        }
        self._clear()
        return line


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


class CollapseAlarm:
    """Says in words what is wrong with the assignments and what to change, once per trouble."""

    PATIENCE = 3
    """Logged lines in a row that must show a trouble before it is said."""

    def __init__(self, config: Config) -> None:
        assert config.model.num_clusters is not None
        self.config, self.num_clusters = config, config.model.num_clusters
        self._seen: dict[str, int] = {}
        self._sizes = torch.zeros(self.num_clusters)

    def check(self, line: dict[str, float], sizes: Tensor) -> list[str]:
        """New troubles in a logged line.

        Args:
            line: what :meth:`LossLog.read` gave.
            sizes: images of each cluster in that interval, (K,); too few say nothing about empty clusters, so they are
                added up over lines until there are enough.
        """
        k, highest = self.num_clusters, math.log(self.num_clusters)
        troubles = {}
        if line["largest_cluster"] > 0.9:
            troubles["one"] = f"one cluster takes {line['largest_cluster']:.0%} of all images"
        elif line["entropy"] > 0.98 * highest:
            troubles["uniform"] = (
                f"assignments are uniform (entropy {line['entropy']:.2f} of at most {highest:.2f}), so no image "
                "belongs anywhere"
            )
        self._sizes += sizes
        enough = self._sizes.sum() >= ENOUGH_A_CLUSTER * k
        if enough:
            if (empty := int((self._sizes == 0).sum())) and not troubles:
                troubles["dead"] = f"{empty} of {k} clusters get no image"
            self._sizes.zero_()
        undecided = {name: count for name, count in self._seen.items() if name == "dead" and not enough}
        self._seen = undecided | {name: self._seen.get(name, 0) + 1 for name in troubles}
        lasting = [name for name in troubles if self._seen[name] == self.PATIENCE]
        return [f"{troubles[name]}: {collapse_advice(self.config, k)}" for name in lasting]


def batch_advice(config: Config, num_clusters: int) -> str | None:
    """A sentence for a batch that shows little of each cluster, or None when it suits their number."""
    if not config.loss.cluster_track or config.train.batch_size >= FEW_A_CLUSTER * num_clusters:
        return None
    return (
        f"a batch of {config.train.batch_size} shows {config.train.batch_size / num_clusters:.1f} images of each of "
        f"{num_clusters} clusters on average, of which their representations (4) are made: {FEW_A_CLUSTER} or more "
        f"would be better, as by train.batch_size={FEW_A_CLUSTER * num_clusters}, or fewer clusters"
    )


def collapse_advice(config: Config, num_clusters: int) -> str:
    """What to change where clusters collapse: only what is not set already, most helpful first (docs/quality.md)."""
    model, loss, start = config.model, config.loss, config.start.method
    wanted = {
        "model.feature_batch_norm=true": not model.feature_batch_norm,
        "loss.kl_weight=0": loss.kl_weight > 0,
        "start.method=spectral": start != "spectral",
        "model.assignment_temperature=0.1": model.assignment_temperature > 0.1,
    }
    missing = " ".join(setting for setting, is_missing in wanted.items() if is_missing)
    balanced = "loss.swap_weight=1 loss.swap_neighbours=5"
    if missing:
        instead = f" ({balanced} can take the place of a start)" if start == "none" and not loss.swap_weight else ""
        return f"start anew with {missing}{instead}"
    if config.train.batch_size < FEW_A_CLUSTER * num_clusters:
        return (
            f"train.batch_size={config.train.batch_size} shows too little of each of {num_clusters} clusters: start "
            "anew with more images a batch, or fewer clusters (model.num_clusters)"
        )
    return f"start anew with another seed (seed={config.seed + 1}), or fewer clusters (model.num_clusters)"
