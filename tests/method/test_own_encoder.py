"""`model.backbone=MODULE:FUNCTION`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from tcc_fast.config import load_config
from tcc_fast.evaluation.predict import Predictor
from tcc_fast.method.batch_norm import GlobalBatchNorm, share_batch_statistics
from tcc_fast.method.encoder import build_encoder
from tcc_fast.method.own_encoder import check_encoder
from tcc_fast.runs.checkpoint_folder import list_checkpoints
from tcc_fast.runs.run_state import read_state
from tcc_fast.settings import ModelConfig
from tcc_fast.train import train
from tests.conftest import TINY

CODE = """
import torch
from torch import nn

def encoder(feature_dim):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Dropout(0.2), nn.Linear(8, feature_dim),
    )

def too_wide(feature_dim):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, feature_dim + 1))

def flat(feature_dim):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, feature_dim))

def of_two(feature_dim):
    class Two(nn.Module):
        def forward(self, view):
            return view, view
    return Two()

def viewing(feature_dim):
    class Viewing(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 2, 3, 1, 1), nn.Linear(2 * 8 * 8, feature_dim)
        def forward(self, view):
            return self.fc(self.conv(view).view(len(view), -1))
    return Viewing().to(memory_format=torch.channels_last)

def tied(feature_dim):
    one, other = nn.Linear(3, 3), nn.Linear(3, 3)
    other.weight = one.weight
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), one, other, nn.Linear(3, feature_dim))

def frozen(feature_dim):
    return encoder(feature_dim).requires_grad_(False)

def shared(feature_dim):
    norm = nn.BatchNorm1d(3, affine=False)
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), norm, norm, nn.Linear(3, feature_dim))

def positional(d):
    return encoder(d)

def lazy(feature_dim):
    return nn.Sequential(nn.Conv2d(3, 2, 3, 2, 1), nn.Flatten(), nn.LazyLinear(feature_dim))

def no_module(feature_dim):
    return feature_dim

number = 3
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder with `mine.py` in it, which nothing else looks into."""
    (tmp_path / "mine.py").write_text(CODE)
    (tmp_path / "needy.py").write_text("import surely_not_installed")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("mine", "needy"):
        sys.modules.pop(name, None)


def test_a_run_with_it_is_resumed_and_used(here: Path, digits: Path) -> None:
    settings = ["start.method=none", "train.checkpoint_every=1", "model.backbone=mine:encoder"]
    config = load_config("digits", [*TINY, *settings])
    path = list(sys.path)
    checkpoint = train(config, digits, here / "run", say=lambda sentence: None)
    assert read_state(checkpoint).config.model.backbone == "mine:encoder"
    before = {file.name: file.read_bytes() for file in checkpoint.glob("*.safetensors")}
    first = list_checkpoints(here / "run")[0]
    assert train(config, digits, here / "run", "must", first, say=lambda sentence: None) == checkpoint
    assert {file.name: file.read_bytes() for file in checkpoint.glob("*.safetensors")} == before
    predict = Predictor(here / "run")
    assert predict([torch.zeros(3, 8, 8, dtype=torch.uint8).permute(1, 2, 0).numpy()]).features.shape == (1, 16)
    assert sys.path == path
    (here / "mine.py").unlink()
    del sys.modules["mine"]
    with pytest.raises(ValueError, match=r"no module 'mine' is installed or in .*: start from the folder .* mine\.py"):
        Predictor(here / "run")


@pytest.mark.parametrize(
    ("backbone", "complaint"),
    [
        ("absent:encoder", "no module 'absent'"),
        ("mine.inner:encoder", "no module 'mine.inner'"),
        ("needy:encoder", "needy needs surely_not_installed, which is not installed"),
        ("mine:absent", "mine.py has no function 'absent'"),
        ("mine:number", "mine.py has no function 'number'"),
        ("time:vit", "module time has no function 'vit'"),
        ("mine:positional", r"called as positional\(feature_dim=128\), which the function in .*mine.py does not take"),
        ("mine:no_module", "returned int, but must return a torch.nn.Module"),
    ],
)
def test_what_cannot_be_made_is_explained(backbone: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=rf"model\.backbone={backbone}: .*{complaint}"):
        build_encoder(ModelConfig(backbone=backbone))


@pytest.mark.parametrize(
    ("function", "size", "complaint"),
    [
        ("too_wide", 8, r"makes \(2, 25\) of views \(2, 3, 8, 8\), but must make \(2, 24\)"),
        ("flat", 12, r"cannot take views of data\.image_size=12, .*mat1 and mat2"),
        ("of_two", 8, r"makes tuple of views"),
        ("viewing", 8, r"cannot take views of data\.image_size=8, .*Use \.reshape"),
        ("frozen", 8, "has no parameter that is trained: let some require gradients"),
        ("tied", 8, r"2\.weight and 3\.weight are one tensor, which a checkpoint cannot hold"),
        ("shared", 8, r"2\.running_mean and 3\.running_mean are one tensor"),
    ],
)
def test_what_does_not_fit_is_said_before_the_training(function: str, size: int, complaint: str) -> None:
    config = ModelConfig(backbone=f"mine:{function}", feature_dim=24)
    with pytest.raises(ValueError, match=complaint):
        check_encoder(build_encoder(config), config, size)


def test_what_takes_its_shape_from_the_views_has_it_after_the_trial() -> None:
    config = ModelConfig(backbone="mine:lazy", feature_dim=24)
    encoder = build_encoder(config)
    check_encoder(encoder, config, 8)
    assert [tuple(parameter.shape) for parameter in encoder.parameters()][-2:] == [(24, 32), (24,)]


def test_the_trial_changes_nothing() -> None:
    config = ModelConfig(backbone="mine:encoder", feature_dim=24)
    encoder = build_encoder(config)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    check_encoder(encoder, config, 8)
    assert encoder.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())


def test_its_batch_norm_is_over_the_global_batch() -> None:
    encoder = build_encoder(ModelConfig(backbone="mine:encoder"))
    norms = [part for part in share_batch_statistics(encoder).modules() if isinstance(part, nn.BatchNorm2d)]
    assert not norms
    assert any(isinstance(part, GlobalBatchNorm) for part in encoder.modules())


@pytest.mark.parametrize(
    ("file", "module"), [("mine.py:f", "mine:f"), ("mine.py", "mine:FUNCTION"), ("./sub/mine.py:f", "sub.mine:f")]
)
def test_a_file_is_no_module(file: str, module: str) -> None:
    with pytest.raises(ValueError, match=f"'{file}' names a file: write the module, {module}"):
        load_config("digits", [f"model.backbone={file}"])


@pytest.mark.parametrize("backbone", ["resnet19", "mine", ":encoder", "my file:encoder", "a..b:c", "mine:a.b"])
def test_another_form_is_no_backbone(backbone: str) -> None:
    with pytest.raises(ValueError, match=r"config key 'model\.backbone': .* none of resnet_small, resnet18"):
        load_config("digits", [f"model.backbone={backbone}"])
