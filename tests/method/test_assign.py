"""Equations (3) and (4), the Gumbel-softmax draw, and the initial prototypes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tcc_fast.draws import gumbel, keys, scalar_key
from tcc_fast.method.assign import (
    cluster_representation,
    cluster_sums,
    gumbel_softmax,
    initial_prototypes,
    log_assignment,
    simplex_prototypes,
)
from tcc_fast.method.losses import cluster_contrast
from tests import equations


def tensor(x: np.ndarray, requires_grad: bool = False) -> Tensor:
    return torch.tensor(x, dtype=torch.float64, requires_grad=requires_grad)


def representation(features: Tensor, prototypes: Tensor) -> Tensor:
    """(3), then (4)."""
    pi = log_assignment(features, prototypes).exp()
    return cluster_representation(cluster_sums(pi, features))


@pytest.mark.parametrize(("batch", "num_clusters", "dim"), [(1, 2, 2), (5, 3, 4), (7, 10, 8), (3, 64, 16)])
def test_assignment_is_equation_3(batch, num_clusters, dim):
    rng = np.random.default_rng(num_clusters)
    f, mu = rng.normal(size=(batch, dim)), rng.normal(size=(num_clusters, dim))
    log_pi = log_assignment(tensor(f), tensor(mu))
    np.testing.assert_allclose(log_pi.exp().numpy(), equations.assignment(f, mu), rtol=1e-10)
    np.testing.assert_allclose(log_pi.exp().sum(dim=1).numpy(), 1.0, rtol=1e-12)


def test_gradients_of_the_assignment():
    rng = np.random.default_rng(0)
    f, mu, weight = rng.normal(size=(4, 3)), rng.normal(size=(5, 3)), rng.normal(size=(4, 5))
    features, prototypes = tensor(f, requires_grad=True), tensor(mu, requires_grad=True)
    (tensor(weight) * log_assignment(features, prototypes).exp()).sum().backward()

    numerical_f = equations.central_difference(lambda x: (weight * equations.assignment(x, mu)).sum(), f)
    numerical_mu = equations.central_difference(lambda x: (weight * equations.assignment(f, x)).sum(), mu)
    np.testing.assert_allclose(features.grad.numpy(), numerical_f, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(prototypes.grad.numpy(), numerical_mu, rtol=1e-6, atol=1e-8)


def test_temperature_divides_the_logits():
    rng = np.random.default_rng(1)
    f, mu = rng.normal(size=(4, 3)), rng.normal(size=(5, 3))
    expected = equations.assignment(f, mu / 0.1)
    np.testing.assert_allclose(log_assignment(tensor(f), tensor(mu), 0.1).exp().numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize(("batch", "num_clusters", "dim"), [(1, 2, 2), (6, 3, 4), (9, 64, 5)])
def test_cluster_representation_is_equation_4(batch, num_clusters, dim):
    rng = np.random.default_rng(batch)
    f, pi = rng.normal(size=(batch, dim)), rng.dirichlet(np.ones(num_clusters), size=batch)
    r = cluster_representation(cluster_sums(tensor(pi), tensor(f)))
    np.testing.assert_allclose(r.numpy(), equations.cluster_representation(pi, f), rtol=1e-9)
    np.testing.assert_allclose(r.norm(dim=1).numpy(), 1.0, rtol=1e-12)


def test_batch_order_changes_nothing_in_r():
    rng = np.random.default_rng(2)
    f, mu = rng.normal(size=(32, 6)), rng.normal(size=(4, 6))
    r = representation(tensor(f), tensor(mu)).numpy()
    for _ in range(5):
        shuffled = representation(tensor(f[rng.permutation(32)]), tensor(mu)).numpy()
        np.testing.assert_allclose(shuffled, r, rtol=1e-12, atol=1e-14)


def test_every_image_leaks_into_every_cluster():
    """No hard assignment in (4): r_k has a gradient to every image, even far from prototype k."""
    rng = np.random.default_rng(3)
    features, prototypes = tensor(rng.normal(size=(6, 4)), requires_grad=True), tensor(rng.normal(size=(3, 4)))
    for k in range(3):
        (gradient,) = torch.autograd.grad(representation(features, prototypes)[k].sum(), features)
        assert gradient.abs().sum(dim=1).min() > 1e-6


def test_gradient_of_the_cluster_loss_down_to_features_and_prototypes():
    """The chain (3), (4), (5) as one function, against central differences of its transcription."""
    rng = np.random.default_rng(4)
    f, mu = rng.normal(size=(5, 3)), rng.normal(size=(4, 3))
    r_hat, queue = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (rng.normal(size=(n, 3)) for n in (4, 8)))

    def slow(f: np.ndarray, mu: np.ndarray) -> float:
        r = equations.cluster_representation(equations.assignment(f, mu), f)
        return equations.cluster_loss(r, r_hat, queue, 0.5)

    features, prototypes = tensor(f, requires_grad=True), tensor(mu, requires_grad=True)
    loss = cluster_contrast(representation(features, prototypes), tensor(r_hat), tensor(queue), 0.5)
    assert loss.item() == pytest.approx(slow(f, mu), rel=1e-10)
    loss.backward()
    np.testing.assert_allclose(
        features.grad.numpy(), equations.central_difference(lambda x: slow(x, mu), f), rtol=1e-6, atol=1e-8
    )
    np.testing.assert_allclose(
        prototypes.grad.numpy(), equations.central_difference(lambda x: slow(f, x), mu), rtol=1e-6, atol=1e-8
    )


# ---- the Gumbel-softmax draw


@pytest.mark.parametrize(("num_clusters", "temperature"), [(2, 1.0), (10, 0.3), (64, 0.5)])
def test_gumbel_softmax_is_the_transcription(num_clusters, temperature):
    rng = np.random.default_rng(num_clusters)
    pi, noise = rng.dirichlet(np.ones(num_clusters), size=5), rng.gumbel(size=(5, num_clusters))
    c = gumbel_softmax(tensor(pi).log(), tensor(noise), temperature)
    np.testing.assert_allclose(c.numpy(), equations.gumbel_softmax(pi, noise, temperature), rtol=1e-9)


def test_gradient_of_the_draw():
    rng = np.random.default_rng(5)
    pi, noise, weight = rng.dirichlet(np.ones(4), size=3), rng.gumbel(size=(3, 4)), rng.normal(size=(3, 4))
    online = tensor(pi, requires_grad=True)
    (tensor(weight) * gumbel_softmax(online.log(), tensor(noise), 0.5)).sum().backward()
    numerical = equations.central_difference(lambda x: (weight * equations.gumbel_softmax(x, noise, 0.5)).sum(), pi)
    np.testing.assert_allclose(online.grad.numpy(), numerical, rtol=1e-6, atol=1e-8)


PI = np.array([0.4, 0.3, 0.15, 0.1, 0.05])
DRAWS = 40_000


def largest_deviation(noise: Tensor) -> float:
    """Between the frequencies of argmax c and π, in standard errors of a true draw."""
    c = gumbel_softmax(torch.tensor(PI).log().expand(len(noise), -1), noise, 0.3)
    frequency = np.bincount(c.argmax(dim=1).numpy(), minlength=len(PI)) / len(noise)
    return float(np.max(np.abs(frequency - PI) / np.sqrt(PI * (1 - PI) / len(noise))))


def test_argmax_of_the_draw_follows_pi():
    """Bound: 4.5 standard errors for each of 5 frequencies, so a correct draw fails for 1 seed in 30 000.

    Power: a standard error is at most 0.0025 at 40 000 draws; a generator that is off by 0.02 in any π(k) lies 8
    or more standard errors out and passes for fewer than 1 seed in 1 000. The control shows it: normal noise of
    the same variance, an easy mistake, is rejected.
    """
    index = torch.arange(DRAWS)
    assert largest_deviation(gumbel(keys(scalar_key(7, 0), index), len(PI))) < 4.5
    normal = torch.randn(DRAWS, len(PI), generator=torch.Generator().manual_seed(0)) * math.pi / math.sqrt(6)
    assert largest_deviation(normal) > 8


def test_lower_temperature_is_sharper():
    rng = np.random.default_rng(6)
    log_pi, noise = tensor(rng.dirichlet(np.ones(5), size=200)).log(), tensor(rng.gumbel(size=(200, 5)))
    sharpness = [gumbel_softmax(log_pi, noise, t).max(dim=1).values for t in (10.0, 1.0, 0.5, 0.3, 0.1)]
    for blunt, sharp in itertools.pairwise(sharpness):
        assert torch.all(sharp >= blunt)
        assert sharp.mean() > blunt.mean() + 0.02
    one_hot = gumbel_softmax(log_pi, noise, 1e-4)
    np.testing.assert_allclose(one_hot.max(dim=1).values.mean().item(), 1.0, atol=1e-3)
    np.testing.assert_allclose(gumbel_softmax(log_pi, noise, 1e6).numpy(), 0.2, atol=1e-4)


# ---- initial prototypes


@pytest.mark.parametrize(("num_clusters", "dim"), [(2, 2), (2, 128), (3, 2), (10, 128), (64, 63), (20, 32)])
def test_simplex_cosines(num_clusters, dim):
    """Unit vectors, every pair at cosine -1 / (K - 1): the most that K directions can be apart."""
    prototypes = simplex_prototypes(num_clusters, dim).double()
    cosines = (prototypes @ prototypes.T).numpy()
    np.testing.assert_allclose(np.diag(cosines), 1.0, atol=1e-5)
    np.testing.assert_allclose(cosines[~np.eye(num_clusters, dtype=bool)], -1 / (num_clusters - 1), atol=1e-5)


def test_simplex_beyond_its_reach_gives_distinct_unit_vectors():
    prototypes = simplex_prototypes(10, 4).double()
    cosines = (prototypes @ prototypes.T).numpy()
    np.testing.assert_allclose(np.diag(cosines), 1.0, atol=1e-5)
    assert cosines[~np.eye(10, dtype=bool)].max() < 0.9999


@pytest.mark.parametrize("kind", ["simplex", "orthogonal", "normal"])
def test_initial_prototypes_follow_the_global_seed(kind):
    def draw(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return initial_prototypes(kind, 6, 16)

    assert draw(0).shape == (6, 16)
    assert torch.equal(draw(0), draw(0))
    assert not torch.allclose(draw(0), draw(1))


def test_kinds_of_initial_prototypes():
    torch.manual_seed(0)
    simplex = initial_prototypes("simplex", 5, 16)
    np.testing.assert_allclose((simplex @ simplex.T)[0, 1:].numpy(), -0.25, atol=1e-5)
    orthogonal = initial_prototypes("orthogonal", 5, 16)
    np.testing.assert_allclose((orthogonal @ orthogonal.T).numpy(), np.eye(5), atol=1e-5)
    normal = initial_prototypes("normal", 200, 64)  # entries of variance 1/d, so rows of about unit norm
    assert normal.std().item() == pytest.approx(1 / math.sqrt(64), rel=0.03)
    assert normal.mean().item() == pytest.approx(0.0, abs=0.005)
    assert normal.norm(dim=1).std() > 0.01
