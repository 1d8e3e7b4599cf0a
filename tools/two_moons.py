"""Two moons: TCC on a toy with a known answer (the set of the paper's Figure 1), with and without clusters.

    python tools/two_moons.py                    # prints the table of docs/two_moons.md, draws docs/two_moons.svg

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
from accelerate import Accelerator
from sklearn.cluster import KMeans
from sklearn.datasets import make_moons
from torch import Tensor, nn

from tcc_fast.batch import Batch
from tcc_fast.config import Config, config_from_tree
from tcc_fast.metrics import clustering_accuracy
from tcc_fast.model import TCC, momentum_twin
from tcc_fast.optim import build_optimizer, learning_rate, set_learning_rate
from tcc_fast.start import kmeans_centres
from tcc_fast.step import TrainingStep, build_queues

POINTS, NOISE, JITTER, BATCH, STEPS, START = 300, 0.06, 0.15, 150, 300, 180
SETTINGS = {
    "model": {"num_clusters": 2, "feature_dim": 32, "feature_batch_norm": True, "assignment_temperature": 0.1},
    "loss": {"alpha": 0.5, "kl_weight": 0},
    "queue": {"instance_length": 256},
    "momentum": {"decay": 0.99, "warmup": True},
    "optim": {"name": "adamw", "lr": 1e-2, "schedule": "cosine", "warmup_steps": 20},
}
VARIANTS: dict[str, dict[str, object]] = {
    "cluster-level track on": {},
    "on, without equation (5) (α = 0)": {"alpha": 0},
    "off: instance contrast, then k-means on f": {"cluster_track": False},
}


@dataclass
class Result:
    """One run: where it put every point, and how its loss fell."""

    points: np.ndarray
    labels: np.ndarray
    assignment: np.ndarray
    model: TCC
    losses: list[float]

    @property
    def accuracy(self) -> float:
        """ACC, 0 to 1."""
        return clustering_accuracy(self.labels, self.assignment)


def train(seed: int, loss: dict[str, object], steps: int = STEPS) -> Result:
    """Train on two moons; without the cluster track the clusters come from k-means on the features."""
    config = config_from_tree(SETTINGS | {"seed": seed, "loss": SETTINGS["loss"] | loss})
    points, labels = make_moons(POINTS, noise=NOISE, random_state=seed)
    x = torch.tensor(points - points.mean(axis=0), dtype=torch.float32)
    torch.manual_seed(seed)
    mlp = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32))
    model = TCC(config.model, config.loss, encoder=mlp)
    twin = momentum_twin(model)
    accelerator = Accelerator(cpu=True)
    prepared, optimizer = accelerator.prepare(model, build_optimizer(model, config.optim))
    start = START * steps // STEPS
    step_once = TrainingStep(config, prepared, twin, build_queues(config, 2), optimizer, accelerator, start)
    random = torch.Generator().manual_seed(seed)
    losses = []
    for step in range(steps):
        if step == start:
            centres = kmeans_centres(features(model, x), 2, restarts=20, seed=seed)
            model.set_prototypes(centres)
            twin.set_prototypes(centres)
        index = torch.randperm(POINTS, generator=random)[:BATCH]
        views = [x[index] + JITTER * torch.randn(BATCH, 2, generator=random) for _ in range(2)]
        set_learning_rate(optimizer, learning_rate(config.optim, step, steps))
        losses.append(step_once(Batch(views[0], views[1], index), step).loss.item())
    return Result(points, labels, _assign(config, model, x), model, losses)


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
    """Both results side by side, with π as background where there is one, and the loss of the first."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "two moons"  # the same picture is the same file
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
    grid_x, grid_y = np.meshgrid(np.linspace(-1.5, 2.5, 40), np.linspace(-1, 1.5, 25))
    grid = np.stack([grid_x.ravel(), grid_y.ravel()], axis=1) - on.points.mean(axis=0)
    with torch.no_grad():
        pi = on.model.log_assignment(features(on.model, torch.tensor(grid, dtype=torch.float32))).exp()[:, 0]
    axes[0].contourf(grid_x, grid_y, pi.reshape(grid_x.shape), levels=8, cmap="coolwarm", alpha=0.4)
    for axis, result, title in ((axes[0], on, "cluster track on: argmax π"), (axes[1], off, "off: k-means on f")):
        colours = np.array(["tab:red", "tab:blue"])[result.assignment]
        axis.scatter(*result.points.T, c=colours, s=8)
        axis.set(title=f"{title}, ACC {100 * result.accuracy:.1f} %", xticks=[], yticks=[])
    axes[2].plot(on.losses, linewidth=1)
    axes[2].axvline(START, color="grey", linestyle=":", label="k-means start")
    axes[2].set(title="loss, cluster track on", xlabel="step")
    axes[2].legend()
    figure.savefig(file, metadata={"Date": None})


def main() -> None:
    """Train every variant with several seeds, print a Markdown table and draw the first seed that tells them apart."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(8)))
    parser.add_argument("--picture", type=Path, default=Path("docs/two_moons.svg"))
    arguments = parser.parse_args()
    results = {name: [train(seed, loss) for seed in arguments.seeds] for name, loss in VARIANTS.items()}
    accuracies = {"k-means on the points": [kmeans_on_points(seed) for seed in arguments.seeds]}
    accuracies |= {name: [result.accuracy for result in found] for name, found in results.items()}
    print("| | mean ACC | every seed |\n| --- | --- | --- |")
    for name, values in accuracies.items():
        each = " ".join(f"{100 * value:.1f}" for value in values)
        print(f"| {name} | {100 * statistics.mean(values):.1f} | {each} |")
    draw(
        results["cluster-level track on"][0], results["off: instance contrast, then k-means on f"][0], arguments.picture
    )
    print(f"\ndrew {arguments.picture} (seed {arguments.seeds[0]})")


if __name__ == "__main__":
    main()
