"""Evaluation of a checkpoint: how its clusters agree with classes, beside baselines on features and on pixels."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch.nn.functional import normalize

from tcc_fast.cores import cpu_threads
from tcc_fast.datasets import Dataset
from tcc_fast.datasets.manifest import UNLABELLED
from tcc_fast.distributed import decide, rank
from tcc_fast.evaluation.label_free import label_free_scores, view_agreement
from tcc_fast.evaluation.metrics import Scores, majority_accuracy, score
from tcc_fast.evaluation.trained import Trained, open_trained, undecodable
from tcc_fast.method.model import TCC
from tcc_fast.method.start import evenly_spread, find_centres
from tcc_fast.pipelines import open_pipeline
from tcc_fast.pipelines.damage import Damage
from tcc_fast.pipelines.decoded import common_geometry, decode
from tcc_fast.precision import Precision
from tcc_fast.settings import Config
from tcc_fast.whole_file import write_whole

KMEANS_RESTARTS = 10
PROBE_FOLDS = 5
BASELINES = ("kmeans_features", "kmeans_pixels", "spectral_features")
NO_SCORES = {"acc": None, "nmi": None, "ari": None}


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found. Scores are 0 to 1, and None without labels."""

    checkpoint: Path
    seed: int
    step: int
    dataset: str
    split: str
    n: int
    """How many images could be decoded; those that could not count nowhere."""
    n_labelled: int
    """How many of them have a label: all that needs labels is of these, all else is of all."""
    image_size: int
    precision: str
    """What was computed in, a `Precision`: that of the training, if its checkpoint says it."""
    num_clusters: int
    num_classes: int | None
    cluster_sizes: list[int]
    scores: Scores | None
    acc_majority: float | None
    """Each cluster answers with its most frequent class."""
    same_data: bool
    """Whether this is the packed data set that the model was trained on."""
    same_images: bool
    """Whether these are the images that it was trained on, as is the field's custom."""
    trained_split: str
    """Which split of its data set the model was trained on."""
    baselines: dict[str, Scores | None] = field(default_factory=dict)
    """Those that were asked for, by name, as in `BASELINES`; None without labels, or of fewer images than clusters."""
    linear_probe: float | None = None
    """Accuracy of a linear classifier on f, mean over five folds; uses labels."""
    label_free: dict[str, float] = field(default_factory=dict)
    """What can be said without labels: see :mod:`tcc_fast.evaluation.label_free`."""
    class_names: tuple[str, ...] = ()
    title: str = ""
    """What the data set is called on screen."""
    confusion: np.ndarray | None = None
    """(K, classes) images of each cluster and class, of those that have a label, if asked for."""

    @property
    def clusters_used(self) -> int:
        """Clusters with at least one image."""
        return sum(size > 0 for size in self.cluster_sizes)

    def to_json(self) -> dict[str, Any]:
        """The evaluation as plain data, with the documented keys."""
        baselines = {name: scores or NO_SCORES for name, scores in self.baselines.items()}
        probe = {} if self.linear_probe is None else {"linear_probe": self.linear_probe}
        return {
            **(self.scores or NO_SCORES),
            "acc_majority": self.acc_majority,
            "n": self.n,
            "n_labelled": self.n_labelled,
            "num_clusters": self.num_clusters,
            "num_classes": self.num_classes,
            "clusters_used": self.clusters_used,
            "cluster_sizes": self.cluster_sizes,
            **baselines,
            **probe,
            "label_free": {name: None if math.isnan(value) else value for name, value in self.label_free.items()},
            "dataset": self.dataset,
            "split": self.split,
            "image_size": self.image_size,
            "precision": self.precision,
            "checkpoint": str(self.checkpoint),
            "seed": self.seed,
            "step": self.step,
            "trained_on_these_images": self.same_images,
            "trained_split": self.trained_split,
        }


