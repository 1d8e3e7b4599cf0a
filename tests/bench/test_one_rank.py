"""A rank that exchanges with itself what several would, against a step that exchanges nothing."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from tcc_fast import distributed
from tcc_fast.bench import one_rank
from tcc_fast.method.compiled_step import CompiledStep

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


def test_a_wrong_sum_in_compiled_code_is_found(as_on_a_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    real = distributed.total_over_ranks_

    def doubled(x: Tensor) -> Tensor:
        return real(x).mul_(2 if torch.compiler.is_compiling() else 1)

    monkeypatch.setattr("tcc_fast.method.sharded.total_over_ranks_", doubled)
    with pytest.raises(AssertionError, match=r"train\.compile=on"):
        one_rank.check(CPU)


def test_to_exchange_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "_count", lambda kind, x: None)
    with pytest.raises(AssertionError, match="nothing was exchanged"):
        one_rank.check(CPU)
