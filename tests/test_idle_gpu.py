"""A GPU that is there and not used."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tcc_fast.idle_gpu import idle_gpu
from tcc_fast.session import open_session
from tcc_fast.settings import Config

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def with_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The root of a machine with an NVIDIA GPU, which torch was not told to leave alone."""
    driver = tmp_path / "proc/driver/nvidia"
    (driver / "gpus/0000:00:1e.0").mkdir(parents=True)
    (driver / "version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22 2024\n")
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidia0").touch()
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    for name in ("CUDA_VISIBLE_DEVICES", "ACCELERATE_USE_CPU"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_a_gpu_that_torch_cannot_use_is_named_with_the_cure(with_gpu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "since the driver 550.54.14 may be too old for torch" in str(idle_gpu(CPU, with_gpu))
    assert "an older CUDA than 13.0" in str(idle_gpu(CPU, with_gpu))
    (with_gpu / "proc/driver/nvidia/version").unlink()
    assert "since its driver may be too old" in str(idle_gpu(CPU, with_gpu))
    (with_gpu / "dev/nvidia0").unlink()
    assert "--gpus all" in str(idle_gpu(CPU, with_gpu))
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "is built without CUDA: install" in str(idle_gpu(CPU, with_gpu))


def test_a_gpu_that_is_named_and_not_there_is_no_matter_of_the_driver(
    with_gpu: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    said = str(idle_gpu(CPU, with_gpu))
    assert "CUDA_VISIBLE_DEVICES=7 names none that torch" in said
    assert "driver" not in said


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CUDA_VISIBLE_DEVICES", ""),
        ("CUDA_VISIBLE_DEVICES", "-1"),
        ("CUDA_VISIBLE_DEVICES", "NoDevFiles"),
        ("ACCELERATE_USE_CPU", "true"),
    ],
)
def test_a_gpu_that_is_left_alone_on_purpose_is_not_mentioned(
    with_gpu: Path, variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert idle_gpu(CPU, with_gpu)
    monkeypatch.setenv(variable, value)
    assert idle_gpu(CPU, with_gpu) is None


def test_without_a_gpu_or_on_it_there_is_nothing_to_say(with_gpu: Path) -> None:
    assert idle_gpu(GPU, with_gpu) is None
    assert idle_gpu(CPU, with_gpu / "proc") is None


def test_a_training_says_that_a_gpu_is_idle(
    tiny: Config, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tcc_fast.session.idle_gpu", lambda device: f"idle beside {device}")
    said: list[str] = []
    open_session(tiny, digits, tmp_path, say=said.append).pipeline.close()
    assert "idle beside cpu" in said
