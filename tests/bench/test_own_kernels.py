"""The comparison of our kernels with torch finds what is wrong; on a CPU that is taken for a GPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tcc_fast.bench import own_kernels
from tcc_fast.bench.own_kernels import share_that_differs
from tcc_fast.draws import bits_of_each
from tests.method import test_max_pool

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cpu_kernels() -> None:
    test_max_pool.register_cpu_kernels()


def test_right_kernels_differ_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_kernels, "POOLED", own_kernels.POOLED[1:])
    found = share_that_differs(CPU)
    assert found == dict.fromkeys(["max pooling, fp32", "max pooling, bf16", "max pooling, fp16", "noise"], 0.0)


@pytest.mark.parametrize("wrong", ["values", "gradient"])
def test_wrong_pooling_is_found(monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    def wrong_somewhere(x: Tensor) -> tuple[Tensor, Tensor]:
        largest, places = test_max_pool.places_on_cpu(x)
        return (largest + 1 if wrong == "values" else largest), (places.flip(0) if wrong == "gradient" else places)

    monkeypatch.setattr(own_kernels, "POOLED", own_kernels.POOLED[1:])
    test_max_pool.register_cpu_kernels(wrong_somewhere)
    found = share_that_differs(CPU)
    assert all(share > 0.1 for name, share in found.items() if name != "noise")


def test_wrong_noise_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_kernels, "POOLED", ())
    wrong = lambda *what: bits_of_each(*what) + 1  # noqa: E731
    monkeypatch.setattr(own_kernels, "fastest_bits", lambda device, compiled: wrong)
    assert own_kernels.noise_that_differs(CPU) == 1.0
