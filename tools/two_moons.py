"""Two moons: TCC on a toy with a known answer (the set of the paper's Figure 1), with and without clusters.

    python tools/two_moons.py                    # prints the table of docs/two_moons.md, draws docs/two_moons.svg
    python tools/two_moons.py --additions        # prints its second table: what each addition to the paper is worth

The real model, losses, queues and training step run on points of the plane: the encoder is a small MLP, a view of a
point is the point plus a little Gaussian noise.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.datasets import make_moons
from torch import Tensor, nn

from tcc_fast.batch import Batch
from tcc_fast.bench.single_process import SingleProcess
from tcc_fast.config import config_from_tree
from tcc_fast.evaluation.metrics import clustering_accuracy
from tcc_fast.method.model import TCC, momentum_twin
from tcc_fast.method.optim import build_optimizer, learning_rate, set_learning_rate
from tcc_fast.method.start import kmeans_centres
from tcc_fast.method.step import TrainingStep, build_queues
from tcc_fast.settings import Config

POINTS, NOISE, JITTER, BATCH, STEPS, START = 300, 0.06, 0.15, 150, 300, 180
PARTS = ("loss", "loss_instance", "loss_cluster")
SETTINGS: dict[str, dict[str, object]] = {
    "model": {"num_clusters": 2, "feature_dim": 32, "feature_batch_norm": True, "assignment_temperature": 0.1},
    "loss": {"alpha": 0.5, "kl_weight": 0},
    "queue": {"instance_length": 256},
    "momentum": {"decay": 0.99, "warmup": True},
    "start": {"method": "kmeans", "at": START / STEPS},
    "optim": {"name": "adamw", "lr": 1e-2, "schedule": "cosine", "warmup_steps": 20},
}
Departures = dict[str, dict[str, object]]
ON, OFF = "cluster-level track on", "off: instance contrast, then k-means on f"
VARIANTS: dict[str, Departures] = {
    ON: {},
    "on, without equation (5) (α = 0)": {"loss": {"alpha": 0}},
    OFF: {"loss": {"cluster_track": False}},
}
LITERAL_PI: Departures = {"model": {"assignment_temperature": 1}, "loss": {"kl_weight": 1}}
WITHOUT: dict[str, Departures] = {
    "literal π and KL: temperature 1 in (3), weight 1 in (8)": LITERAL_PI,
    "no EMA warm-up": {"momentum": {"warmup": False}},
    "no batch norm on f": {"model": {"feature_batch_norm": False}},
    "no k-means start: π trains from step 0": {"start": {"method": "none"}},
    "none of them: the literal equations": {
        "model": {"assignment_temperature": 1, "feature_batch_norm": False},
        "loss": {"kl_weight": 1},
        "momentum": {"warmup": False},
        "start": {"method": "none"},
    },
}


@dataclass
class Result:
    """One run: where it put every point, and how its loss fell."""

    points: np.ndarray
    labels: np.ndarray
    assignment: np.ndarray
    model: TCC
    losses: dict[str, np.ndarray]
    """(steps,) by name: the fields `loss`, `loss_instance` and `loss_cluster` of a step's `Losses`."""

    @property
    def accuracy(self) -> float:
        """ACC, 0 to 1."""
        return clustering_accuracy(self.labels, self.assignment)


def configure(seed: int, departures: Departures) -> Config:
    """The settings above with some departures."""
    sections = {name: values | departures.get(name, {}) for name, values in SETTINGS.items()}
    return config_from_tree(sections | {"seed": seed})


def train(seed: int, departures: Departures) -> Result:
    """Train on two moons; without the cluster track the clusters come from k-means on the features."""
    config = configure(seed, departures)
    points, labels = make_moons(POINTS, noise=NOISE, random_state=seed)
    x = torch.tensor(points - points.mean(axis=0), dtype=torch.float32)
    torch.manual_seed(seed)
    mlp = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32))
    model = TCC(config.model, config.loss, encoder=mlp)
    twin = momentum_twin(model)
    optimizer = build_optimizer(model, config.optim)
    start = START if config.start.method == "kmeans" else 0
    step_once = TrainingStep(config, model, twin, build_queues(config, 2), optimizer, SingleProcess(), start)
    random = torch.Generator().manual_seed(seed)
    losses = []
    for step in range(STEPS):
        if step == start > 0:
            centres = kmeans_centres(features(model, x), 2, restarts=20, seed=seed)
            model.set_prototypes(centres)
            twin.set_prototypes(centres)
        index = torch.randperm(POINTS, generator=random)[:BATCH]
        views = [x[index] + JITTER * torch.randn(BATCH, 2, generator=random) for _ in range(2)]
        set_learning_rate(optimizer, learning_rate(config.optim, step, STEPS))
        losses.append(step_once(Batch(views[0], views[1], index), step)._asdict())
    curves = {name: np.array([line[name].item() for line in losses]) for name in PARTS}
    return Result(points, labels, _assign(config, model, x), model, curves)


