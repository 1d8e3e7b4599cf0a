"""Which start of the prototypes finds the clusters best, among features as they are when the start comes.

    python tools/compare_starts.py data/digits data/mnist5k data/glyphs --seeds 0 1 2 --json starts.json

For each data set and seed, trains by its config as far as the start (plain instance contrast), then lets every method
find K centres among the features, and scores what argmax π would say with μ put there: the nearest centre by cosine.
Labels are only used for that. Features are f of un-augmented images of the online network, those of the twin, or
means over augmented views. With ``--copies N`` the methods see those of 500 of the images, N times each with a
little noise.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.cluster import AgglomerativeClustering, KMeans, kmeans_plusplus
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import kneighbors_graph
from study_tables import spread
from torch import Tensor

from tcc_fast.config import load_config
from tcc_fast.datasets import open_dataset
from tcc_fast.evaluation.embed import embed
from tcc_fast.evaluation.metrics import clustering_accuracy
from tcc_fast.method.losses import balanced_assignment
from tcc_fast.method.optim import learning_rate, set_learning_rate
from tcc_fast.method.start import kmeans_centres, spectral_centres
from tcc_fast.session import Session, open_session

VIEW_EPOCHS = 8
"""Of augmented views, of which the mean is taken; two views each."""

COPIED = 500
"""Images that are copied."""
Method = Callable[[Tensor, int, int], Tensor]
"""Unit features (n, d), K and a seed to centres (K, d)."""


def random_points(features: Tensor, num_clusters: int, seed: int) -> Tensor:
    """Any K images."""
    return features[torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))[:num_clusters]]


def distant_seeds(features: Tensor, num_clusters: int, seed: int) -> Tensor:
    """K images far apart, as k-means++ draws them; of 50 draws the one of the lowest inertia."""
    points = features.numpy().astype(np.float64)
    draws = [kmeans_plusplus(points, num_clusters, random_state=seed * 50 + i)[0] for i in range(50)]
    inertia = [((points @ draw.T).max(axis=1) * -2 + 2).sum() for draw in draws]
    return torch.from_numpy(draws[int(np.argmin(inertia))]).float()


def balanced_kmeans(features: Tensor, num_clusters: int, seed: int) -> Tensor:
    """From a k-means on: centres are means weighted by an assignment that gives every cluster the same share."""
    centres = F.normalize(kmeans_centres(features, num_clusters, 50, seed), dim=1)
    for _ in range(50):
        weights = balanced_assignment(features @ centres.T / 0.05, iterations=20)
        centres = F.normalize(weights.T @ features, dim=1)
    return centres


def averaged_neighbours(features: Tensor, num_clusters: int, seed: int) -> Tensor:
    """A k-means on features that have moved five times to the mean of their 20 nearest."""
    points = features.numpy().astype(np.float64)
    for _ in range(5):
        graph = kneighbors_graph(points, 20, include_self=True)
        points = graph @ points / 20
        points /= np.linalg.norm(points, axis=1, keepdims=True)
    labels = KMeans(num_clusters, n_init=50, random_state=seed).fit(points).labels_
    return means(features, labels)


def gaussians(features: Tensor, num_clusters: int, seed: int) -> Tensor:
    """A mixture of Gaussians of diagonal covariance."""
    mixture = GaussianMixture(num_clusters, covariance_type="diag", n_init=5, reg_covar=1e-4, random_state=seed)
    return means(features, mixture.fit_predict(features.numpy().astype(np.float64)))


def ward(features: Tensor, num_clusters: int, seed: int) -> Tensor:
    """Merging clusters by Ward's criterion, of joined neighbours only."""
    points = features.numpy().astype(np.float64)
    graph = kneighbors_graph(points, 20, include_self=False)
    graph = graph.maximum(graph.T)
    return means(features, AgglomerativeClustering(num_clusters, connectivity=graph).fit(points).labels_)


def means(features: Tensor, labels: np.ndarray) -> Tensor:
    """(at most K, d) means of the clusters that are not empty."""
    return torch.stack([features[torch.from_numpy(labels == k)].mean(dim=0) for k in np.unique(labels)])


def copied(features: Tensor, copies: int, noise: float, seed: int) -> Tensor:
    """(500 copies, d) unit features of copies of some of the images, with noise of this length."""
    generator = torch.Generator().manual_seed(seed)
    some = features[torch.randperm(len(features), generator=generator)[:COPIED]].repeat(copies, 1)
    return F.normalize(some + noise * F.normalize(torch.randn(some.shape, generator=generator), dim=1), dim=1)


