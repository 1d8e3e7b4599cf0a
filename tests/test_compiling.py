"""Whether steps are compiled: what needs no GPU to be known."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest
import torch

from tcc_fast.compiling import compile_mode, compiler_lacks, why_not_compiled

GPU = torch.device("cuda", 0)


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
    assert compile_mode("auto", GPU, 8) == "on"


@pytest.mark.parametrize("lacking", ["here", "elsewhere"])
def test_ranks_compile_together_or_not_at_all(able: Path, monkeypatch: pytest.MonkeyPatch, lacking: str) -> None:
    """They exchange within compiled code: one that could not compile would leave the others waiting."""
    elsewhere = "gcc" if lacking == "elsewhere" else None
    monkeypatch.setattr("tcc_fast.compiling.gather_objects", lambda found: [found, elsewhere])
    if lacking == "here":
        (able / "Python.h").unlink()
    assert compile_mode("auto", GPU, 2) == "off"
    assert ("gcc" if elsewhere else "Python.h") in (compiler_lacks(GPU) or "")


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


def test_a_user_of_gpus_is_told_why_steps_are_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    why = why_not_compiled
    monkeypatch.setattr("tcc_fast.compiling.compiler_lacks", lambda device: "Triton")
    assert why("auto", "off", GPU) == "steps are not compiled for want of Triton: slower, but the same"
    assert why("auto", "on", GPU) is why("off", "off", GPU) is why("auto", "off", torch.device("cpu")) is None
