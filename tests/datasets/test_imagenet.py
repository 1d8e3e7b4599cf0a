"""ImageNet-10 and ImageNet-Dogs: every form of ILSVRC2012, and what people point at instead."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tcc_fast.datasets import convert, imagenet10, imagenet_dogs, open_dataset, reader
from tcc_fast.datasets.reader import Checks
from tests.datasets.archives import (
    Files,
    TinyImageNet,
    decode_jpeg,
    photos_of,
    synset_tars,
    synset_tree,
    tar_bytes,
    write_folder,
    write_tar,
    write_zip,
)
from tests.datasets.conftest import encoded, smooth

MODULES: dict[str, Any] = {"imagenet10": imagenet10, "imagenet-dogs": imagenet_dogs}
Content = Callable[[Path], dict[str, bytes]]
Photos = dict[str, Files]
UNWANTED = ("n01440764", "n15075141")
"""Synsets of neither set: the first and the last of the official tar."""


def photos(name: str) -> Photos:
    return photos_of([UNWANTED[0], *MODULES[name].SYNSETS, UNWANTED[1]])


def official_tar(made: Photos, raw: Path) -> Path:
    return write_tar(raw / "ILSVRC2012_img_train.tar", synset_tars(made))


def beside(made: Photos, raw: Path) -> Path:
    return official_tar(made, raw).parent


def tars(made: Photos, raw: Path) -> Path:
    return write_folder(raw, synset_tars(made))


def tree(made: Photos, raw: Path) -> Path:
    return write_folder(raw / "train", synset_tree(made))


def parent(made: Photos, raw: Path) -> Path:
    return tree(made, raw).parent


def kaggle(made: Photos, raw: Path) -> Path:
    write_folder(raw / "ILSVRC/Data/CLS-LOC/train", synset_tree(made))
    return raw


FORMS = (official_tar, beside, tars, tree, parent, kaggle)


@pytest.mark.parametrize("name", MODULES)
def test_every_form_gives_the_same_images_labels_and_order(tmp_path: Path, name: str, content: Content) -> None:
    made = photos(name)
    synsets = sorted(MODULES[name].SYNSETS)
    packed = []
    for form in FORMS:
        raw = tmp_path / f"raw {form.__name__}"
        raw.mkdir()
        out = tmp_path / form.__name__
        report = convert(name, out, form(made, raw), short_side=0, workers=1, allow_incomplete=True)
        packed.append({key: data for key, data in content(report.path).items() if key != "dataset.json"})
    assert all(files == packed[0] for files in packed)

    dataset = open_dataset(report.path)
    labels = dataset.labels()
    assert labels is not None
    assert labels.tolist() == [label for label in range(len(synsets)) for _ in range(3)]
    expected = [(f"{synset}/{file}", data) for synset in synsets for file, data in sorted(made[synset].items())]
    assert dataset.sources() == [source for source, _ in expected]
    assert [dataset.read(index) for index in range(len(dataset))] == [data for _, data in expected]
    assert (dataset.decode(0) == decode_jpeg(expected[0][1])).all()
    names = report.manifest.class_names
    assert names is not None
    assert names[0] == f"{synsets[0]} {MODULES[name].SYNSETS[synsets[0]]}"
    assert report.manifest.splits == {"train": (0, len(dataset)), "all": (0, len(dataset))}


def test_the_synsets_are_those_of_the_field() -> None:
    assert " ".join(imagenet10.SYNSETS) == (
        "n02056570 n02085936 n02128757 n02690373 n02692877 n03095699 n04254680 n04285008 n04467665 n07747607"
    )
    assert " ".join(imagenet_dogs.SYNSETS) == (
        "n02085936 n02086646 n02088238 n02091467 n02097130 n02099601 n02101388 n02101556 n02102177 n02105056 "
        "n02105412 n02105855 n02107142 n02110958 n02112137"
    )
    for module, total in ((imagenet10, 13_000), (imagenet_dogs, 19_500)):
        assert module.OFFICIAL.per_class["train"] * len(module.SYNSETS) == total


def test_images_are_reduced_by_default_and_the_same_for_any_number_of_workers(tmp_path: Path, content: Content) -> None:
    src = official_tar(photos("imagenet10"), tmp_path)
    one, two = (
        convert("imagenet10", tmp_path / str(workers), src, workers=workers, allow_incomplete=True)
        for workers in (1, 2)
    )
    assert content(one.path) == content(two.path)
    assert one.manifest.geometry.short_side == 112
    assert open_dataset(one.path).sizes().min(1).tolist() == [112] * 30


def test_the_one_png_that_is_called_jpeg_is_read(tmp_path: Path) -> None:
    made = photos("imagenet-dogs")
    image = smooth(150, 130)
    made["n02105855"]["n02105855_2933.JPEG"] = encoded(image, "PNG")
    src = official_tar(made, tmp_path)
    report = convert("imagenet-dogs", tmp_path / "out", src, workers=1, short_side=0, allow_incomplete=True)
    dataset = open_dataset(report.path)
    index = dataset.sources().index("n02105855/n02105855_2933.JPEG")
    assert (dataset.decode(index) == np.asarray(image)).all()
    assert report.num_rejected == 0


def test_a_whole_set_passes_and_one_image_less_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(imagenet10.OFFICIAL.per_class, "train", 3)  # type: ignore[arg-type]
    made = photos("imagenet10")
    report = convert("imagenet10", tmp_path / "out", tree(made, tmp_path / "raw"), workers=1)
    assert "ImageNet-10: complete, every class counted" in report.notes[0]
    (tmp_path / "raw/train/n02690373/n02690373_1002.JPEG").unlink()
    with pytest.raises(ValueError, match="29 of 30 images; train: n02690373 airliner has 2 of 3"):
        convert("imagenet10", tmp_path / "less", tmp_path / "raw", workers=1)
    report = convert("imagenet10", tmp_path / "less", tmp_path / "raw", workers=1, allow_incomplete=True)
    assert report.manifest.source["complete"] is False
    assert report.manifest.source["deviations"] == [
        "train: 29 of 30 images",
        "train: n02690373 airliner has 2 of 3",
    ]


@pytest.mark.parametrize(
    ("damage", "reason"), [(lambda data: data[:600], "truncated"), (lambda data: b"no" + data, "not an image")]
)
def test_a_damaged_image_fails_a_whole_set_but_not_an_incomplete_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[bytes], bytes], reason: str
) -> None:
    monkeypatch.setitem(imagenet10.OFFICIAL.per_class, "train", 3)  # type: ignore[arg-type]
    made = photos("imagenet10")
    file = min(made["n02056570"])
    made["n02056570"][file] = damage(made["n02056570"][file])
    src = official_tar(made, tmp_path)
    with pytest.raises(ValueError, match="1 of 1 files were rejected where 0 may"):
        convert("imagenet10", tmp_path / "out", src, workers=1)
    report = convert("imagenet10", tmp_path / "out", src, workers=1, allow_incomplete=True)
    assert (report.num_images, report.rejected) == (29, {reason: 1})
    source = report.manifest.source
    assert (source["complete"], source["deviations"]) == (False, ["1 images rejected"])
    assert report.manifest.splits["train"] == (0, 29)


def test_md5_of_a_large_tar_is_read_only_when_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tcc_fast.datasets import official, progress

    src = official_tar(photos("imagenet10"), tmp_path)
    monkeypatch.setattr(official, "AUTO_MD5_BYTES", 1000)
    opened = reader.open_reader("imagenet10", src, "auto", Checks(allow_incomplete=True))
    assert "MD5 not compared, size differs from the official archive (--md5 reads all 0 GB)" in opened.notes[0]
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    opened = reader.open_reader("imagenet10", src, "auto", Checks(allow_incomplete=True, md5=True, progress=True))
    assert opened.about["md5"].endswith("is not the published one")
    assert "MD5 of ILSVRC2012_img_train.tar: 0 MB done" in capsys.readouterr().err


def test_images_are_read_from_the_tar_by_the_workers(tmp_path: Path) -> None:
    src = official_tar(photos("imagenet10"), tmp_path)
    items = list(reader.open_reader("imagenet10", src, "auto", Checks(allow_incomplete=True)))
    assert {type(item.payload) for item in items} == {reader.FilePart}


# What people point at instead.


def absent(made: Photos, raw: Path) -> Path:
    return raw / "imagenet"


def half(made: Photos, raw: Path) -> Path:
    path = official_tar(made, raw)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    return path


def half_at_a_border(made: Photos, raw: Path) -> Path:
    """Ends between two synsets: only the end mark is missing."""
    path = official_tar(made, raw)
    few = list(synset_tars(made).values())[:5]
    path.write_bytes(path.read_bytes()[: sum(512 + len(data) for data in few)])
    return path


def half_a_synset(made: Photos, raw: Path) -> Path:
    files = synset_tars(made)
    name = f"{min(set(made) - set(UNWANTED))}.tar"
    return write_folder(raw, files | {name: files[name][:3000]})


def stanford_dogs(made: Photos, raw: Path) -> Path:
    return write_tar(raw / "images.tar", {"Images/n02085620-Chihuahua/n02085620_10074.jpg": b"", "Images/x": b""})


def stanford_dogs_folder(made: Photos, raw: Path) -> Path:
    return write_folder(raw, {"Images/n02085620-Chihuahua/n02085620_10074.jpg": b"", "lists.tar": b""})


def stanford_dogs_classes(made: Photos, raw: Path) -> Path:
    return write_folder(raw, {"n02085620-Chihuahua/n02085620_10074.jpg": b"", "n02085936-Maltese_dog/1.jpg": b""})


def validation(made: Photos, raw: Path) -> Path:
    return write_tar(raw / "ILSVRC2012_img_val.tar", {f"ILSVRC2012_val_{i:08d}.JPEG": b"" for i in range(1, 9)})


def devkit(made: Photos, raw: Path) -> Path:
    return write_folder(raw, {"ILSVRC2012_devkit_t12.tar.gz": b""})


def downsampled(made: Photos, raw: Path) -> Path:
    return write_folder(raw, {"train_data_batch_1": b"", "val_data": b""})


def tiny_zip(made: Photos, raw: Path) -> Path:
    return write_zip(raw / "t.zip", TinyImageNet(2, 2).files())


def tiny_folder(made: Photos, raw: Path) -> Path:
    synset = sorted(set(made) - set(UNWANTED))[0]
    return write_folder(raw, {f"train/{synset}/images/{synset}_0.JPEG": b"", "words.txt": b""})


def one_synset(made: Photos, raw: Path) -> Path:
    synset = sorted(set(made) - set(UNWANTED))[0]
    return write_tar(raw / f"{synset}.tar", made[synset])


def compressed(made: Photos, raw: Path) -> Path:
    path = raw / "ILSVRC2012_img_train.tar.gz"
    path.write_bytes(gzip.compress(official_tar(made, raw).read_bytes()))
    return path


def other_synsets(made: Photos, raw: Path) -> Path:
    return write_folder(raw / "train", synset_tree({name: made[name] for name in UNWANTED})).parent


def missing_synsets(made: Photos, raw: Path) -> Path:
    synsets = sorted(set(made) - set(UNWANTED))
    return tree({name: made[name] for name in synsets[2:]}, raw)


def one_class(made: Photos, raw: Path) -> Path:
    synset = sorted(set(made) - set(UNWANTED))[0]
    return tree({synset: made[synset]}, raw)


def too_few(made: Photos, raw: Path) -> Path:
    return official_tar(made, raw)


def damaged_header(made: Photos, raw: Path) -> Path:
    path = official_tar(made, raw)
    data = bytearray(path.read_bytes())
    second = len(tar_bytes(made[UNWANTED[0]])) + 512
    data[second : second + 200] = b"x" * 200
    path.write_bytes(data)
    return path


WRONG = {
    absent: r"imagenet: no such file or folder; fetch ILSVRC2012_img_train\.tar \(148 GB; free, with registration\)",
    half: r"ILSVRC2012_img_train\.tar: ends too early, so it is a half download: \d+ bytes instead of 147897477120",
    half_at_a_border: r"ILSVRC2012_img_train\.tar: ends too early",
    half_a_synset: r"/n0\d{7}\.tar: ends too early, so it is a half download: 3000 bytes; fetch it again",
    stanford_dogs: r"'Images/n02085620-Chihuahua/n02085620_10074\.jpg': that is the Stanford Dogs archive.*not what "
    r"the field calls ImageNet-Dogs.*Get ILSVRC2012_img_train\.tar from https://image-net\.org",
    stanford_dogs_folder: "'Images/n02085620-Chihuahua': that is the Stanford Dogs archive",
    stanford_dogs_classes: "'n02085620-Chihuahua': that is the Stanford Dogs archive",
    validation: r"'ILSVRC2012_val_00000001\.JPEG': those are the validation or test images",
    devkit: "that is the development kit, without images",
    downsampled: "that is a downsampled ImageNet",
    tiny_zip: "that is Tiny-ImageNet, 64 pixels wide",
    tiny_folder: "/images': that is Tiny-ImageNet, 64 pixels wide",
    one_synset: "that is the tar of a single synset; name the folder",
    compressed: "is compressed, .* run gunzip on it first",
    other_synsets: "'train/n01440764': but needed are the synsets n0.*n0",
    missing_synsets: r"is not the whole ImageNet-\w+: 2 of 1[05] classes are missing: n02[^,]*, n02[^,;]*; train: ",
    one_class: r"all 3 images have the same label \('n02\d{6} [\w ]+'\)",
    too_few: r"is not the whole ImageNet-\w+: train: (30 of 13000|45 of 19500) images",
    damaged_header: r"ILSVRC2012_img_train\.tar: is damaged \(no header at byte \d+\)",
}


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.__name__)
def test_wrong_input_gets_the_right_sentence(tmp_path: Path, name: str, wrong: Callable[[Photos, Path], Path]) -> None:
    (tmp_path / "raw").mkdir()
    src = wrong(photos(name), tmp_path / "raw")
    with pytest.raises(ValueError, match=WRONG[wrong]) as caught:
        convert(name, tmp_path / "out", src, workers=1)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["raw"]