@torch.no_grad()
def features(model: TCC, x: Tensor) -> Tensor:
    """f of un-augmented points, (n, d)."""
    model.eval()
    result = model.features(x)
    model.train()
    return result


def _assign(config: Config, model: TCC, x: Tensor) -> np.ndarray:
    f = features(model, x)
    if config.loss.cluster_track:
        return model.log_assignment(f).argmax(dim=1).numpy()
    return KMeans(2, n_init=20, random_state=config.seed).fit_predict(f.double().numpy())


def kmeans_on_points(seed: int) -> float:
    """ACC of plain k-means on the points themselves."""
    points, labels = make_moons(POINTS, noise=NOISE, random_state=seed)
    return clustering_accuracy(labels, KMeans(2, n_init=20, random_state=seed).fit_predict(points))


def draw(on: Result, off: Result, file: Path) -> None:
    """Both results side by side, with π as background where there is one, and how (7) and (5) fell."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "two moons"  # the same figure is the same file
    matplotlib.rcParams["svg.fonttype"] = "none"  # words stay words: a smaller file that can be searched
    import matplotlib.pyplot as plt

    layout = [["on", "off", "(7)"], ["on", "off", "(5)"]]
    figure, axes = plt.subplot_mosaic(layout, figsize=(12, 3.4), layout="constrained")
    grid_x, grid_y = np.meshgrid(np.linspace(-1.5, 2.5, 40), np.linspace(-1, 1.5, 25))
    grid = np.stack([grid_x.ravel(), grid_y.ravel()], axis=1) - on.points.mean(axis=0)
    with torch.no_grad():
        pi = on.model.log_assignment(features(on.model, torch.tensor(grid, dtype=torch.float32))).exp()[:, 0]
    axes["on"].contourf(
        grid_x, grid_y, pi.reshape(grid_x.shape), levels=[0, 0.1, 0.3, 0.5, 0.7, 0.9, 1], cmap="coolwarm_r", alpha=0.4
    )
    for name, result, title in (("on", on, "cluster track on: argmax π"), ("off", off, "off: k-means on f")):
        colours = np.array(["tab:blue", "tab:red"])[result.assignment]
        axes[name].scatter(*result.points.T, c=colours, s=8, clip_on=False)
        axes[name].set(title=f"{title}, ACC {100 * result.accuracy:.1f} %", xticks=[], yticks=[])
    full = 10  # steps after which Q has filled: until then each step has more negatives than the last
    for result, label in ((off, "off"), (on, "on")):
        axes["(7)"].plot(range(full, STEPS), result.losses["loss_instance"][full:], linewidth=1, label=label)
    axes["(5)"].plot(range(START, STEPS), on.losses["loss_cluster"][START:], linewidth=1, color="tab:orange")
    axes["(7)"].set(title="−log p of (7)", xlim=(0, STEPS), xticklabels=[])
    axes["(7)"].legend(loc="upper left")
    axes["(5)"].set(title="L1 of (5): rises while P fills", xlim=(0, STEPS), xlabel="step")
    for name in ("(7)", "(5)"):
        axes[name].axvline(START, color="grey", linestyle=":")  # the k-means start
    figure.savefig(file, metadata={"Date": None})


def accuracies(variants: dict[str, Departures], seeds: list[int]) -> tuple[dict[str, list[float]], dict[str, Result]]:
    """ACC of every variant and seed, and each variant's first run."""
    results = {name: [train(seed, departures) for seed in seeds] for name, departures in variants.items()}
    return {name: [run.accuracy for run in runs] for name, runs in results.items()}, {
        name: runs[0] for name, runs in results.items()
    }


def print_table(rows: dict[str, list[float]]) -> None:
    """A Markdown table, in percent."""
    print("| | mean ACC | every seed |\n| --- | --- | --- |")
    for name, values in rows.items():
        each = " ".join(f"{100 * value:.1f}" for value in values)
        print(f"| {name} | {100 * statistics.mean(values):.1f} | {each} |")


def main() -> None:
    """Train every variant with several seeds, print a Markdown table and draw the first seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(8)))
    parser.add_argument("--figure", type=Path, default=Path("docs/two_moons.svg"))
    parser.add_argument("--additions", action="store_true", help="leave the additions to the paper out, one by one")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # too small for more, and the order of every sum is then the same everywhere
    if arguments.additions:
        print_table(accuracies(WITHOUT, arguments.seeds)[0])
        return
    found, first = accuracies(VARIANTS, arguments.seeds)
    print_table({"k-means on the points": [kmeans_on_points(seed) for seed in arguments.seeds]} | found)
    draw(first[ON], first[OFF], arguments.figure)
    print(f"\ndrew {arguments.figure} (seed {arguments.seeds[0]})")


if __name__ == "__main__":
    main()
