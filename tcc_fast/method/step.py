"""One step of Algorithm 1: contrast two views, move θ, let P and Q take the new keys, move θ̂.

Shapes: B images of this rank, K clusters, d feature dimensions. With several ranks, cluster sums and the keys of Q are
those of all of them, and gradients are averaged: together the ranks take the step that one process would take on the
global batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tcc_fast.batch import Batch
from tcc_fast.distributed import rank, sum_over_ranks, world_size
from tcc_fast.draws import STREAM_GUMBEL, BitsOfEach, bits_of_each, gumbel_of_each, scalar_key
from tcc_fast.method.assign import cluster_representation, cluster_sums
from tcc_fast.method.losses import (
    assignment_entropy,
    balanced_assignment,
    cluster_contrast,
    instance_bound,
    instance_log_likelihood,
    kl_to_uniform,
    neighbours_assignment,
    swapped_prediction,
    total_loss,
)
from tcc_fast.method.model import TCC, Outputs, momentum_at, update_twin
from tcc_fast.method.queues import MomentumQueue
from tcc_fast.precision import Precision
from tcc_fast.settings import Config


@dataclass(frozen=True)
class Queues:
    """P and Q."""

    cluster: MomentumQueue
    instance: MomentumQueue


def build_queues(
    config: Config, num_clusters: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Queues:
    """Empty queues of the configured lengths: P (L, d), the same at every rank, and this rank's shard of Q (J, d)."""
    dim, ranks = config.model.feature_dim, world_size()
    share = config.train.batch_size // ranks
    with torch.device(device):  # made there, not moved, so that Q is never there twice
        return Queues(
            cluster=MomentumQueue(config.queue.cluster_multiple * num_clusters, dim, dtype),
            instance=MomentumQueue(config.queue.instance_length, dim, dtype, rank(), ranks, share),
        )


class Losses(NamedTuple):
    """What a step measured; every entry stays on the device."""

    loss: Tensor
    """(), what is minimised: (9), and the swapped prediction if it is on; -log p of (7) alone before clusters."""
    loss_instance: Tensor
    """(), -log p of (7), mean over images."""
    loss_cluster: Tensor
    """(), equation (5); 0 while the cluster track is off."""
    kl_uniform: Tensor
    """(), KL of (6), mean over images."""
    entropy: Tensor
    """(), H(π) in nats, mean over images."""
    loss_swap: Tensor
    """(), swapped prediction, mean over images: an addition; 0 while it is off."""
    mean_pi: Tensor
    """(K,), mean of π over images."""
    sizes: Tensor
    """(K,) float, images of this batch whose argmax of π is k."""


SCALAR_LOSSES = Losses._fields[: Losses._fields.index("mean_pi")]
"""Names of those that are single numbers."""


class Keys(NamedTuple):
    """What the queues take after a step."""

    cluster: Tensor
    """r̂, (K, d)."""
    instance: Tensor
    """ê, (B, d)."""


class Engine(Protocol):
    """What a step needs of Accelerate."""

    def backward(self, loss: Tensor) -> None:
        """The backward pass."""

    def unwrap_model(self, model: nn.Module) -> Any:
        """θ without what data parallelism wraps around it."""


Noises = tuple[Tensor | None, ...]