METHODS: dict[str, Method] = {
    "random images": random_points,
    "distant seeds": distant_seeds,
    "k-means, one try": lambda f, k, seed: kmeans_centres(f, k, 1, seed),
    "k-means, best of 50": lambda f, k, seed: kmeans_centres(f, k, 50, seed),
    "balanced k-means": balanced_kmeans,
    "Gaussian mixture": gaussians,
    "Ward": ward,
    "k-means among averaged neighbours": averaged_neighbours,
    "spectral, every copy counted": lambda f, k, seed: spectral_centres(f, k, 50, seed, copies=()),
    "spectral": lambda f, k, seed: spectral_centres(f, k, 50, seed),
}


def train_to_start(session: Session) -> None:
    """The steps before the start of the prototypes."""
    while True:
        for batch in session.pipeline:
            if session.step == session.training_step.start_step:
                return
            lr = learning_rate(session.config.optim, session.step, session.total_steps)
            set_learning_rate(session.optimizer, lr)
            session.training_step(batch, session.step)
            session.step += 1


@torch.no_grad()
def mean_over_views(session: Session) -> Tensor:
    """(n, d) unit means of f over the augmented views of the next epochs, in evaluation mode."""
    total = torch.zeros(len(session.dataset), session.config.model.feature_dim)
    session.model.eval()
    for epoch in range(session.config.train.epochs, session.config.train.epochs + VIEW_EPOCHS):
        session.pipeline.set_epoch(epoch)
        for batch in session.pipeline:
            for view in (batch.view_1, batch.view_2):
                with session.precision.autocast(view.device):
                    total.index_add_(0, batch.index.cpu(), session.model.features(view).float().cpu())
    return F.normalize(total, dim=1)


def features_at_start(data: Path, seed: int) -> tuple[dict[str, Tensor], int]:
    """Features by the name of their kind, and K."""
    with tempfile.TemporaryDirectory() as run:
        session = open_session(load_config(data.name, [f"seed={seed}"]), data, Path(run))
        train_to_start(session)
        everything, size = range(len(session.dataset)), session.config.data.image_size
        where = session.dataset, everything, size, session.accelerator.device
        found = {
            kind: F.normalize(embed(model, *where, precision=session.precision)[0], dim=1)
            for kind, model in (("online", session.model), ("twin", session.training.twin))
        }
        found[f"online, {2 * VIEW_EPOCHS} views"] = mean_over_views(session)
        session.pipeline.close()
        return found, len(session.model.prototypes)


def main() -> None:
    """Train, compare, tabulate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", type=Path, help="data sets, whose folders are named as their configs")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--copies", type=int, metavar="N", help="let the methods see some of the images, N times each")
    parser.add_argument("--noise", type=float, default=0.02, help="of copies; their cosines are 1 / (1 + NOISE²)")
    parser.add_argument("--only", metavar="TEXT", default="", help="only methods whose name contains this")
    parser.add_argument("--json", type=Path, help="also write every score here")
    options = parser.parse_args()
    methods = {name: method for name, method in METHODS.items() if options.only in name}
    scores: dict[str, dict[str, dict[str, list[float]]]] = {}
    for data in options.data:
        by_kind = scores.setdefault(data.name, {})
        labels = open_dataset(data).labels()
        if labels is None or labels.min() < 0:
            parser.error(f"{data}: has not a label for every image to score with")
        for seed in options.seeds:
            kinds, num_clusters = features_at_start(data, seed)
            for kind, features in kinds.items():
                seen = copied(features, options.copies, options.noise, seed) if options.copies else features
                for name, method in methods.items():
                    started = time.perf_counter()
                    centres = F.normalize(method(seen, num_clusters, seed), dim=1)
                    acc = clustering_accuracy(labels, (features @ centres.T).argmax(dim=1).numpy())
                    by_kind.setdefault(kind, {}).setdefault(name, []).append(round(100 * acc, 2))
                    seconds = time.perf_counter() - started
                    print(f"{data.name} seed {seed}, {kind}, {name}: {100 * acc:.1f} ({seconds:.1f} s)", flush=True)
        if options.json:
            options.json.write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")
    print("\n" + table(scores, list(methods)))


def table(scores: dict[str, dict[str, dict[str, list[float]]]], methods: list[str]) -> str:
    """Markdown: a row for each method, a column for each data set and kind of features."""
    columns = [(data, kind) for data, kinds in scores.items() for kind in kinds]
    text = [
        f"| start | {' | '.join(f'{data}, {kind}' for data, kind in columns)} |",
        f"|{' --- |' * (len(columns) + 1)}",
    ]
    for name in methods:
        cells = [spread(scores[data][kind][name]) for data, kind in columns]
        text.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(text) + "\n"


if __name__ == "__main__":
    from plainly import plainly

    with plainly():
        main()
