"""What all data sets of the paper share: where they are looked for, what is said, and that they can be trained on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import tcc_fast
from tcc_fast.config import load_config
from tcc_fast.datasets import convert, imagenet10, open_dataset, reader
from tcc_fast.datasets.imagenet_dogs import SYNSETS as DOGS
from tcc_fast.datasets.official import SHOWN, _some
from tcc_fast.datasets.reader import PAPER_SETS, Checks, FilePart, Item, Rejected
from tcc_fast.pipelines import open_pipeline
from tests.conftest import TINY
from tests.datasets.archives import (
    Stl10,
    TinyImageNet,
    cifar10,
    cifar100,
    photos_of,
    synset_tars,
    write_tar,
    write_tar_gz,
    write_zip,
)

REPOSITORY = Path(tcc_fast.__file__).parent.parent

SQUARE = (140, 140)
OFFICIAL: dict[str, Callable[[Path], Path]] = {
    "cifar10": lambda raw: write_tar_gz(raw / "cifar-10-python.tar.gz", cifar10().python()),
    "cifar100-20": lambda raw: write_tar_gz(raw / "cifar-100-binary.tar.gz", cifar100().binary()),
    "stl10": lambda raw: write_tar_gz(raw / "stl10_binary.tar.gz", Stl10().files()),
    "imagenet10": lambda raw: write_tar(
        raw / "ILSVRC2012_img_train.tar", synset_tars(photos_of(imagenet10.SYNSETS, 4, SQUARE))
    ),
    "imagenet-dogs": lambda raw: write_tar(raw / "ILSVRC2012_img_train.tar", synset_tars(photos_of(DOGS, 3, SQUARE))),
    "tiny-imagenet": lambda raw: write_zip(raw / "tiny-imagenet-200.zip", TinyImageNet().files()),
}
"""Name -> writes its official archive under its official name."""

HOMES = {
    "cifar10": "cifar-10-python.tar.gz or cifar-10-binary.tar.gz (170 MB) from https://www.cs.toronto.edu/~kriz/cifar.html",
    "cifar100-20": "cifar-100-python.tar.gz or cifar-100-binary.tar.gz (169 MB) from https://www.cs.toronto.edu/~kriz/",
    "stl10": "stl10_binary.tar.gz (2.6 GB) from https://cs.stanford.edu/~acoates/stl10/",
    "imagenet10": "ILSVRC2012_img_train.tar (148 GB; free, with registration) or the tars of the 10 synsets "
    "(n02056570.tar and so on) from https://image-net.org/download",
    "imagenet-dogs": "or the tars of the 15 synsets (n02085936.tar and so on) from https://image-net.org/download",
    "tiny-imagenet": "tiny-imagenet-200.zip (248 MB) from http://cs231n.stanford.edu/",
}


@pytest.mark.parametrize("name", PAPER_SETS)
def test_the_bare_form_says_what_to_fetch_and_where_to_put_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TCC_FAST_RAW", "elsewhere")
    with pytest.raises(ValueError, match=f"^{name}: no --src given") as caught:
        convert(name)
    said = str(caught.value)
    assert f"is not in elsewhere, elsewhere/{name}, data/raw, data/raw/{name}: fetch " in said
    assert HOMES[name] in said
    assert "say where it is with --src, or put it into data/raw (nothing is downloaded for you)" in said
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("place", ["data/raw", "data/raw/stl10", "elsewhere", "elsewhere/stl10"])
def test_the_bare_form_looks_in_the_usual_places(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if place.startswith("elsewhere"):
        monkeypatch.setenv("TCC_FAST_RAW", str(tmp_path / "elsewhere"))
    (tmp_path / place).mkdir(parents=True)
    OFFICIAL["stl10"](tmp_path / place)
    report = convert("stl10", workers=1, allow_incomplete=True)
    assert report.path == tmp_path / "data/stl10"
    assert report.num_images == 50


def test_what_is_in_the_usual_places_is_checked_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/raw").mkdir(parents=True)
    path = OFFICIAL["cifar10"](tmp_path / "data/raw")
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"data/raw/cifar-10-python\.tar\.gz: ends too early"):
        convert("cifar10")


@pytest.mark.parametrize("name", PAPER_SETS)
def test_from_the_official_archive_to_a_batch(name: str, tmp_path: Path) -> None:
    """Trained on with its own config, made small: the images of a batch are those of the index it gives."""
    src = OFFICIAL[name](tmp_path)
    report = convert(name, tmp_path / "out", src, workers=1, allow_incomplete=True)
    assert report.manifest.name == name
    assert str(tmp_path) not in (report.path / "dataset.json").read_text()
    dataset = open_dataset(report.path)
    plain = ["crop_area=[1, 1]", "crop_aspect=[1, 1]", "flip=0", "jitter=0", "grey=0", "blur=0"]
    settings = [*TINY, *(f"augment.{setting}" for setting in plain), "train.batch_size=8"]
    assert report.manifest.geometry.uniform_size is not None
    size = report.manifest.geometry.uniform_size[0]
    config = load_config(name, [*settings, f"data.image_size={size}"])
    pipeline = open_pipeline(dataset, config, torch.device("cpu"))
    batch = next(iter(pipeline))
    mean, std = np.array(report.manifest.mean), np.array(report.manifest.std)
    for view, index in zip(batch.view_1, batch.index, strict=True):
        seen = view.permute(1, 2, 0).double().numpy() * std + mean
        assert np.abs(seen - dataset.decode(int(index)) / 255).max() < 1e-3
    pipeline.close()


def test_the_paper_options_are_for_the_paper_sets(tmp_path: Path) -> None:
    for checks in (Checks(allow_incomplete=True), Checks(md5=True)):
        with pytest.raises(ValueError, match="are for the paper's data sets.*cifar10, cifar100-20"):
            reader.open_reader("folder", tmp_path, "auto", checks)
    with pytest.raises(ValueError, match="stl10 has labels of its own"):
        reader.open_reader("stl10", None, "folders")


def test_labels_can_be_left_out(tmp_path: Path) -> None:
    src = OFFICIAL["stl10"](tmp_path)
    report = convert("stl10", tmp_path / "out", src, workers=1, labels="none", allow_incomplete=True)
    assert open_dataset(report.path).labels() is None


def test_the_destination_must_not_hold_the_source(tmp_path: Path) -> None:
    OFFICIAL["stl10"](tmp_path)
    with pytest.raises(ValueError, match="lie within each other"):
        convert("stl10", tmp_path, tmp_path, allow_incomplete=True)
    report = convert("stl10", tmp_path / "stl10", tmp_path, workers=1, allow_incomplete=True)
    assert report.num_images == 50  # beside the archive is fine: the archive is the source


def test_an_unreadable_source_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    src = OFFICIAL["cifar10"](tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tcc_fast.datasets.archive.tarfile.open", refuse)
    with pytest.raises(ValueError, match=r"cifar-10-python\.tar\.gz: cannot be read \(Permission denied\)"):
        convert("cifar10", tmp_path / "out", src)


def test_long_lists_are_cut() -> None:
    assert _some(["a", "b"]) == "a, b"
    assert _some([str(i) for i in range(SHOWN + 2)]) == "0, 1, 2 and 2 more"


def test_the_command_line_takes_the_options(tmp_path: Path) -> None:
    src = OFFICIAL["imagenet10"](tmp_path)
    command = [sys.executable, "-m", "tcc_fast", "convert", "imagenet10", "--src", src, "--workers", "1"]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert finished.returncode == 1
    assert "is not the whole ImageNet-10: train: 40 of 13000 images" in finished.stderr
    finished = subprocess.run([*command, "--allow-incomplete", "--md5"], cwd=tmp_path, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert "ImageNet-10: INCOMPLETE, as allowed: train: 40 of 13000 images; MD5 " in finished.stdout
    assert json.loads((tmp_path / "data/imagenet10/dataset.json").read_text())["source"]["complete"] is False


# Parts of files.


def test_a_part_of_a_file_is_read(tmp_path: Path) -> None:
    from tcc_fast.datasets.encode import MAX_FILE_BYTES, StorageOptions, Stored, store_item

    image = next(iter(photos_of(["n1"])["n1"].values()))
    path = tmp_path / "big"
    path.write_bytes(b"x" * 1000 + image + b"x" * 1000)
    stored = store_item(Item("a", FilePart(path, 1000, len(image))), StorageOptions())
    assert isinstance(stored, Stored)
    assert stored.data == image
    end = path.stat().st_size
    cases = {
        FilePart(path, end - 10, 20): "truncated (archive)",
        FilePart(path, end + 10, 20): "truncated (archive)",
        FilePart(tmp_path / "absent", 0, 20): "unreadable (No such file or directory)",
        FilePart(path, 0, MAX_FILE_BYTES + 1): f"file too large ({MAX_FILE_BYTES + 1} bytes, limit {MAX_FILE_BYTES})",
    }
    for part, reason in cases.items():
        refused = store_item(Item("a", part), StorageOptions())
        assert isinstance(refused, Rejected)
        assert str(refused) == reason


# Memory. In a process of its own, since the peak of this one is that of all tests so far.

MEASURE = """
import resource, sys
from tcc_fast.datasets import convert, decode, imagenet10, stl10
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
report = convert(sys.argv[1], sys.argv[3], sys.argv[2], workers=1, allow_incomplete=True, md5=True, progress=False)
print(report.num_images, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def large_imagenet(raw: Path) -> Path:
    """100 MiB: synsets of 8 MiB that are not wanted, and wanted ones that hold 6 MiB beside the images."""
    photos = photos_of(imagenet10.SYNSETS, 2)
    path = raw / "ILSVRC2012_img_train.tar"
    tars = {f"n0{i}000000.tar": bytes(8 << 20) for i in range(1, 6)}
    for files in photos.values():
        files["zeros.JPEG"] = bytes(6 << 20)
    return write_tar(path, tars | synset_tars(photos))


def large_stl10(raw: Path) -> Path:
    """100 MiB of images without label."""
    return write_tar_gz(raw / "stl10_binary.tar.gz", Stl10(unlabelled=3792).files())


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB")
@pytest.mark.parametrize(("name", "make", "images"), [("imagenet10", large_imagenet, 20), ("stl10", large_stl10, 50)])
def test_memory_stays_flat_while_a_large_archive_is_read(
    tmp_path: Path, name: str, make: Callable[[Path], Path], images: int
) -> None:
    src = make(tmp_path)
    command = [sys.executable, "-c", MEASURE, name, src, tmp_path / "out"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    finished = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    stored, grown = map(int, finished.stdout.split())
    assert stored == images
    assert grown < 32 << 10, f"{grown >> 10} MiB more at the peak, of an archive of 100 MiB"
