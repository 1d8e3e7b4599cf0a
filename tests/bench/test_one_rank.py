"""A rank that exchanges with itself what several would, against a step that exchanges nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from tcc_fast import distributed
from tcc_fast.bench import one_rank
from tcc_fast.method import batch_norm_kernels
from tcc_fast.method.compiled_step import CompiledStep
from tcc_fast.method.sharded import sharded_logsumexp

CPU = torch.device("cpu")

# Dynamo's, of torch 2.11, about itself.
pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are compiled as well."""
    monkeypatch.setattr(one_rank, "compile_mode", lambda choice, device, processes: "on")
    monkeypatch.setitem(one_rank.STEPS, "on", partial(CompiledStep, backend="aot_eager"))


def test_all_that_ranks_exchange_changes_nothing_in_one(as_on_a_gpu: None) -> None:
    assert one_rank.check(CPU) == {"backend": "gloo", "ok": True}
    assert not dist.is_initialized()
    assert not distributed.exchange_alone


def doubled(x: Tensor) -> Tensor:
    return 2 * x


def tripled(model: torch.nn.Module) -> None:
    torch._foreach_mul_([parameter.grad for parameter in model.parameters() if parameter.grad is not None], 3)


track = batch_norm_kernels.batch_norm_gather_stats_with_counts


def untracked(x: Tensor, means: Tensor, scales: Tensor, mean: Tensor, variance: Tensor, *rest: Any) -> Any:
    return track(x, means, scales, mean.clone(), variance.clone(), *rest)


@pytest.mark.parametrize(
    ("place", "broken"),
    [
        ("sharded.total_over_ranks_", doubled),
        ("batch_norm.total_over_ranks_", doubled),  # of the backward pass alone
        ("step.sum_over_ranks", lambda x: x.detach() if distributed.exchanging() else x),
        ("losses.sharded_logsumexp", lambda *given: sharded_logsumexp(*given).detach()),
        ("compiled_step.average_gradients_", tripled),
        ("batch_norm.batch_norm_kernels.batch_norm_gather_stats_with_counts", untracked),
    ],
)
def test_what_is_wrong_in_a_step_that_exchanges_is_found(
    place: str, broken: Callable[..., Any], as_on_a_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"tcc_fast.method.{place}", broken)
    with pytest.raises(AssertionError, match=r"train\.compile=(off|on): \d+ of \d+ differ"):
        one_rank.check(CPU)


def test_to_exchange_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "_count", lambda kind, x: None)
    with pytest.raises(AssertionError, match="nothing was exchanged"):
        one_rank.check(CPU)
