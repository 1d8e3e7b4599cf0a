"""What Accelerate was told by others: refused or named where it is not what is trained."""

from __future__ import annotations

from pathlib import Path

import pytest
from accelerate import Accelerator

from tcc_fast.launch import ignored_precision, open_accelerator
from tcc_fast.precision import Precision
from tcc_fast.settings import Config
from tcc_fast.train import train
from tests.method.test_step import fresh_accelerate


def test_a_process_that_has_used_accelerate_in_16_bits_is_told_to_train_in_another(
    tiny: Config, tmp_path: Path
) -> None:
    """Accelerate keeps its first settings; what it says itself names none of tcc-fast's."""
    with fresh_accelerate():
        Accelerator(cpu=True, mixed_precision="bf16")
        with pytest.raises(ValueError, match=r"with a mixed_precision that holds .* train in a process of its own"):
            open_accelerator(tiny, tmp_path)


@pytest.mark.parametrize("asked", ["fp16", "fp8"])
def test_a_precision_that_was_asked_of_the_launcher_is_said_to_count_for_nothing(
    asked: str, digits: Path, tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`accelerate launch --mixed_precision` sets the variable."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", asked)
    said: list[str] = []
    with fresh_accelerate():
        train(tiny, digits, tmp_path / "run", say=said.append)
    assert f"fp32: Accelerate's mixed_precision={asked} is not looked at, train.precision is" in said


def test_nothing_is_said_where_both_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    for asked in ("no", "bf16"):
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", asked)
        assert ignored_precision(Precision.BF16) is None
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION")
    assert ignored_precision(Precision.FP32) is None


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "launch with --dynamo_backend no"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "2", "both contrasts compare within the whole batch"),
    ],
)
def test_what_would_make_another_step_is_refused(
    variable: str, value: str, said: str, tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with fresh_accelerate(), pytest.raises(ValueError, match=said):
        open_accelerator(tiny, tmp_path)
