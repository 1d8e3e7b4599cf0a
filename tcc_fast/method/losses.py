"""Equations (5) to (9) as pure functions of tensors.

Shapes: B images, K clusters, d feature dimensions, L = |P|, J = |Q|. All representations are unit vectors.
An entry of a queue that was never written is no negative. Queue and twin tensors are constants: no gradient is taken
with respect to them.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from tcc_fast.distributed import exchanging, gather, own_part
from tcc_fast.method.sharded import sharded_logsumexp


def cluster_contrast(
    r: Tensor, r_hat: Tensor, queue: Tensor | None, temperature: float, valid: Tensor | None = None
) -> Tensor:
    """Equation (5), L1: each cluster against its momentum twin, with past representations of the *others* in P.

    Args:
        r: (K, d) cluster representations of the online network.
        r_hat: (K, d) those of the momentum network.
        queue: P, (L, d) with L a multiple of K; entry l is of cluster l mod K. None: the other clusters of
            ``r_hat`` are the negatives instead.
        temperature: τ.
        valid: (L,) bool, which entries of P are keys; None: all.

    Returns:
        (), the mean over clusters.
    """
    num_clusters = len(r)
    negatives = r_hat.detach() if queue is None else queue
    positive = (r * r_hat.detach()).sum(dim=1) / temperature  # (K,)
    logits = r @ negatives.T / temperature  # (K, L)
    entry = torch.arange(len(negatives), device=r.device)
    same = entry.unsqueeze(0) % num_clusters == torch.arange(num_clusters, device=r.device).unsqueeze(1)
    excluded = same if valid is None or queue is None else same | ~valid
    logits = logits.masked_fill(excluded, -math.inf)
    all_logits = torch.cat([positive.unsqueeze(1), logits], dim=1)
    return (torch.logsumexp(all_logits, dim=1) - positive).mean()


def instance_log_likelihood(
    e: Tensor, e_hat: Tensor, queue: Tensor, temperature: float, valid: Tensor | None = None
) -> Tensor:
    """Equation (7): log p(i | x, c), each image's own momentum key against the keys of Q.

    With several ranks, B are this rank's images, ``queue`` is its shard of Q, and the keys of all shards count.

    Args:
        e: (B, d) instance representations of the online network.
        e_hat: (B, d) those of the momentum network, on the other view.
        queue: Q, (J, d).
        temperature: τ.
        valid: (J,) bool, which entries of Q are keys; None: all.

    Returns:
        (B,), at most 0.
    """
    positive = (e * e_hat.detach()).sum(dim=1) / temperature  # (B,)
    if exchanging():
        everything = torch.ones(len(queue), dtype=torch.bool, device=e.device)
        negative = sharded_logsumexp(e, queue, everything if valid is None else valid, temperature)
    else:
        logits = e @ queue.T / temperature  # (B, J)
        if valid is not None:
            logits = logits.masked_fill(~valid, -math.inf)
        negative = torch.logsumexp(logits, dim=1)
    # Not one sum over all of them: the logits would be copied beside the positive.
    return positive - torch.logaddexp(positive, negative)


def assignment_entropy(log_pi: Tensor) -> Tensor:
    """H(π) in nats: (B, K) log-probabilities to (B,)."""
    return -(log_pi.exp() * log_pi).sum(dim=1)


def kl_to_uniform(log_pi: Tensor) -> Tensor:
    """KL(π || uniform) = log K - H(π), the prior term of (6) and (8): (B, K) to (B,)."""
    return math.log(log_pi.shape[1]) - assignment_entropy(log_pi)


def instance_bound(log_likelihood: Tensor, kl: Tensor, kl_weight: float = 1.0) -> Tensor:
    """Equation (8), L2: the mean over images of -log p + KL. ``kl_weight`` other than 1 is an addition."""
    return (kl_weight * kl - log_likelihood).mean()


@torch.no_grad()
def balanced_assignment(logits: Tensor, iterations: int = 3) -> Tensor:
    """Soft assignment of a batch in which every cluster gets about the same share (Sinkhorn's algorithm, as in SwAV).

    Columns and rows of exp(logits) are normalised in turn, in log space, over the images of all ranks.

    Args:
        logits: (B, K), of this rank's images.
        iterations: how often.

    Returns:
        (B, K): rows sum to 1; columns, over all ranks, roughly to their number of images / K.
    """
    log_q = torch.log_softmax(gather(logits), dim=1)
    for _ in range(iterations):
        log_q = log_q - torch.logsumexp(log_q, dim=0, keepdim=True)
        log_q = log_q - torch.logsumexp(log_q, dim=1, keepdim=True)
    q = log_q.exp()
    return own_part(q) if exchanging() else q


@torch.no_grad()
def neighbours_assignment(log_pi: Tensor, features: Tensor, neighbours: int) -> Tensor:
    """What an image's nearest neighbours in the batch are assigned to, on average: an addition.

    Args:
        log_pi: (B, K), of this rank's images.
        features: (B, d), theirs: neighbours are the nearest of the images of all ranks by cosine.
        neighbours: how many, the image itself among them; at most the batch is taken.

    Returns:
        (B, K), log of the mean of their π.
    """
    everyone = F.normalize(gather(features), dim=1)
    count = min(neighbours, len(everyone))
    nearest = (features @ everyone.T).topk(count, dim=1).indices  # (B, count)
    return torch.logsumexp(gather(log_pi)[nearest], dim=1) - math.log(count)


def swapped_prediction(log_pi: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of π with the assignment of the other view, (B, K) each; the mean over images, (). Addition."""
    return -(target * log_pi).sum(dim=1).mean()


def total_loss(l1: Tensor, l2: Tensor, alpha: float | Tensor) -> Tensor:
    """Equation (9): L = α L1 + (1 - α) L2."""
    return alpha * l1 + (1 - alpha) * l2
