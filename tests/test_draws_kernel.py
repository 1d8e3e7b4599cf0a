"""Random numbers by Triton: the same bits as by plain tensor work."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tcc_fast.draws import (
    STREAM_GUMBEL,
    bits_of_each,
    fastest_bits,
    gumbel,
    gumbel_of_each,
    keys,
    scalar_key,
    uniform,
    uniform_of_each,
)
from tests.absent_gpu import CAPABILITIES, Kernels
from tests.interpreted import interpret

pytest.importorskip("triton", reason="torch was built without Triton")

BASES = [scalar_key(STREAM_GUMBEL, 3, 1_000_003, stream) for stream in range(4)]
VALUES = torch.tensor([0, 7, 1_281_166, 2**31, 2**40 + 3, 12, 1, 2])


def test_of_each_base_are_the_numbers_of_its_keys() -> None:
    for of_each, of_keys in ((uniform_of_each, uniform), (gumbel_of_each, gumbel)):
        found = of_each(BASES[:2], VALUES, 46)
        assert torch.equal(found, torch.stack([of_keys(keys(base, VALUES), 46) for base in BASES[:2]]))


def test_the_kernel_makes_the_same_bits(tmp_path: Path) -> None:
    """Of bases and values of any size; 10 000 numbers of each case, and one."""
    many = torch.randint(2**62, (300,), generator=torch.Generator().manual_seed(0))
    cases = {
        "noise": (BASES, VALUES, 10, 23),
        "views": (BASES[:2], many, 46, 24),
        "one": ([5], VALUES[:1], 1, 24),
        "small bases": ([0, -1, 2**31 - 1, -(2**31)], many, 3, 23),
    }
    found = interpret(
        {name: ("tcc_fast.draws_kernel", "bits_of_each", [case]) for name, case in cases.items()}, tmp_path
    )
    for name, case in cases.items():
        assert found[name].dtype == torch.float32
        assert torch.equal(found[name], bits_of_each(*case))


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_the_kernel_compiles_once_whatever_the_base_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capability: int
) -> None:
    from tcc_fast import draws_kernel

    launched = Kernels(draws_kernel, ["_bits"], capability, monkeypatch, tmp_path)
    draws_kernel.bits_of_each([BASES[0], 16 * (BASES[1] // 16), BASES[2] | 1], VALUES, 10, 23)
    launched.check(3)
    assert len({kernel.hash for kernel in launched.compiled}) == 1


def test_only_compiled_work_on_a_gpu_has_it() -> None:
    from tcc_fast import draws_kernel

    assert fastest_bits(torch.device("cuda", 1), compiled=True) is draws_kernel.bits_of_each
    assert fastest_bits(torch.device("cuda", 1), compiled=False) is bits_of_each
    assert fastest_bits(torch.device("cpu"), compiled=True) is bits_of_each
