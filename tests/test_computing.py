"""How a GPU is told to compute: what needs none to be known."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest
import torch

from tcc_fast.computing import compile_mode, compiler_lacks, idle_gpu, tune
from tcc_fast.config import Config
from tcc_fast.session import open_session

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine on which a GPU's code can be compiled; the folder of Python's headers."""
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr("shutil.which", lambda name: name if name == "gcc" else None)
    monkeypatch.setattr(sysconfig, "get_paths", lambda scheme: {"include": str(tmp_path)})
    monkeypatch.delenv("CC", raising=False)
    return tmp_path


def test_auto_compiles_where_it_can(able: Path) -> None:
    assert compiler_lacks(GPU) is None
    assert compile_mode("auto", GPU, 1) == "on"
    assert compile_mode("auto", GPU, 8) == "off"


@pytest.mark.parametrize("lacking", ["capability", "Triton", "C compiler", "Python.h"])
def test_auto_is_off_where_something_is_lacking_which_is_named(
    lacking: str, able: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if lacking == "capability":
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
    if lacking == "Triton":
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    if lacking == "C compiler":
        monkeypatch.setattr("shutil.which", lambda name: None)
    if lacking == "Python.h":
        (able / "Python.h").unlink()
    assert lacking in (compiler_lacks(GPU) or "")
    assert compile_mode("auto", GPU, 1) == "off"
    assert compile_mode("on", GPU, 1) == "on"  # what is asked for is tried


def test_a_compiler_may_be_named_by_the_environment(able: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setenv("CC", "/opt/gcc")
    assert compiler_lacks(GPU) is None


@pytest.mark.parametrize(("precision", "rounds"), [("fp32", False), ("bf16", True)])
def test_fp32_is_fp32_on_a_gpu_in_products_and_in_convolutions(
    precision: str, rounds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_to: list[str] = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", set_to.append)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", torch.backends.cudnn.allow_tf32)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)
    tune(GPU, precision)
    assert set_to == ["high" if rounds else "highest"]
    assert torch.backends.cudnn.allow_tf32 is rounds


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


@pytest.mark.parametrize(
    ("variable", "value"),
    [("CUDA_VISIBLE_DEVICES", ""), ("CUDA_VISIBLE_DEVICES", "-1"), ("ACCELERATE_USE_CPU", "true")],
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
    monkeypatch.setattr("tcc_fast.computing.idle_gpu", lambda device: f"idle beside {device}")
    said: list[str] = []
    open_session(tiny, digits, tmp_path, say=said.append).pipeline.close()
    assert "idle beside cpu" in said