def evaluate(
    ckpt: str | Path,
    data: Path | None = None,
    split: str | None = None,
    baselines: tuple[str, ...] = ("kmeans_features",),
    linear_probe: bool = False,
    agreement: bool = False,
    confusion: bool = False,
    batch_size: int = 512,
) -> Evaluation:
    """Cluster images by argmax of π and compare with the labels, if there are any; a matter of all ranks.

    Baselines and the probe are the main rank's work; other ranks' results have none.

    Args:
        ckpt: a run, a checkpoint folder, or `latest`.
        data: the data set folder; None: the one the run was trained on.
        split: one of the manifest's splits; None: the one trained on, or all of another data set.
        baselines: what else to cluster into as many: f (``kmeans_features``) or pixels (``kmeans_pixels``) by k-means,
            or f as a spectral start does, by the nearest of its centres (``spectral_features``).
        linear_probe: also train a linear classifier on f, with labels.
        agreement: also augment every image twice, as in training, and see whether both views get the same cluster;
            of the images trained on.
        confusion: also count the images of each cluster and class.
        batch_size: images at a time.

    Raises:
        ValueError: no such checkpoint, data set or split, or a damaged one; or there are no labels for what needs them.
    """
    unknown = set(baselines) - set(BASELINES)
    if unknown:
        raise ValueError(f"unknown baselines {sorted(unknown)}: there are {', '.join(BASELINES)}")
    trained = open_trained(ckpt, data, split)
    config, dataset = trained.state.config, trained.dataset
    if agreement and not trained.same_images:
        raise ValueError("--agreement is of the images trained on: leave out --split and --data")
    needs_labels = {
        "--linear-probe": linear_probe,
        "--kmeans-pixels": "kmeans_pixels" in baselines,
        "--spectral-features": "spectral_features" in baselines,
        "--confusion": confusion,
    }
    rated, labels = _labelled(trained, [option for option, wanted in needs_labels.items() if wanted])
    image_size = config.data.image_size
    damage = Damage(dataset)
    features, assignment = trained.embed(batch_size, damage)
    seen = np.setdiff1d(np.arange(len(features)), undecodable(trained, damage))  # what follows is of these alone
    features, assignment, known = features[seen], assignment[seen], np.isin(rated, seen)
    rated, labels = np.searchsorted(seen, rated[known]), labels[known]
    predictions = assignment.argmax(dim=1).numpy()
    label_free = label_free_scores(features, assignment)
    if agreement:
        label_free["agreement"] = decide(
            lambda: _agreement(trained.model, dataset, config, trained.device, trained.precision)
        )
    num_clusters = assignment.shape[1]
    found = predictions[rated]
    is_main, threads = rank() == 0, cpu_threads(trained.device)

    def baseline(name: str) -> Scores | None:
        if not len(rated) or not is_main:
            return None
        of_pixels = name == "kmeans_pixels"
        if (len(rated) if of_pixels else len(features)) < num_clusters:
            return None
        if of_pixels:  # of those that are scored: the pixels of all may not fit into memory
            pixels = _pixels(dataset, [trained.indices[place] for place in seen[rated]], image_size)
            return score(labels, _kmeans(pixels, num_clusters, config.seed, threads))
        if name == "kmeans_features":
            return score(labels, _kmeans(features.numpy(), num_clusters, config.seed, threads)[rated])
        return score(labels, _spectral(features, num_clusters, config, threads)[rated])

    names = dataset.manifest.class_names
    return Evaluation(
        checkpoint=trained.checkpoint,
        seed=config.seed,
        step=trained.state.step,
        dataset=dataset.manifest.name,
        split=trained.split,
        n=len(seen),
        n_labelled=len(rated),
        image_size=image_size,
        precision=trained.precision,
        num_clusters=num_clusters,
        num_classes=len(names) if names else None,
        cluster_sizes=np.bincount(predictions, minlength=num_clusters).tolist(),
        scores=score(labels, found) if len(rated) else None,
        acc_majority=majority_accuracy(labels, found) if len(rated) else None,
        same_data=trained.same_data,
        same_images=trained.same_images,
        trained_split=config.data.split,
        baselines={name: baseline(name) for name in baselines},
        linear_probe=_linear_probe(features.numpy()[rated], labels, threads) if linear_probe and is_main else None,
        label_free=label_free,
        class_names=names or (),
        title=dataset.title,
        confusion=_confusion(found, labels, num_clusters, names) if confusion else None,
    )


