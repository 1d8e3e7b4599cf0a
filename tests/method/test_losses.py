"""Equations (5) to (9): the losses against the slow transcription, and against cases with a closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

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
from tests import equations

TIGHT = 1e-10
"""Relative tolerance between two float64 evaluations of one formula."""
NUMERICAL = 1e-6
"""Relative tolerance of a central difference."""


def unit_rows(rng: np.random.Generator, rows: int, dim: int) -> np.ndarray:
    x = rng.normal(size=(rows, dim))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def tensor(x: np.ndarray, requires_grad: bool = False) -> Tensor:
    return torch.tensor(x, dtype=torch.float64, requires_grad=requires_grad)


def first(n: int, length: int) -> Tensor:
    """A mask of the first n entries."""
    return torch.arange(length) < n


# (K, L / K, written entries of P, τ). None: no count is passed, so all of P counts.
CLUSTER_CASES = [
    (2, 1, None, 1.0),
    (2, 5, 4, 0.2),
    (3, 4, 12, 0.5),
    (3, 4, 7, 0.5),  # a count inside a group of K
    (10, 3, 10, 0.1),
    (10, 20, 150, 1.0),
    (20, 2, None, 0.2),
    (64, 2, 64, 0.5),
]


@pytest.mark.parametrize(("num_clusters", "multiple", "filled", "temperature"), CLUSTER_CASES)
def test_cluster_contrast_is_equation_5(num_clusters, multiple, filled, temperature):
    rng = np.random.default_rng(num_clusters)
    r, r_hat = unit_rows(rng, num_clusters, 8), unit_rows(rng, num_clusters, 8)
    queue = unit_rows(rng, num_clusters * multiple, 8)
    slow = equations.cluster_loss(r, r_hat, queue, temperature, None if filled is None else range(filled))
    valid = None if filled is None else first(filled, len(queue))
    fast = cluster_contrast(tensor(r), tensor(r_hat), tensor(queue), temperature, valid)
    assert fast.item() == pytest.approx(slow, rel=TIGHT)


@pytest.mark.parametrize(("num_clusters", "multiple", "filled"), [(2, 3, None), (3, 4, 6), (5, 2, 10), (4, 3, 0)])
def test_gradient_of_cluster_contrast(num_clusters, multiple, filled):
    rng = np.random.default_rng(num_clusters)
    r, r_hat = unit_rows(rng, num_clusters, 4), unit_rows(rng, num_clusters, 4)
    queue = unit_rows(rng, num_clusters * multiple, 4)
    written = None if filled is None else range(filled)
    online = tensor(r, requires_grad=True)
    valid = None if filled is None else first(filled, len(queue))
    cluster_contrast(online, tensor(r_hat), tensor(queue), 0.3, valid).backward()
    numerical = equations.central_difference(lambda x: equations.cluster_loss(x, r_hat, queue, 0.3, written), r)
    np.testing.assert_allclose(online.grad.numpy(), numerical, rtol=NUMERICAL, atol=1e-8)


def test_entries_of_the_same_cluster_have_no_influence():
    """The gradient with respect to r_k comes from the term of k alone, so it shows what that term depends on."""
    rng = np.random.default_rng(0)
    num_clusters, multiple = 5, 4
    r, r_hat = unit_rows(rng, num_clusters, 6), unit_rows(rng, num_clusters, 6)
    queue = unit_rows(rng, num_clusters * multiple, 6)

    def gradient(entries: np.ndarray) -> np.ndarray:
        online = tensor(r, requires_grad=True)
        cluster_contrast(online, tensor(r_hat), tensor(entries), 0.5).backward()
        return online.grad.numpy()

    before = gradient(queue)
    for k in range(num_clusters):
        changed = queue.copy()
        changed[k::num_clusters] = unit_rows(rng, multiple, 6)  # every l with l mod K == k
        after = gradient(changed)
        np.testing.assert_array_equal(after[k], before[k])
        others = np.arange(num_clusters) != k
        assert np.all(np.abs(after - before)[others].max(axis=1) > 1e-4)


def test_without_a_queue_the_negatives_are_the_other_clusters_of_this_step():
    rng = np.random.default_rng(1)
    r, r_hat = unit_rows(rng, 7, 5), unit_rows(rng, 7, 5)
    slow = equations.cluster_loss(r, r_hat, P=r_hat, tau=0.4)
    for valid in (None, first(0, 14), first(3, 14)):  # how full an unused queue is must not matter
        fast = cluster_contrast(tensor(r), tensor(r_hat), None, 0.4, valid)
        assert fast.item() == pytest.approx(slow, rel=TIGHT)


def test_cluster_contrast_with_orthogonal_queue():
    """r_k = r̂_k and P orthogonal to all r: L1 = log(1 + (L - L/K) exp(-1/τ))."""
    num_clusters, multiple, temperature = 4, 3, 0.5
    basis = torch.eye(8, dtype=torch.float64)
    r, queue = basis[:num_clusters], basis[num_clusters:].repeat(multiple, 1)
    expected = math.log(1 + (num_clusters - 1) * multiple * math.exp(-1 / temperature))
    assert cluster_contrast(r, r, queue, temperature).item() == pytest.approx(expected, rel=TIGHT)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_cluster_contrast_with_identical_keys(temperature):
    """All representations equal: L1 = log(1 + L - L/K), whatever τ is."""
    num_clusters, multiple = 6, 5
    same = torch.tensor([[0.6, 0.8]], dtype=torch.float64)
    r, queue = same.repeat(num_clusters, 1), same.repeat(num_clusters * multiple, 1)
    expected = math.log(1 + (num_clusters - 1) * multiple)
    assert cluster_contrast(r, r, queue, temperature).item() == pytest.approx(expected, rel=TIGHT)


def test_empty_queues_give_no_loss():
    rng = np.random.default_rng(2)
    r, r_hat, queue = (tensor(unit_rows(rng, n, 5)) for n in (4, 4, 12))
    assert cluster_contrast(r, r_hat, queue, 0.2, first(0, 12)).item() == 0.0
    assert torch.equal(instance_log_likelihood(r, r_hat, queue, 0.2, first(0, 12)), torch.zeros(4, dtype=torch.float64))


def test_low_temperatures_do_not_overflow():
    """r̂ = -r and every p = r, at τ = 0.005: exp(1/τ) is far beyond float32, the loss is 2/τ + log(L - L/K)."""
    num_clusters, multiple, temperature = 3, 4, 0.005
    r = torch.tensor([[1.0, 0.0]]).repeat(num_clusters, 1)
    loss = cluster_contrast(r, -r, r.repeat(multiple, 1), temperature)
    assert loss.item() == pytest.approx(2 / temperature + math.log((num_clusters - 1) * multiple), rel=1e-6)
    log_likelihood = instance_log_likelihood(r, -r, r.repeat(multiple, 1), temperature)
    expected = -2 / temperature - math.log(num_clusters * multiple)
    np.testing.assert_allclose(log_likelihood.numpy(), expected, rtol=1e-6)


# (B, J, written entries of Q, τ)
INSTANCE_CASES = [(1, 1, None, 1.0), (3, 7, 5, 0.5), (5, 12, None, 0.2), (8, 3, 3, 0.1), (6, 64, 1, 1.0)]


@pytest.mark.parametrize(("batch", "length", "filled", "temperature"), INSTANCE_CASES)
def test_instance_log_likelihood_is_equation_7(batch, length, filled, temperature):
    rng = np.random.default_rng(batch)
    e, e_hat, queue = (unit_rows(rng, n, 6) for n in (batch, batch, length))
    slow = equations.instance_log_likelihood(e, e_hat, queue, temperature, None if filled is None else range(filled))
    fast = instance_log_likelihood(
        tensor(e), tensor(e_hat), tensor(queue), temperature, None if filled is None else first(filled, length)
    )
    np.testing.assert_allclose(fast.numpy(), slow, rtol=TIGHT)
    assert fast.max().item() <= 0


def test_entries_of_q_count_wherever_they_lie():
    rng = np.random.default_rng(5)
    e, e_hat, queue = (unit_rows(rng, n, 4) for n in (3, 3, 7))
    mask = torch.tensor([True, False, True, True, False, False, True])
    slow = equations.instance_log_likelihood(e, e_hat, queue, 0.3, [0, 2, 3, 6])
    fast = instance_log_likelihood(tensor(e), tensor(e_hat), tensor(queue), 0.3, mask)
    np.testing.assert_allclose(fast.numpy(), slow, rtol=TIGHT)


@pytest.mark.parametrize("filled", [None, 3, 0])
def test_gradient_of_instance_log_likelihood(filled):
    rng = np.random.default_rng(3)
    e, e_hat, queue = (unit_rows(rng, n, 4) for n in (3, 3, 7))
    written = None if filled is None else range(filled)
    online = tensor(e, requires_grad=True)
    instance_log_likelihood(
        online, tensor(e_hat), tensor(queue), 0.3, None if filled is None else first(filled, 7)
    ).sum().backward()
    numerical = equations.central_difference(
        lambda x: equations.instance_log_likelihood(x, e_hat, queue, 0.3, written).sum(), e
    )
    np.testing.assert_allclose(online.grad.numpy(), numerical, rtol=NUMERICAL, atol=1e-8)


def test_instance_log_likelihood_closed_forms():
    basis = torch.eye(6, dtype=torch.float64)
    e, queue = basis[:2], basis[2:]
    expected = -math.log(1 + 4 * math.exp(-1 / 0.5))  # e = ê, Q orthogonal to both
    np.testing.assert_allclose(instance_log_likelihood(e, e, queue, 0.5).numpy(), expected, rtol=TIGHT)
    same = basis[:1].repeat(5, 1)
    np.testing.assert_allclose(instance_log_likelihood(same, same, same, 0.1).numpy(), -math.log(6), rtol=TIGHT)


def test_no_gradient_with_respect_to_the_twin():
    rng = np.random.default_rng(4)
    online, momentum = (tensor(unit_rows(rng, 4, 5), requires_grad=True) for _ in range(2))
    queue = tensor(unit_rows(rng, 8, 5))
    loss = cluster_contrast(online, momentum, queue, 0.5) + cluster_contrast(online, momentum, None, 0.5)
    (loss - instance_log_likelihood(online, momentum, queue, 0.5).sum()).backward()
    assert momentum.grad is None
    assert online.grad.abs().max() > 0


@pytest.mark.parametrize("num_clusters", [2, 3, 10, 64])
def test_kl_and_entropy_are_equation_6(num_clusters):
    rng = np.random.default_rng(num_clusters)
    logits = rng.normal(scale=3, size=(5, num_clusters))

    def softmax(x: np.ndarray) -> np.ndarray:
        return np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)

    online = tensor(logits, requires_grad=True)
    kl = kl_to_uniform(F.log_softmax(online, dim=1))
    np.testing.assert_allclose(kl.detach().numpy(), equations.kl_to_uniform(softmax(logits)), rtol=1e-9)
    entropy = assignment_entropy(F.log_softmax(online, dim=1))
    np.testing.assert_allclose(entropy.detach().numpy(), equations.entropy(softmax(logits)), rtol=1e-9)
    kl.sum().backward()
    numerical = equations.central_difference(lambda x: equations.kl_to_uniform(softmax(x)).sum(), logits)
    np.testing.assert_allclose(online.grad.numpy(), numerical, rtol=NUMERICAL, atol=1e-8)


@pytest.mark.parametrize("num_clusters", [2, 10, 64])
def test_kl_at_its_two_ends(num_clusters):
    uniform = F.log_softmax(torch.zeros(3, num_clusters, dtype=torch.float64), dim=1)
    np.testing.assert_allclose(kl_to_uniform(uniform).numpy(), 0.0, atol=1e-14)
    one_hot = F.log_softmax(1e4 * torch.eye(num_clusters, dtype=torch.float64), dim=1)
    np.testing.assert_allclose(kl_to_uniform(one_hot).numpy(), math.log(num_clusters), rtol=TIGHT)
    np.testing.assert_array_equal(assignment_entropy(one_hot).numpy(), 0.0)


@pytest.mark.parametrize(("num_clusters", "length"), [(2, 5), (10, 23)])
def test_instance_bound_is_equation_8(num_clusters, length):
    rng = np.random.default_rng(length)
    e, e_hat, queue = (unit_rows(rng, n, 6) for n in (4, 4, length))
    pi = rng.dirichlet(np.ones(num_clusters), size=4)
    slow = equations.instance_loss(e, e_hat, pi, queue, tau=0.5)
    log_likelihood = instance_log_likelihood(tensor(e), tensor(e_hat), tensor(queue), 0.5)
    kl = kl_to_uniform(tensor(pi).log())
    assert instance_bound(log_likelihood, kl).item() == pytest.approx(slow, rel=TIGHT)


def test_kl_weight_scales_the_prior_alone():
    log_likelihood, kl = torch.tensor([-1.0, -3.0]), torch.tensor([0.5, 0.1])
    assert instance_bound(log_likelihood, kl, 0.0).item() == pytest.approx(2.0)
    assert instance_bound(log_likelihood, kl, 1.0).item() == pytest.approx(2.3)
    assert instance_bound(log_likelihood, kl, 2.0).item() == pytest.approx(2.6)


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.5, 1.0])
def test_total_loss_is_equation_9(alpha):
    l1, l2 = torch.tensor(3.0, dtype=torch.float64), torch.tensor(7.0, dtype=torch.float64)
    assert total_loss(l1, l2, alpha).item() == pytest.approx(equations.total_loss(3.0, 7.0, alpha), rel=TIGHT)
    assert torch.equal(total_loss(l1, l2, torch.tensor(alpha, dtype=torch.float64)), total_loss(l1, l2, alpha))


# ---- the swapped prediction, an addition


@pytest.mark.parametrize("iterations", [1, 3, 20])
def test_a_balanced_assignment_is_sinkhorns(iterations):
    scores = np.random.default_rng(iterations).normal(size=(12, 4)) * 3
    found = balanced_assignment(tensor(scores), iterations).numpy()
    np.testing.assert_allclose(found, equations.balanced_assignment(scores, iterations), rtol=TIGHT)
    np.testing.assert_allclose(found.sum(axis=1), 1.0, rtol=TIGHT)


def test_after_enough_iterations_every_cluster_gets_its_share_even_of_scores_whose_exponentials_overflow():
    scores = np.random.default_rng(0).normal(size=(30, 5))
    scores[:, 0] += 2  # nearly all want the first
    assert np.bincount(scores.argmax(axis=1), minlength=5)[0] > 20
    np.testing.assert_allclose(balanced_assignment(tensor(scores), 200).numpy().sum(axis=0), 6.0, rtol=1e-6)
    extreme = balanced_assignment(tensor(scores * 1000), 3)
    assert extreme.isfinite().all()


def test_swapped_prediction_is_a_cross_entropy_and_least_where_they_agree():
    rng = np.random.default_rng(1)
    target = equations.balanced_assignment(rng.normal(size=(6, 3)))
    log_pi = torch.log_softmax(tensor(rng.normal(size=(6, 3)), requires_grad=True), dim=1)
    expected = -np.mean([np.dot(q, p) for q, p in zip(target, log_pi.detach().numpy(), strict=True)])
    assert swapped_prediction(log_pi, tensor(target)).item() == pytest.approx(expected, rel=TIGHT)
    agreeing = swapped_prediction(tensor(np.log(target)), tensor(target)).item()
    assert agreeing == pytest.approx(equations.entropy(target).mean(), rel=TIGHT)
    assert agreeing < expected


@pytest.mark.parametrize("neighbours", [1, 3, 12, 20])
def test_neighbours_are_assigned_what_they_have_on_average(neighbours):
    rng = np.random.default_rng(neighbours)
    features, pi = rng.normal(size=(12, 5)), rng.dirichlet(np.ones(4), size=12)
    found = neighbours_assignment(tensor(np.log(pi)), tensor(features), neighbours).exp().numpy()
    np.testing.assert_allclose(found, equations.neighbours_mean(pi, features, neighbours), rtol=TIGHT)
    if neighbours == 1:
        np.testing.assert_allclose(found, pi, rtol=TIGHT)


def test_no_gradient_flows_into_the_targets_of_the_swapped_prediction() -> None:
    """They are the twin's; a gradient through them would reach θ where both networks are the same."""
    logits = torch.randn(6, 3, requires_grad=True)
    features = torch.randn(6, 4, requires_grad=True)
    assert not balanced_assignment(logits).requires_grad
    assert not neighbours_assignment(torch.log_softmax(logits, dim=1), features, 2).requires_grad
