"""Checkpoints: complete or not there, checked, and safe to load."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tcc_fast.config import config_from_tree, load_config
from tcc_fast.runs import checkpoint as checkpoints
from tcc_fast.runs.checkpoint import load_model, what_does_not_fit
from tcc_fast.runs.checkpoint_folder import drop_later_checkpoints, find_checkpoint, keep_newest, list_checkpoints
from tcc_fast.runs.run_state import read_state
from tcc_fast.session import open_session
from tcc_fast.settings import Config
from tcc_fast.train import train
from tests.conftest import TINY
from tests.method.test_step import fresh_accelerate


@pytest.fixture(scope="module")
def run(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(load_config("digits", [*TINY, "train.epochs=1", "start.method=none"]), digits, folder)
    return folder


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """A checkpoint that a test may damage."""
    return Path(shutil.copytree(list_checkpoints(run)[-1], tmp_path / "step-000000007"))


def test_it_holds_safetensors_and_json_only_with_plain_names(run: Path) -> None:
    folder = find_checkpoint(run)
    assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".json"}
    model = load_file(folder / "model.safetensors")
    assert {"prototypes", "cluster_embedding.weight"} <= model.keys()
    assert not [key for key in model if "_orig_mod" in key or key.startswith("module.")]
    assert model.keys() == load_file(folder / "twin.safetensors").keys()


def test_whoever_may_read_its_json_may_read_its_tensors(digits: Path, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        train(load_config("digits", [*TINY, "train.epochs=1", "start.method=none"]), digits, tmp_path / "run")
    finally:
        os.umask(before)
    files = list(find_checkpoint(tmp_path / "run").iterdir())
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o640}


def test_run_folder_checkpoint_folder_and_latest_are_understood(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "latest").symlink_to(run)
    newest = list_checkpoints(run)[-1]
    assert find_checkpoint(run) == find_checkpoint(newest) == newest
    assert find_checkpoint("latest") == newest  # and messages say so


def test_a_copy_beside_a_checkpoint_is_not_taken_for_one(run: Path, tmp_path: Path) -> None:
    mine = Path(shutil.copytree(run, tmp_path / "run", symlinks=True))
    (newest,) = list_checkpoints(mine)
    shutil.copytree(newest, newest.with_name(f"{newest.name}.bak"))
    assert list_checkpoints(mine) == [newest]


def test_the_remains_of_a_checkpoint_make_room_for_it(digits: Path, tmp_path: Path) -> None:
    remains = tmp_path / "run" / "checkpoints" / "step-000000007"
    remains.mkdir(parents=True)
    (remains / "stray").write_text("half a copy")
    config = load_config("digits", [*TINY, "train.epochs=1", "start.method=none"])
    assert train(config, digits, tmp_path / "run") == remains
    assert read_state(remains).step == 7
    assert not (remains / "stray").exists()


def test_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the folder does not exist"):
        find_checkpoint(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="expected a run"):
        find_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["model", "twin", "queues", "optimizer", "rng"])
def test_a_flipped_bit_is_found_and_the_file_named(copy: Path, name: str) -> None:
    file = copy / f"{name}.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}\.safetensors is damaged"):
        read_state(copy)


def test_weights_for_another_network_are_told_in_one_line() -> None:
    with pytest.raises(RuntimeError) as mismatch:
        torch.nn.Linear(3, 2).load_state_dict(torch.nn.Linear(4, 5).state_dict())
    said = what_does_not_fit(mismatch.value)
    assert said.startswith("size mismatch for weight: copying a param")
    assert said.endswith(", and 1 more such; is the code of its encoder (model.backbone) still as it was?")
    assert what_does_not_fit(RuntimeError("a hook of its own")).startswith("a hook of its own; is the code")


def test_of_files_that_cannot_be_read_the_right_one_is_named(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("tcc_fast.runs.run_state.sha256_of", refuse)
    with pytest.raises(ValueError, match=r"model\.safetensors cannot be read \(Permission denied\)"):
        read_state(copy)


def test_a_truncated_file_a_missing_file_and_a_broken_state_are_named(copy: Path) -> None:
    file = copy / "twin.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"twin\.safetensors is damaged"):
        read_state(copy)
    file.unlink()
    with pytest.raises(ValueError, match=r"twin\.safetensors is missing"):
        read_state(copy)
    (copy / "state.json").write_text('{"format_version": 1')
    with pytest.raises(ValueError, match=r"state\.json cannot be read"):
        read_state(copy)


def test_another_format_version_is_refused(copy: Path) -> None:
    state = json.loads((copy / "state.json").read_text())
    (copy / "state.json").write_text(json.dumps(state | {"format_version": 99}))
    with pytest.raises(ValueError, match="format version 99"):
        read_state(copy)


def test_loading_a_hostile_file_runs_no_code(copy: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "exploded",))

    (copy / "model.safetensors").write_bytes(pickle.dumps(Bomb()))
    config = read_state_unchecked(copy)
    with pytest.raises(ValueError, match=r"model\.safetensors cannot be read"):
        load_model(copy, config)
    assert not (tmp_path / "exploded").exists()


def read_state_unchecked(folder: Path) -> Config:
    return config_from_tree(json.loads((folder / "state.json").read_text())["config"])


def test_a_crash_while_writing_leaves_the_last_good_checkpoint(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config("digits", [*TINY, "train.checkpoint_every=1", "start.method=none"])
    save_tensors = checkpoints.save_tensors
    calls = []

    def full_disk(tensors: dict[str, torch.Tensor], path: Path) -> None:
        calls.append(path)
        if len(calls) == 8:  # the third file of the second checkpoint
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        save_tensors(tensors, path)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save_tensors", full_disk)
        with pytest.raises(ValueError, match="No space left on device"):
            train(config, digits, tmp_path / "run")
    (good,) = list_checkpoints(tmp_path / "run")
    assert read_state(good).step == 7
    train(config, digits, tmp_path / "run", resume="must")
    assert read_state(find_checkpoint(tmp_path / "run")).step == 14
    assert not list((tmp_path / "run" / "checkpoints").glob(".partial*"))


def test_the_random_state_is_put_back(digits: Path, tmp_path: Path) -> None:
    """Nothing in a run draws from torch's own generator, but what is built on it may."""
    config = load_config("digits", [*TINY, "start.method=none", "train.epochs=1"])
    with fresh_accelerate():
        session = open_session(config, digits, tmp_path)
        torch.manual_seed(123)
        checkpoint = session.save(tmp_path, {}, None)
        drawn = torch.rand(3)
        session.load(checkpoint, read_state(checkpoint))
        assert torch.equal(torch.rand(3), drawn)
        session.pipeline.close()


