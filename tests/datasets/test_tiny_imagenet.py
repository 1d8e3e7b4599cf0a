"""Tiny-ImageNet: the zip and the folder, and what people point at instead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tcc_fast.datasets import convert, open_dataset, tiny_imagenet
from tests.datasets.archives import TinyImageNet, decode_jpeg, without, write_folder, write_tar, write_zip

Content = Callable[[Path], dict[str, bytes]]


def whole(monkeypatch: pytest.MonkeyPatch, made: TinyImageNet) -> None:
    """Make a small set count as the whole one."""
    monkeypatch.setattr(tiny_imagenet, "CLASSES", len(made.synsets))
    each = len(made.images) // len(made.synsets)
    monkeypatch.setitem(tiny_imagenet.OFFICIAL.per_class, "train", each)  # type: ignore[arg-type]


def test_zip_and_folder_give_the_same_images_labels_and_order(
    tmp_path: Path, content: Content, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, raw = TinyImageNet(), tmp_path / "raw"
    whole(monkeypatch, made)
    (raw / "zip").mkdir(parents=True)
    zipped = write_zip(raw / "zip" / "tiny-imagenet-200.zip", made.files())
    folder = write_folder(raw / "folder", made.files())
    sources = [zipped, zipped.parent, folder, folder / "tiny-imagenet-200"]
    reports = [convert("tiny-imagenet", tmp_path / str(i), src, workers=i % 3) for i, src in enumerate(sources)]
    packed = [{key: data for key, data in content(report.path).items() if key != "dataset.json"} for report in reports]
    assert all(files == packed[0] for files in packed)

    dataset = open_dataset(reports[0].path)
    synsets = sorted(made.synsets)
    labels = dataset.labels()
    assert labels is not None
    assert labels.tolist() == [label for label in range(5) for _ in range(12)]
    order = ["0", "1", "10", "11", "2", "3"]
    assert dataset.sources()[12:18] == [f"{synsets[1]}/{synsets[1]}_{i}.JPEG" for i in order]
    for index, source in enumerate(dataset.sources()):
        synset, _, file = source.partition("/")
        original = made.images[f"train/{synset}/images/{file}"]
        assert dataset.read(index) == original  # grey ones too
        assert (dataset.decode(index) == decode_jpeg(original)).all()
    assert reports[0].manifest.class_names == tuple(
        f"{synset} thing {made.synsets.index(synset)}" for synset in synsets
    )
    assert reports[0].manifest.geometry.uniform_size == (64, 64)
    assert np.bincount(labels).tolist() == [12] * 5


def test_official_numbers() -> None:
    assert tiny_imagenet.CLASSES * tiny_imagenet.OFFICIAL.per_class["train"] == 100_000


def absent(made: TinyImageNet, raw: Path) -> Path:
    return raw / "tiny.zip"


def half(made: TinyImageNet, raw: Path) -> Path:
    path = write_zip(raw / "tiny-imagenet-200.zip", made.files())
    path.write_bytes(path.read_bytes()[:-5000])
    return path


def web_page(made: TinyImageNet, raw: Path) -> Path:
    return write_folder(raw, {"tiny.zip": b"<html>Sorry</html>"}) / "tiny.zip"


def no_list(made: TinyImageNet, raw: Path) -> Path:
    return write_folder(raw, without(made.files(), ["wnids.txt"]))


def strange_list(made: TinyImageNet, raw: Path) -> Path:
    return write_folder(raw, made.files() | {"tiny-imagenet-200/wnids.txt": b"cat\ndog\n"})


def validation_only(made: TinyImageNet, raw: Path) -> Path:
    files = {name: data for name, data in made.files().items() if "/val/" in name}
    return write_zip(raw / "val.zip", files)


def full_size(made: TinyImageNet, raw: Path) -> Path:
    return write_folder(raw, {"n01440764.tar": b"", "n01443537.tar": b""})


def as_tar(made: TinyImageNet, raw: Path) -> Path:
    return write_tar(raw / "tiny-imagenet-200.tar", made.files())


def missing_synset(made: TinyImageNet, raw: Path) -> Path:
    gone = made.synsets[2]
    return write_folder(raw, {name: data for name, data in made.files().items() if gone not in name})


def one_image_less(made: TinyImageNet, raw: Path) -> Path:
    return write_zip(raw / "t.zip", without(made.files(), [f"{made.synsets[0]}_11.JPEG"]))


def one_class(made: TinyImageNet, raw: Path) -> Path:
    keep = made.synsets[1]
    files = {name: data for name, data in made.files().items() if keep in name or "train/" not in name}
    return write_folder(raw, files)


def short_list(made: TinyImageNet, raw: Path) -> Path:
    two = "\n".join(made.synsets[:2]).encode()
    return write_folder(raw, made.files() | {"tiny-imagenet-200/wnids.txt": two})


def flipped_bit(made: TinyImageNet, raw: Path) -> Path:
    path = write_zip(raw / "t.zip", made.files())
    data = bytearray(path.read_bytes())
    at = data.index(f"images/{min(made.synsets)}_0.JPEG".encode()) + 60
    data[at : at + 40] = bytes(40)
    path.write_bytes(data)
    return path


WRONG = {
    absent: r"tiny\.zip: no such file or folder; fetch tiny-imagenet-200\.zip \(248 MB\) from http://cs231n\.stanford",
    half: r"tiny-imagenet-200\.zip: ends too early, so it is a half download: \d+ bytes instead of 248100043",
    web_page: "is a web page, not an archive",
    no_list: "wnids.txt is missing, which lists the 5 synsets",
    strange_list: "wnids.txt: is no list of synsets",
    validation_only: "that is the validation part alone",
    full_size: r"'n01440764\.tar': those are the full-size ImageNet images",
    as_tar: "is a tar, but Tiny-ImageNet comes as a zip: unpack it",
    missing_synset: "1 of 5 classes are missing: n0144[0-9]{4} thing 2; train: 48 of 60 images",
    one_image_less: "train: 59 of 60 images; train: n0144[0-9]{4} thing 0 has 11 of 12",
    one_class: "all 12 images have the same label",
    short_list: r"wnids\.txt lists 2 of 5 synsets",
    flipped_bit: r"1 of 1 files were rejected where 0 may be \(damaged: 1\)",
}


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.__name__)
def test_wrong_input_gets_the_right_sentence(
    tmp_path: Path, wrong: Callable[[TinyImageNet, Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = TinyImageNet()
    whole(monkeypatch, made)
    (tmp_path / "raw").mkdir()
    src = wrong(made, tmp_path / "raw")
    with pytest.raises(ValueError, match=WRONG[wrong]) as caught:
        convert("tiny-imagenet", tmp_path / "out", src, workers=1)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
