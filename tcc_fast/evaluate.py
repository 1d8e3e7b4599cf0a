"""Evaluation of a checkpoint: how its clusters agree with classes, beside k-means on features and on pixels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from sklearn.cluster import KMeans

from tcc_fast.checkpoint import find_checkpoint, load_model, read_state
from tcc_fast.datasets import Dataset, open_dataset
from tcc_fast.embed import embed
from tcc_fast.metrics import Scores, score
from tcc_fast.pipelines.pictures import common_geometry, decode
from tcc_fast.session import resolve_precision

KMEANS_RESTARTS = 10
NO_SCORES = {"acc": None, "nmi": None, "ari": None}


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found. Scores are 0 to 1, and None without labels."""

    checkpoint: Path
    step: int
    dataset: str
    split: str
    n: int
    image_size: int
    num_clusters: int
    num_classes: int | None
    clusters_used: int
    cluster_sizes: list[int]
    scores: Scores | None
    kmeans_features: Scores | None
    kmeans_pixels: Scores | None
    has_kmeans_features: bool
    has_kmeans_pixels: bool
    same_data: bool
    """Whether these are the pictures the model was trained on, as is the field's custom."""

    def to_json(self) -> dict[str, Any]:
        """Plain data with the documented keys."""
        result: dict[str, Any] = {
            **(self.scores or NO_SCORES),
            "n": self.n,
            "num_clusters": self.num_clusters,
            "num_classes": self.num_classes,
            "clusters_used": self.clusters_used,
            "cluster_sizes": self.cluster_sizes,
        }
        if self.has_kmeans_features:
            result["kmeans_features"] = self.kmeans_features or NO_SCORES
        if self.has_kmeans_pixels:
            result["kmeans_pixels"] = self.kmeans_pixels or NO_SCORES
        return result | {
            "dataset": self.dataset,
            "split": self.split,
            "image_size": self.image_size,
            "checkpoint": str(self.checkpoint),
            "step": self.step,
            "trained_on_these_images": self.same_data,
        }


def evaluate(
    ckpt: str | Path,
    data: Path | None = None,
    kmeans_features: bool = True,
    kmeans_pixels: bool = False,
    batch_size: int = 512,
) -> Evaluation:
    """Cluster every picture by argmax of π and compare with the labels, if there are any.

    Args:
        ckpt: a run, a checkpoint folder, or `latest`.
        data: the data set folder; None: the one the run was trained on.
        kmeans_features: also run k-means (K clusters) on f.
        kmeans_pixels: also run k-means (K clusters) on the stored pixels.
        batch_size: pictures at a time.

    Raises:
        ValueError: no such checkpoint or data set, or a damaged one.
    """
    checkpoint = find_checkpoint(ckpt)
    state = read_state(checkpoint)
    config = state.config
    dataset = open_dataset(data or Path(state.dataset["path"]))
    bf16 = resolve_precision(config.train.precision) == "bf16"
    accelerator = Accelerator(mixed_precision="bf16" if bf16 else "no")
    model = load_model(checkpoint, config).to(accelerator.device).to(memory_format=torch.channels_last)
    indices = range(len(dataset))
    features, assignment = embed(
        model,
        dataset,
        indices,
        config.data.image_size,
        accelerator.device,
        batch_size,
        accelerator.autocast(),
    )
    predictions = assignment.argmax(dim=1).numpy()
    labels = dataset.labels()
    num_clusters = assignment.shape[1]
    sizes = np.bincount(predictions, minlength=num_clusters)

    def kmeans(points: np.ndarray) -> Scores | None:
        if labels is None:
            return None
        found = KMeans(num_clusters, n_init=KMEANS_RESTARTS, random_state=config.seed).fit_predict(points)
        return score(labels, found)

    names = dataset.manifest.class_names
    return Evaluation(
        checkpoint=checkpoint,
        step=state.step,
        dataset=dataset.manifest.name,
        split="all",
        n=len(dataset),
        image_size=config.data.image_size,
        num_clusters=num_clusters,
        num_classes=len(names) if names else None,
        clusters_used=int((sizes > 0).sum()),
        cluster_sizes=sizes.tolist(),
        scores=None if labels is None else score(labels, predictions),
        kmeans_features=kmeans(features.double().numpy()) if kmeans_features else None,
        kmeans_pixels=kmeans(pixels(dataset, config.data.image_size)) if kmeans_pixels else None,
        has_kmeans_features=kmeans_features,
        has_kmeans_pixels=kmeans_pixels,
        same_data=state.dataset["fingerprint"] == dataset.fingerprint,
    )


def pixels(dataset: Dataset, image_size: int) -> np.ndarray:
    """Stored pixels of every picture as one row, float32 (N, 3 H W), for the k-means baseline."""
    pictures = decode(dataset, range(len(dataset)), common_geometry(dataset, image_size))
    return pictures.flatten(1).numpy().astype(np.float32)
