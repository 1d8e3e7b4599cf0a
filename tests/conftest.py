"""Fixtures that many tests share: a small real data set, and settings that train in a second."""

from __future__ import annotations

import importlib.util
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

# Several test processes share the cores, and threads that spin for each other would starve them all. Before torch.
os.environ["OMP_NUM_THREADS"] = "1"
# On a machine with a GPU as on one without: figures of many tests are a CPU's. With this variable set, the pipelines'
# contract is also tested on the GPU (`TCC_FAST_TEST_GPU=1 pytest tests/pipelines/test_contract.py`).
if "TCC_FAST_TEST_GPU" not in os.environ:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

import torch

from tcc_fast.config import load_config
from tcc_fast.datasets import convert
from tcc_fast.settings import Config

TINY = [
    "data.image_size=8",
    "model.backbone=resnet_small",
    "model.feature_dim=16",
    "queue.instance_length=100",
    "queue.cluster_multiple=2",
    "start.restarts=2",
    "train.batch_size=256",
    "train.epochs=2",
    "train.log_every=2",
    "train.precision=fp32",
]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Whatever an earlier test left: threads order the sums, which are compared with those of child processes."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where runs/latest may be set: whoever works in this checkout keeps his."""
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("elsewhere"))
    yield
    os.chdir(before)


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 1 797 handwritten digits, converted."""
    folder = tmp_path_factory.mktemp("data") / "digits"
    convert("digits", folder, progress=False)
    return folder


@pytest.fixture
def tiny() -> Config:
    """Settings that train digits in about a second."""
    return load_config("digits", TINY)


def load_study() -> dict[str, ModuleType]:
    """The study runner and the tools that it imports."""
    return {name: load_tool(name) for name in ("factors", "study_plan", "study_tables", "study")}


def load_tool(name: str) -> ModuleType:
    """Import ``tools/NAME.py``, which is no package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def little_room() -> Iterator[Callable[[int], None]]:
    """Called with a number: from then on no file of this process may have more bytes, as if the disk were full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda most: resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, before)
