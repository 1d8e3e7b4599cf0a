"""What a run reports: losses kept on the device between log lines, and alarms in words."""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor

from tcc_fast.advice import collapse_advice
from tcc_fast.distributed import total_over_ranks_, world_size
from tcc_fast.method.step import SCALAR_LOSSES, Losses
from tcc_fast.settings import Config

ENOUGH_A_CLUSTER = 20
"""Images of a cluster, on average, among which one that gets none is dead. Ours."""


class NonFiniteLoss(ValueError):
    """A loss, a parameter or the gradients became NaN or infinite."""


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
        """Number of steps since the last reading."""
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