def test_moments_keep_the_layout_of_their_parameters(digits: Path, tmp_path: Path) -> None:
    """A fused optimiser walks through both side by side."""
    config = load_config("digits", [*TINY, "start.method=none", "train.epochs=1"])
    with fresh_accelerate():
        train(config, digits, tmp_path)
        checkpoint = find_checkpoint(tmp_path)
        session = open_session(config, digits, tmp_path, read_state(checkpoint))
        session.load(checkpoint, read_state(checkpoint))
        for parameter in session.model.parameters():
            moment = session.optimizer.state[parameter]["exp_avg"]
            assert moment.stride() == parameter.stride()
        session.pipeline.close()


def test_a_link_to_a_removed_checkpoint_goes_with_it(tmp_path: Path) -> None:
    for step in (5, 9):
        folder = tmp_path / "checkpoints" / f"step-{step:09d}"
        folder.mkdir(parents=True)
        (folder / "state.json").write_text("{}")
    best = tmp_path / "checkpoints" / "best"
    best.symlink_to("step-000000009")
    drop_later_checkpoints(tmp_path, 5)
    assert not best.is_symlink()
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-000000005"]


def test_the_best_checkpoint_stays_however_old(tmp_path: Path) -> None:
    for step, loss in ((1, 5.0), (2, 1.0), (3, 4.0), (4, 3.0)):
        folder = tmp_path / "checkpoints" / f"step-{step:09d}"
        folder.mkdir(parents=True)
        (folder / "state.json").write_text(json.dumps({"loss": loss}))
        keep_newest(tmp_path, 1)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-000000002", "step-000000004"]
    assert (tmp_path / "checkpoints" / "best").resolve().name == "step-000000002"
