"""STL-10: every official form, and what people point at instead."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tcc_fast.datasets import convert, open_dataset, stl10
from tests.datasets.archives import Stl10, without, write_folder, write_tar_gz

Content = Callable[[Path], dict[str, bytes]]


@pytest.mark.parametrize("form", ["archive", "beside", "folder", "parent"])
def test_every_form_gives_images_labels_and_order(tmp_path: Path, form: str) -> None:
    made, raw = Stl10(), tmp_path / "raw"
    raw.mkdir()
    src = raw
    if form in ("archive", "beside"):
        archive = write_tar_gz(raw / "stl10_binary.tar.gz", made.files())
        src = archive if form == "archive" else raw
    else:
        write_folder(raw, made.files())
        src = raw / "stl10_binary" if form == "folder" else raw
    report = convert("stl10", tmp_path / "out", src, workers=1, allow_incomplete=True)
    dataset = open_dataset(report.path)
    labels = dataset.labels()
    assert labels is not None
    assert labels.tolist() == made.all_labels()
    found = np.stack([dataset.decode(index) for index in range(len(dataset))])
    assert (found == made.pixels()).all()
    assert report.manifest.splits == {"train": (0, 20), "test": (20, 50), "all": (0, 50)}
    assert report.manifest.class_names == stl10.CLASSES
    assert report.skipped == {"unlabelled": 3}
    assert dataset.sources()[19:21] == ["train_X/00019", "test_X/00000"]


@pytest.mark.parametrize("form", ["archive", "folder"])
def test_the_unlabelled_images_come_last_when_asked_for(tmp_path: Path, form: str) -> None:
    made = Stl10()
    if form == "archive":
        src = write_tar_gz(tmp_path / "stl10_binary.tar.gz", made.files())
    else:
        src = write_folder(tmp_path / "raw", made.files())
    report = convert("stl10", tmp_path / "out", src, labels="partial", workers=1, allow_incomplete=True)
    assert report.manifest.splits == {"train": (0, 20), "test": (20, 50), "unlabelled": (50, 53), "all": (0, 53)}
    assert (report.skipped, report.num_unlabelled) == ({}, 3)
    assert "unlabelled: 3 of 100000 images" in report.notes[0]
    dataset = open_dataset(report.path)
    labels = dataset.labels()
    assert labels is not None
    assert labels.tolist() == [*made.all_labels(), -1, -1, -1]
    assert (np.stack([dataset.decode(index) for index in range(50, 53)]) == made.unlabelled).all()
    assert dataset.sources()[50] == "unlabeled_X/00000"
    assert report.manifest.source["description"].endswith("Then the unlabelled images.")


def test_unlabelled_images_that_are_asked_for_must_be_there(tmp_path: Path) -> None:
    src = write_tar_gz(tmp_path / "s.tgz", without(Stl10().files(), ["unlabeled_X.bin"]))
    with pytest.raises(ValueError, match=r"unlabeled_X\.bin is missing"):
        convert("stl10", tmp_path / "out", src, labels="partial", workers=1, allow_incomplete=True)
    assert convert("stl10", tmp_path / "out", src, workers=1, allow_incomplete=True).num_images == 50


def test_the_file_is_column_by_column() -> None:
    made = Stl10()
    image = made.images["train"][0]
    data = made.files()["stl10_binary/train_X.bin"]
    assert data[:96] == image[:, 0, 0].tobytes()  # the first column of red, downwards
    assert data[96 * 96] == image[0, 0, 1]


def test_same_bytes_for_any_number_of_workers(tmp_path: Path, content: Content) -> None:
    src = write_tar_gz(tmp_path / "s.tgz", Stl10(30, 30).files())
    one, two = (
        convert("stl10", tmp_path / str(workers), src, workers=workers, allow_incomplete=True) for workers in (1, 2)
    )
    assert content(one.path) == content(two.path)


def test_a_whole_set_passes_without_being_asked_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    official = stl10.OFFICIAL
    assert {split: n * len(stl10.CLASSES) for split, n in official.per_class.items()} == {"train": 5000, "test": 8000}
    monkeypatch.setattr(stl10, "OFFICIAL", dataclasses.replace(official, per_class={"train": 2, "test": 3}))
    src = write_folder(tmp_path / "raw", Stl10().files())
    report = convert("stl10", tmp_path / "out", src, workers=1)
    assert "complete, every class counted; MD5 not the published one for train_X.bin" in report.notes[0]


def absent(made: Stl10, raw: Path) -> Path:
    return raw / "stl10"


def half(made: Stl10, raw: Path) -> Path:
    path = write_tar_gz(raw / "stl10_binary.tar.gz", made.files())
    path.write_bytes(path.read_bytes()[:-200_000])
    return raw


def matlab(made: Stl10, raw: Path) -> Path:
    return write_tar_gz(raw / "stl10_matlab.tar.gz", {"stl10_matlab/train.mat": b"MATLAB"})


def as_images(made: Stl10, raw: Path) -> Path:
    return write_folder(raw, {"train_images/1.png": b"", "test_images/2.png": b""})


def one_file_missing(made: Stl10, raw: Path) -> Path:
    return write_folder(raw, without(made.files(), ["test_y.bin"]))


def labels_short(made: Stl10, raw: Path) -> Path:
    files = made.files()
    return write_folder(raw, files | {"stl10_binary/test_y.bin": files["stl10_binary/test_y.bin"][:-1]})


def images_short(made: Stl10, raw: Path) -> Path:
    files = made.files()
    return write_folder(raw, files | {"stl10_binary/train_X.bin": files["stl10_binary/train_X.bin"][:-5]})


def label_zero(made: Stl10, raw: Path) -> Path:
    made.labels["train"][4] = -1  # as if somebody had counted from 0
    return write_folder(raw, made.files())


def one_label(made: Stl10, raw: Path) -> Path:
    made.labels["train"][:] = made.labels["test"][:] = 5
    return write_folder(raw, made.files())


def too_few(made: Stl10, raw: Path) -> Path:
    return write_folder(raw, made.files())


def other_classes(made: Stl10, raw: Path) -> Path:
    return write_folder(raw, made.files() | {"stl10_binary/class_names.txt": b"cat dog"})


WRONG = {
    absent: r"stl10: no such file or folder; fetch stl10_binary\.tar\.gz.*https://cs\.stanford\.edu/~acoates/stl10",
    half: r"stl10_binary\.tar\.gz: ends too early, so it is a half download: \d+ bytes instead of 2640397119",
    matlab: "'stl10_matlab/train.mat': that is the MATLAB version; take the binary version",
    as_images: r"'test_images/2\.png': that is a copy as image files",
    one_file_missing: r"test_y\.bin is missing; fetch stl10_binary",
    labels_short: r"test_X\.bin: has 829440 bytes, which are 30 images, but test_y\.bin has 29 labels",
    images_short: r"train_X\.bin: has \d+ bytes, which are 19\.99\d+ images, but train_y\.bin has 20 labels",
    label_zero: r"train_y\.bin: image 4 has the label 0, but STL-10 has 1 to 10",
    one_label: r"all 50 images have the same label \('dog'\)",
    too_few: "is not the whole STL-10: train: 20 of 5000 images; test: 30 of 8000 images",
    other_classes: "class_names.txt: lists other classes than STL-10",
}


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.__name__)
def test_wrong_input_gets_the_right_sentence(tmp_path: Path, wrong: Callable[[Stl10, Path], Path]) -> None:
    (tmp_path / "raw").mkdir()
    src = wrong(Stl10(), tmp_path / "raw")
    with pytest.raises(ValueError, match=WRONG[wrong]) as caught:
        convert("stl10", tmp_path / "out", src, workers=1)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["raw"]
