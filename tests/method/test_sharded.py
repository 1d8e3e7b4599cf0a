"""The log-sum-exp over shards, in a process that holds them all; several processes are in test_ranks.py."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tcc_fast.method.sharded import sharded_logsumexp


def rows(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(count, 4, generator=generator, dtype=torch.float64), dim=1)


@pytest.mark.parametrize("temperature", [1.0, 0.01, 1e-4])  # the last: exp(1 / τ) is infinite
def test_it_is_the_log_sum_exp_of_the_valid_keys_and_so_is_its_gradient(temperature: float) -> None:
    queries, keys = rows(5, 1).requires_grad_(), rows(9, 2)
    valid = torch.tensor([True, False] * 4 + [True])
    expected = torch.logsumexp(queries @ keys[valid].T / temperature, dim=1)
    found = sharded_logsumexp(queries, keys, valid, temperature)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    weights = torch.arange(1.0, 6.0, dtype=torch.float64)
    (wanted,) = torch.autograd.grad((weights * expected).sum(), queries)
    (gradient,) = torch.autograd.grad((weights * found).sum(), queries)
    torch.testing.assert_close(gradient, wanted, rtol=1e-10, atol=1e-10)


def test_without_a_valid_key_it_is_minus_infinity_and_no_gradient() -> None:
    queries = rows(3, 1).requires_grad_()
    found = sharded_logsumexp(queries, rows(4, 2), torch.zeros(4, dtype=torch.bool), 0.5)
    assert found.tolist() == [-math.inf] * 3
    (gradient,) = torch.autograd.grad(found.exp().sum(), queries)
    assert not gradient.any()
