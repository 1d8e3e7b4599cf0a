"""From the official archive to a table beside the paper's: the whole chain, for each data set of the paper."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tcc_fast.cli import app
from tcc_fast.datasets.imagenet10 import SYNSETS as IMAGENET_10
from tcc_fast.datasets.imagenet_dogs import SYNSETS as IMAGENET_DOGS
from tests.datasets import archives

A_FEW_STEPS = [
    "data.image_size=16",
    "model.backbone=resnet_small",
    "model.stem=3x3",
    "model.feature_dim=16",
    "queue.instance_length=64",
    "optim.warmup_steps=0",
    "start.restarts=1",
    "train.batch_size=10",
    "train.epochs=3",
    "train.precision=fp32",
]


def make_archive(name: str, folder: Path) -> tuple[Path, int]:
    """A small archive in the official layout, with generated images; returns it and the number of images."""
    if name == "cifar10":
        return archives.write_tar_gz(folder / "cifar-10-python.tar.gz", archives.cifar10(per_batch=20).python()), 120
    if name == "cifar100-20":
        return archives.write_tar_gz(folder / "cifar-100-binary.tar.gz", archives.cifar100().binary()), 80
    if name == "stl10":
        return archives.write_tar_gz(folder / "stl10_binary.tar.gz", archives.Stl10().files()), 50
    if name == "tiny-imagenet":
        return archives.write_zip(folder / "tiny-imagenet-200.zip", archives.TinyImageNet().files()), 60
    synsets = tuple(IMAGENET_10 if name == "imagenet10" else IMAGENET_DOGS)
    photos = archives.photos_of(synsets)
    return archives.write_tar(folder / "ILSVRC2012_img_train.tar", archives.synset_tars(photos)), 3 * len(synsets)


@pytest.mark.parametrize("name", ["cifar10", "cifar100-20", "stl10", "imagenet10", "imagenet-dogs", "tiny-imagenet"])
def test_archive_to_evaluation(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    archive, count = make_archive(name, tmp_path)

    def type_in(*arguments: str) -> str:
        return CliRunner().invoke(app, list(arguments), catch_exceptions=False).output

    printed = type_in("convert", name, "--src", str(archive), "--allow-incomplete", "--workers", "1")
    assert f"{count} images" in printed
    clusters = ["model.num_clusters=5"] if name == "tiny-imagenet" else []  # five of its 200 classes were made
    type_in("train", *A_FEW_STEPS, *clusters)
    printed = type_in("eval", "--ckpt", "latest", "--json", "result.json")
    assert "published:" in printed
    result = json.loads(Path("result.json").read_text())
    assert (result["dataset"], result["n"]) == (name, count)
    assert 0 < result["acc"] <= 1
    assert result["num_classes"] == {"cifar100-20": 20, "imagenet-dogs": 15, "tiny-imagenet": 5}.get(name, 10)
