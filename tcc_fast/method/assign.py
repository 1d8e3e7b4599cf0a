"""Soft cluster assignment: prototypes, π, the Gumbel-softmax draw, and cluster representations.

Shapes: B images, K clusters, d feature dimensions. Equation numbers are those of "You Never Cluster Alone"
(Shen et al., NeurIPS 2021). Everything stays in log space where it can, so that nothing underflows.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def simplex_prototypes(num_clusters: int, dim: int) -> Tensor:
    """Maximally separated unit vectors, (K, d): pairwise cosine -1 / (K - 1) where d allows it (K <= d + 1).

    With K > d + 1 no such arrangement exists, and random unit vectors are returned.
    """
    if num_clusters > dim + 1:
        return F.normalize(torch.randn(num_clusters, dim), dim=1)
    centred = torch.eye(num_clusters) - 1.0 / num_clusters  # rank K - 1
    _, _, basis = torch.linalg.svd(centred)
    corners = F.normalize(centred @ basis[: num_clusters - 1].T, dim=1)  # (K, K - 1)
    rotation = torch.nn.init.orthogonal_(torch.empty(num_clusters - 1, dim))
    return corners @ rotation


def initial_prototypes(kind: str, num_clusters: int, dim: int) -> Tensor:
    """Initial μ, (K, d), from torch's global generator: `simplex`, `orthogonal` or `normal`."""
    if kind == "simplex":
        return simplex_prototypes(num_clusters, dim)
    if kind == "orthogonal":
        return torch.nn.init.orthogonal_(torch.empty(num_clusters, dim))
    return torch.randn(num_clusters, dim) / dim**0.5


def log_assignment(features: Tensor, prototypes: Tensor, temperature: float = 1.0) -> Tensor:
    """Equation (3): log π(k) = log softmax over k of μ_kᵀ f / temperature. (B, d), (K, d) to (B, K)."""
    return F.log_softmax(features @ prototypes.T / temperature, dim=1)


def gumbel_softmax(log_pi: Tensor, noise: Tensor, temperature: float) -> Tensor:
    """Relaxed draw c(k) = softmax over k of (log π(k) + ε(k)) / λ, with ε ~ Gumbel(0, 1). (B, K) each."""
    return F.softmax((log_pi + noise) / temperature, dim=1)


def cluster_sums(pi: Tensor, features: Tensor) -> Tensor:
    """Numerators of equation (4) over this rank's images, Σ_i π_i(k) f_i: (B, K), (B, d) to (K, d)."""
    return pi.T @ features


def cluster_representation(sums: Tensor) -> Tensor:
    """Equation (4): the sums over the *global* batch, each divided by its L2 norm. (K, d)."""
    return F.normalize(sums, dim=1)
