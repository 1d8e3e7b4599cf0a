"""How good clusters look without labels: quantities by which seeds and settings can be compared.

None of them uses a label. How well each follows ACC is in docs/quality.md.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from sklearn.metrics import silhouette_score
from torch import Tensor

from tcc_fast.batch import Pipeline
from tcc_fast.evaluation.embed import encode
from tcc_fast.method.model import TCC
from tcc_fast.precision import Precision

SILHOUETTE_IMAGES = 2_000
"""The silhouette compares all pairs, so it sees at most this many images, drawn once and for all."""


def label_free_scores(features: Tensor, assignment: Tensor) -> dict[str, float]:
    """Quantities of whole images.

    Args:
        features: f, (n, d).
        assignment: π, (n, K).

    Returns:
        ``silhouette``: of argmax π on f, cosine distance, -1 to 1 (Rousseeuw 1987); nan with a single cluster.
        ``confidence``: mean of the largest π, 1 / K to 1.
        ``balance``: entropy of the cluster sizes over log K, 0 to 1.
    """
    num_images, num_clusters = assignment.shape
    largest, predictions = assignment.max(dim=1)
    sizes = torch.bincount(predictions, minlength=num_clusters).double()
    share = (sizes / num_images)[sizes > 0]
    some = torch.randperm(num_images, generator=torch.Generator().manual_seed(0))[:SILHOUETTE_IMAGES]
    seen = predictions[some].numpy()
    present = len(np.unique(seen))
    silhouette = math.nan
    if 1 < present < len(seen):
        silhouette = float(silhouette_score(features[some].numpy(), seen, metric="cosine"))
    return {
        "silhouette": silhouette,
        "confidence": largest.mean().item(),
        "balance": abs((share * share.log()).sum().item()) / math.log(num_clusters),
    }


def describe_scores(values: dict[str, float]) -> str:
    """Quantities by name, for people."""
    return ", ".join(f"{name} none" if math.isnan(value) else f"{name} {value:.3f}" for name, value in values.items())


@torch.no_grad()
def view_agreement(model: TCC, pipeline: Pipeline, precision: Precision = Precision.FP32) -> float:
    """Share of the images of an epoch whose two augmented views get the same argmax π, 0 to 1.

    Args:
        model: θ, on the pipeline's device; used in evaluation mode, and left in the mode it was in.
        pipeline: gives the views; of a single process.
        precision: of the encoder.
    """
    was_training = model.training
    model.eval()
    same, total = 0, 0
    for batch in pipeline:
        first, second = (encode(model, view, precision)[1].argmax(dim=1) for view in (batch.view_1, batch.view_2))
        same += int((first == second).sum())
        total += len(batch.index)
    model.train(was_training)
    return same / total