class TrainingStep:
    """Holds what a step changes, and performs it.

    Args:
        config: the run's settings.
        model: θ as Accelerate prepared it.
        twin: θ̂, on the same device.
        queues: P and Q, on the same device.
        optimizer: over θ.
        accelerator: owns the backward pass.
        start_step: first step with clusters; before it the step is plain instance contrast.
        precision: of both encoders.

    Attributes:
        scaler: keeps gradients within the range of fp16: multiplies the loss, and divides the gradients before they are
            used; does nothing in other precisions. A step whose gradients overflow nevertheless leaves θ as it is.
    """

    def __init__(
        self,
        config: Config,
        model: nn.Module,
        twin: TCC,
        queues: Queues,
        optimizer: torch.optim.Optimizer,
        accelerator: Engine,
        start_step: int = 0,
        precision: Precision = Precision.FP32,
    ) -> None:
        self.config, self.model, self.twin, self.queues = config, model, twin, queues
        self.optimizer, self.accelerator, self.start_step = optimizer, accelerator, start_step
        self.precision = precision
        self._bits: BitsOfEach = bits_of_each
        device = queues.instance.keys.device
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision is Precision.FP16)
        self._theta: TCC = accelerator.unwrap_model(model)  # once, since that looks through all its modules

    def __call__(self, batch: Batch, step: int) -> Losses:
        """Train on one batch; ``step`` counts from 0 over the whole run."""
        clusters_on = self.clusters_on(step)
        losses, new_keys = self.contrast(batch, step)
        self.optimizer.zero_grad(set_to_none=True)
        loss, idle = losses.loss, self._idle_parameters(clusters_on)
        if isinstance(self.model, DistributedDataParallel):  # it waits for a gradient of every parameter
            loss = loss + sum(0.0 * parameter.sum() for parameter in idle)
        self.accelerator.backward(self.scaler.scale(loss))
        for parameter in idle:
            parameter.grad = None  # not zero, by which the optimiser would still move them
        self.move_theta()
        self.enqueue(new_keys, clusters_on)
        decay = momentum_at(step, self.config.momentum.decay, self.config.momentum.warmup)
        update_twin(self.twin, self._theta, 1.0 - decay)
        return Losses(*(part.detach() for part in losses))

    def move_theta(self) -> None:
        """Let the optimiser use the gradients that are there; one that is fused need not wait for the device."""
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def clusters_on(self, step: int) -> bool:
        """Whether this step trains clusters; otherwise it is plain instance contrast."""
        return self.config.loss.cluster_track and step >= self.start_step

    def enqueue(self, new_keys: Keys, clusters_on: bool) -> None:
        """Let P and Q take the keys of a step."""
        if clusters_on:
            self.queues.cluster.enqueue_no_sync(new_keys.cluster)
        self.queues.instance.enqueue_no_sync(new_keys.instance)

    def _idle_parameters(self, clusters_on: bool) -> list[nn.Parameter]:
        """Parameters that the loss of a step does not depend on."""
        model = self._theta
        idle = [] if clusters_on else [model.prototypes]
        if not (clusters_on and model.config.condition_on_cluster):
            idle += model.cluster_embedding.parameters()
        return idle

    def contrast(self, batch: Batch, step: int) -> tuple[Losses, Keys]:
        """Losses of one batch, with the graph that leads back to θ, and the keys it gives the queues."""
        noises = self.noises(batch.index, step)
        return self.contrast_views(batch.view_1, batch.view_2, noises, self.alpha_at(step), self.clusters_on(step))

    def contrast_views(
        self, view_1: Tensor, view_2: Tensor, noises: Noises, alpha: float | Tensor, clusters_on: bool
    ) -> tuple[Losses, Keys]:
        """:meth:`contrast` as a function of tensors, which can be compiled once for many steps."""
        losses, new_keys = self._one_direction(view_1, view_2, noises[:2], alpha, clusters_on)
        if self.config.loss.symmetric:
            # Only the first direction's keys enter the queues: one key an image, as in Algorithm 1.
            mirrored, _ = self._one_direction(view_2, view_1, noises[2:], alpha, clusters_on)
            losses = Losses(*((a + b) / 2 for a, b in zip(losses, mirrored, strict=True)))
        return losses, new_keys

    def _one_direction(
        self, view: Tensor, other_view: Tensor, noises: Noises, alpha: float | Tensor, clusters_on: bool
    ) -> tuple[Losses, Keys]:
        online = self.online(view, noises[0], clusters_on)
        return self.compare(online, self.momentum(other_view, noises[1], clusters_on), alpha, clusters_on)

    def online(self, view: Tensor, noise: Tensor | None, clusters_on: bool) -> Outputs:
        """What θ says of a view."""
        with self.precision.autocast(view.device):
            outputs: Outputs = self.model(view, noise, clusters_on)
        return outputs

    def momentum(self, view: Tensor, noise: Tensor | None, clusters_on: bool) -> Outputs:
        """What θ̂ says of a view; it keeps nothing for a backward pass."""
        with torch.no_grad(), self.precision.autocast(view.device):
            outputs: Outputs = self.twin(view, noise, clusters_on)
        return outputs

    def compare(
        self, online: Outputs, momentum: Outputs, alpha: float | Tensor, clusters_on: bool
    ) -> tuple[Losses, Keys]:
        """Equations (4) to (9) of one view against the other, and against the queues."""
        loss = self.config.loss
        log_likelihood = instance_log_likelihood(
            online.instance,
            momentum.instance,
            self.queues.instance.keys,
            loss.temperature,
            self.queues.instance.valid,
        )
        kl = kl_to_uniform(online.log_pi)
        swap = torch.zeros_like(log_likelihood[0])
        pi = online.log_pi.exp()
        r_hat = cluster_representation(sum_over_ranks(cluster_sums(momentum.log_pi.exp(), momentum.features)))
        if clusters_on:
            r = cluster_representation(sum_over_ranks(cluster_sums(pi, online.features)))
            l1 = cluster_contrast(
                r,
                r_hat,
                self.queues.cluster.keys if self.config.queue.cluster else None,
                loss.temperature_cluster or loss.temperature,
                self.queues.cluster.valid,
            )
            l2 = instance_bound(log_likelihood, kl, loss.kl_weight)
            total = total_loss(l1, l2, alpha)
            if loss.swap_weight:
                sharper = self.config.model.assignment_temperature / loss.swap_temperature
                assigned = momentum.log_pi
                if loss.swap_neighbours > 1:
                    assigned = neighbours_assignment(assigned, momentum.features, loss.swap_neighbours)
                swap = swapped_prediction(online.log_pi, balanced_assignment(assigned * sharper))
                total = total + loss.swap_weight * swap
        else:
            l1 = torch.zeros_like(log_likelihood[0])
            total = -log_likelihood.mean()
        losses = Losses(
            loss=total,
            loss_instance=-log_likelihood.mean(),
            loss_cluster=l1,
            kl_uniform=kl.mean(),
            entropy=assignment_entropy(online.log_pi).mean(),
            loss_swap=swap,
            mean_pi=pi.mean(dim=0),
            sizes=torch.zeros_like(pi[0]).index_add_(0, pi.argmax(dim=1), torch.ones_like(pi[:, 0])),
        )
        return losses, Keys(r_hat, momentum.instance)

    def noises(self, index: Tensor, step: int) -> Noises:
        """Gumbel noise of θ and of θ̂, (B, K) each, for every direction.

        A function of (seed, step, image, network), so ranks and workers cannot change it. It is made outside of what
        is compiled: Inductor would do parts of the hashing in 32 bits.
        """
        streams = range(4 if self.config.loss.symmetric else 2)
        if not (self.config.loss.gumbel and self.clusters_on(step)):
            return (None,) * len(streams)
        bases = [scalar_key(STREAM_GUMBEL, self.config.seed, step, stream) for stream in streams]
        return gumbel_of_each(bases, index, self.twin.prototypes.shape[0], self._bits).unbind(0)

    def alpha_at(self, step: int) -> float:
        """α of this step."""
        ramp = self.config.loss.alpha_ramp_steps
        if not ramp:
            return self.config.loss.alpha
        return self.config.loss.alpha * min(1.0, (step - self.start_step) / ramp)
