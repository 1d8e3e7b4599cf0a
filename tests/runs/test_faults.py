"""What goes wrong around a run: full disks, files that are missing, the wrong data. The last good checkpoint stays."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tcc_fast.config import load_config
from tcc_fast.datasets import convert
from tcc_fast.runs.checkpoint_folder import list_checkpoints
from tcc_fast.runs.run_state import read_state
from tcc_fast.settings import Config
from tcc_fast.train import train
from tests.conftest import TINY
from tests.method.test_step import fresh_accelerate

OPTIONS = [*TINY, "start.method=none", "train.checkpoint_every=1"]


@pytest.fixture
def begun(digits: Path, tmp_path: Path) -> Path:
    """A run of one epoch out of two."""
    run = tmp_path / "run"
    train(load_config("digits", [*OPTIONS, "train.keep_checkpoints=5"]), digits, run)
    list_checkpoints(run)[-1].rename(tmp_path / "later")
    return run


def command(data: Path, run: Path, *more: str) -> list[str]:
    train_it = ["train", "--config", "digits", "--data", str(data), "--out", str(run), "--resume", "auto"]
    return [sys.executable, "-m", "tcc_fast", *train_it, *OPTIONS, "train.keep_checkpoints=5", *more]


def limit_files() -> None:
    """No file may grow beyond 100 kB, as if the disk were full; θ alone has 330 kB."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


def test_a_full_disk_is_named_and_the_last_good_checkpoint_stays(digits: Path, begun: Path) -> None:
    (good,) = list_checkpoints(begun)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command(digits, begun), env=environment, preexec_fn=limit_files, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "step 14 could not be written" in done.stderr
    assert "File too large" in done.stderr
    assert "Make room" in done.stderr
    assert "Traceback" not in done.stderr
    assert list_checkpoints(begun) == [good]
    assert not list((begun / "checkpoints").glob(".partial*"))
    assert read_state(good).step == 7
    done = subprocess.run(command(digits, begun), env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert read_state(list_checkpoints(begun)[-1]).step == 14


def test_a_place_where_nothing_can_be_written_is_named(digits: Path) -> None:
    """Not even by root."""
    done = subprocess.run(command(digits, Path("/proc/tcc-fast-run")), env=os.environ, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "tcc-fast: /proc/tcc-fast-run: No such file or directory\n"


def test_a_file_where_the_folder_should_be_stays(digits: Path, tiny: Config, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file where the folder should be")
    with pytest.raises(OSError, match=r"run"):
        train(tiny, digits, tmp_path / "run")
    assert (tmp_path / "run").read_text() == "a file where the folder should be"


def test_a_missing_shard_of_q_is_named(digits: Path, begun: Path) -> None:
    (good,) = list_checkpoints(begun)
    (good / "queue-00000-of-00001.safetensors").unlink()
    with pytest.raises(ValueError, match=r"queue-00000-of-00001\.safetensors is missing"):
        train(load_config("digits", OPTIONS), digits, begun, resume="must")


def test_another_data_set_is_refused_by_name(begun: Path, tmp_path: Path) -> None:
    convert("digits", tmp_path / "other", labels="none", progress=False)
    config = load_config("digits", [*OPTIONS, "train.keep_checkpoints=5", "model.num_clusters=10"])
    with pytest.raises(ValueError, match=r"was trained on digits .* not on .*other, whose contents differ"):
        train(config, tmp_path / "other", begun, resume="must")


def test_another_data_set_is_named_before_what_else_is_wrong_with_it(begun: Path, tmp_path: Path) -> None:
    (tmp_path / "few").mkdir()
    for shade in range(3):
        Image.new("L", (8, 8), 80 * shade).save(tmp_path / "few" / f"{shade}.png")
    convert("folder", tmp_path / "other", tmp_path / "few", progress=False)  # of fewer images than K and the batch
    with pytest.raises(ValueError, match=r"was trained on digits .* not on .*other, whose contents differ"):
        train(load_config("digits", OPTIONS), tmp_path / "other", begun, resume="must")


def test_gradient_accumulation_is_refused_with_its_reason(
    digits: Path, tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "2")
    with fresh_accelerate(), pytest.raises(ValueError, match=r"gradient accumulation is not there: both contrasts"):
        train(tiny, digits, tmp_path / "run")
    assert not (tmp_path / "run").exists()
