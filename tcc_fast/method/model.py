"""The online network θ (encoder, prototypes μ, NN) and its momentum twin θ̂."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tcc_fast.method.assign import gumbel_softmax, initial_prototypes, log_assignment
from tcc_fast.method.batch_norm import BatchNorm1d
from tcc_fast.method.encoder import build_encoder
from tcc_fast.settings import LossConfig, ModelConfig


class Outputs(NamedTuple):
    """What one network says of one view of B images."""

    features: Tensor
    """f, (B, d)."""
    log_pi: Tensor
    """log π, (B, K)."""
    instance: Tensor
    """e, (B, d), unit norm."""


class TCC(nn.Module):
    """θ: everything that is trained, and all that inference needs.

    Args:
        model: the network's settings; ``num_clusters`` must be set.
        loss: gives λ, the temperature of the Gumbel softmax.
        encoder: any module (B, 3, S, S) to (B, d); default: the one that ``model`` names.
    """

    def __init__(self, model: ModelConfig, loss: LossConfig, encoder: nn.Module | None = None) -> None:
        super().__init__()
        if model.num_clusters is None:
            raise ValueError("model.num_clusters is not set: say how many clusters, such as model.num_clusters=10")
        self.config = model
        self.gumbel_temperature = loss.gumbel_temperature
        self.encoder = build_encoder(model) if encoder is None else encoder
        self.feature_norm = BatchNorm1d(model.feature_dim, affine=False) if model.feature_batch_norm else nn.Identity()
        self.prototypes = nn.Parameter(initial_prototypes(model.prototype_init, model.num_clusters, model.feature_dim))
        self.cluster_embedding = nn.Linear(model.num_clusters, model.feature_dim)

    def forward(self, view: Tensor, noise: Tensor | None = None, condition: bool = True) -> Outputs:
        """Represent one view.

        Args:
            view: (B, 3, S, S).
            noise: (B, K) Gumbel(0, 1) noise of the draw c; None: c = π.
            condition: False leaves NN(c) out of (7), for plain instance contrast.
        """
        features = self.features(view)
        with torch.autocast(features.device.type, enabled=False):
            log_pi = self.log_assignment(features)
            instance = features
            if condition and self.config.condition_on_cluster:
                draw = log_pi.exp() if noise is None else gumbel_softmax(log_pi, noise, self.gumbel_temperature)
                instance = features + self.cluster_embedding(draw)  # NN(c) of (7)
            return Outputs(features, log_pi, F.normalize(instance, dim=1))

    def features(self, view: Tensor) -> Tensor:
        """f, (B, d), in the parameters' own precision."""
        encoded = self.encoder(view)
        with torch.autocast(encoded.device.type, enabled=False):
            features = self.feature_norm(encoded.to(self.prototypes.dtype))
            return F.normalize(features, dim=1) if self.config.normalize_features else features

    def log_assignment(self, features: Tensor) -> Tensor:
        """Equation (3): log π of features (B, d), as (B, K)."""
        normalize = self.config.normalize_prototypes
        prototypes = F.normalize(self.prototypes, dim=1) if normalize else self.prototypes
        return log_assignment(features, prototypes, self.config.assignment_temperature)

    @torch.no_grad()
    def set_prototypes(self, centres: Tensor) -> None:
        """Put μ at the given centres, (K, d)."""
        centres = centres.to(self.prototypes)
        self.prototypes.copy_(F.normalize(centres, dim=1) if self.config.normalize_prototypes else centres)


def momentum_twin(model: TCC) -> TCC:
    """θ̂ at the start: a copy of θ that no gradient reaches.

    The twin stays in training mode: its batch norm normalises by the statistics of its own batch, as the keys
    of MoCo are made, and its running statistics follow from its own forward passes. Averaging the online
    network's running statistics instead would normalise the twin's activations by another network's moments.
    """
    twin = copy.deepcopy(model)
    twin.requires_grad_(False)
    return twin.train()


def momentum_at(step: int, decay: float, warmup: bool) -> float:
    """m of θ̂ ← m θ̂ + (1 - m) θ after ``step`` earlier updates; with ``warmup`` it grows towards ``decay``."""
    return min(decay, 1.0 - 1.0 / (step / 10.0 + 2.0)) if warmup else decay


@torch.no_grad()
def update_twin(twin: nn.Module, model: nn.Module, step_size: float | Tensor) -> None:
    """θ̂ ← θ̂ + (1 - m) · (θ - θ̂), over all parameters in one fused pass.

    Args:
        twin: θ̂.
        model: θ.
        step_size: 1 - m. As a tensor, (), it is neither waited for nor a part of compiled code.
    """
    slow: list[Tensor] = list(twin.parameters())
    fast: list[Tensor] = list(model.parameters())
    if isinstance(step_size, Tensor):
        difference = torch._foreach_sub(fast, slow)
        torch._foreach_mul_(difference, step_size)
        torch._foreach_add_(slow, difference)
    else:
        torch._foreach_lerp_(slow, fast, step_size)