def _labelled(trained: Trained, asked: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Which of the images have a label, by their places among them, and these labels: (m,) each.

    Raises:
        ValueError: none has, and options were asked for that need it.
    """
    every = trained.dataset.labels()
    if every is None:
        labels = np.full(len(trained.indices), UNLABELLED)
    else:
        labels = every[trained.indices.start : trained.indices.stop]
    rated = np.flatnonzero(labels != UNLABELLED)
    if asked and not len(rated):
        which = trained.dataset.path if every is None else f"split {trained.split} of {trained.dataset.path}"
        raise ValueError(f"{which} has no labels, without which there is no {' or '.join(asked)}: leave it out")
    return rated, labels[rated]


def _agreement(model: TCC, dataset: Dataset, config: Config, device: torch.device, precision: Precision) -> float:
    batch_size = min(config.train.batch_size, len(dataset.split(config.data.split)))
    config = config.model_copy(update={"train": config.train.model_copy(update={"batch_size": batch_size})})
    pipeline = open_pipeline(dataset, config, device, dtype=precision.dtype)
    try:
        return view_agreement(model, pipeline, precision)
    finally:
        pipeline.close()


def _kmeans(points: np.ndarray, num_clusters: int, seed: int, threads: int | None) -> np.ndarray:
    """Clusters of points, (n, d), as (n,)."""
    with threadpool_limits(threads):
        found: np.ndarray = KMeans(num_clusters, n_init=KMEANS_RESTARTS, random_state=seed).fit_predict(points)
    return found


def _spectral(features: torch.Tensor, num_clusters: int, config: Config, threads: int | None) -> np.ndarray:
    """What argmax π would say of these features, (n, d), if μ were put as a spectral start does: (n,)."""
    start = config.start.model_copy(update={"method": "spectral"})
    seen = features[evenly_spread(len(features))]
    centres = find_centres(seen, num_clusters, start, config.seed, threads)
    return (normalize(features, dim=1) @ normalize(centres, dim=1).T).argmax(dim=1).numpy()


def _pixels(dataset: Dataset, indices: list[int], image_size: int) -> np.ndarray:
    """Stored pixels of these images, each as one row, float32 (n, 3 H W)."""
    images = decode(dataset, indices, common_geometry(dataset, image_size))
    return images.flatten(1).numpy().astype(np.float32)


def _linear_probe(features: np.ndarray, labels: np.ndarray, threads: int | None) -> float:
    present = np.bincount(labels)
    present = present[present > 0]
    if len(present) < 2 or (few := int((present < PROBE_FOLDS).sum())):
        lacking = f"{few} of {len(present)} have fewer" if len(present) > 1 else "there is one"
        raise ValueError(
            f"--linear-probe needs two classes, and {PROBE_FOLDS} images of each, but {lacking}: leave it out"
        )
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    with threadpool_limits(threads):
        return float(cross_val_score(classifier, features, labels, cv=PROBE_FOLDS).mean())


def _confusion(
    predictions: np.ndarray, labels: np.ndarray, num_clusters: int, names: tuple[str, ...] | None
) -> np.ndarray:
    assert names is not None, "labels have names"
    table = np.zeros((num_clusters, len(names)), dtype=np.int64)
    np.add.at(table, (predictions, labels), 1)
    return table


def write_confusion(result: Evaluation, file: Path) -> None:
    """Write the images of each cluster (rows) and class (columns) as CSV; of an evaluation that counted them."""
    assert result.confusion is not None
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["cluster", *result.class_names])
    writer.writerows([cluster, *row] for cluster, row in enumerate(result.confusion.tolist()))
    write_whole(file, stream.getvalue())
