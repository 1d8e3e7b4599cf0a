"""`train.init`: weights to begin with."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tcc_fast.config import load_config
from tcc_fast.runs.checkpoint_folder import find_checkpoint
from tcc_fast.runs.first_weights import OF_CLUSTERS
from tcc_fast.session import open_session
from tcc_fast.train import train
from tests.conftest import TINY

SHORT = [*TINY, "train.epochs=1", "start.method=none"]


@pytest.fixture(scope="module")
def before(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of another seed."""
    run = tmp_path_factory.mktemp("runs") / "before"
    train(load_config("digits", [*SHORT, "seed=7"]), digits, run, say=lambda sentence: None)
    return run


def first(
    digits: Path, run: Path, *settings: str
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], list[str]]:
    """θ and θ̂ before the first step of a run, and what it says."""
    said: list[str] = []
    session = open_session(load_config("digits", [*SHORT, *settings]), digits, run, say=said.append)
    session.pipeline.close()
    return session.model.state_dict(), session.training.twin.state_dict(), said


def test_a_run_begins_with_the_weights_of_another_in_both_networks(digits: Path, before: Path, tmp_path: Path) -> None:
    theirs = load_file(find_checkpoint(before) / "model.safetensors")
    theta, twin, said = first(digits, tmp_path / "run", f"train.init={before}")
    assert any(sentence == f"first weights: {find_checkpoint(before)}" for sentence in said)
    for found in (theta, twin):
        assert found.keys() == theirs.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in theirs.items())


def test_another_number_of_clusters_takes_the_encoder_alone(digits: Path, before: Path, tmp_path: Path) -> None:
    theirs = load_file(find_checkpoint(before) / "model.safetensors")
    drawn, _, _ = first(digits, tmp_path / "run", "model.num_clusters=4")
    theta, _, said = first(digits, tmp_path / "run", "model.num_clusters=4", f"train.init={before}")
    assert any(sentence.endswith(", but for its 10 prototypes") for sentence in said)
    for name, tensor in theta.items():
        assert torch.equal(tensor, (drawn if name in OF_CLUSTERS else theirs)[name])
    assert not torch.equal(drawn["encoder.fc.weight"], theirs["encoder.fc.weight"])


def test_a_run_goes_on_without_what_it_began_with(digits: Path, before: Path, tmp_path: Path) -> None:
    shutil.copytree(before, tmp_path / "before")
    settings = [*SHORT, f"train.init={tmp_path / 'before'}", "train.epochs=2", "train.checkpoint_every=1"]
    config = load_config("digits", settings)
    done = train(config, digits, tmp_path / "run", say=lambda sentence: None)
    weights = load_file(done / "model.safetensors")
    shutil.rmtree(tmp_path / "before")
    half = sorted((tmp_path / "run" / "checkpoints").glob("step-*"))[0]
    again = train(config, digits, tmp_path / "run", "must", half, say=lambda sentence: None)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in load_file(again / "model.safetensors").items())


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (["model.feature_dim=8"], r"is of another network: train with model\.feature_dim=16, or without train\.init"),
        (["model.stem=7x7", "model.width=4"], r"train with model\.width=16 model\.stem=3x3, or"),
        (["train.init=nowhere"], "no checkpoint at nowhere: the folder does not exist"),
        (["train.init=latest"], "would soon mean the new run itself: write train.init=runs/before"),
        (["train.init=runs/latest"], "would soon mean the new run itself: write train.init=runs/before"),
    ],
)
def test_what_cannot_be_begun_with_is_explained(
    settings: list[str], complaint: str, digits: Path, before: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "latest").symlink_to("before")
    with pytest.raises(ValueError, match=complaint):
        first(digits, tmp_path / "run", f"train.init={before}", *settings)
