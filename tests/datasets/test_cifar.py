"""CIFAR-10 and CIFAR-100 with 20 superclasses: every official form, and what people point at instead."""

from __future__ import annotations

import dataclasses
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tcc_fast.datasets import cifar10, cifar100_20, cifar_pickle, convert, open_dataset
from tcc_fast.datasets.cifar_pickle import NotCifar, UnsafePickle
from tests.datasets import archives
from tests.datasets.archives import Cifar, Files, write_folder, write_tar_gz, write_zip

MODULES: dict[str, Any] = {"cifar10": cifar10, "cifar100-20": cifar100_20}
Content = Callable[[Path], dict[str, bytes]]


def small(name: str, **options: Any) -> Cifar:
    return Cifar(MODULES[name].LAYOUT, **options)


def put(form: str, made: Cifar, raw: Path) -> Path:
    """Write one form below `raw`; returns what --src names."""
    version, kind = form.split()
    official = made.layout.official
    files = made.binary() if version == "binary" else made.python()
    raw.mkdir(exist_ok=True)
    if kind == "archive":
        return write_tar_gz(raw / "renamed.tgz", files)
    if kind == "beside":
        write_tar_gz(raw / official.archives[version == "binary"].name, files)
        return raw
    write_folder(raw, files)
    return raw / official.folders[version == "binary"] if kind == "folder" else raw


@pytest.mark.parametrize("name", MODULES)
def test_every_form_gives_the_same_images_labels_and_order(tmp_path: Path, name: str, content: Content) -> None:
    made = small(name)
    packed = []
    for version in ("python", "binary"):
        for kind in ("archive", "beside", "folder", "parent"):
            form = f"{version} {kind}"
            src = put(form, made, tmp_path / f"raw {form}")
            report = convert(name, tmp_path / form, src, workers=1, allow_incomplete=True)
            packed.append({key: data for key, data in content(report.path).items() if key != "dataset.json"})
    assert all(files == packed[0] for files in packed)

    dataset = open_dataset(report.path)
    labels = dataset.labels()
    assert labels is not None
    assert labels.tolist() == made.all_labels()
    found = np.stack([dataset.decode(index) for index in range(len(dataset))])
    assert (found == made.pixels()).all()
    train = 40 * list(made.layout.batches.values()).count("train")
    manifest = report.manifest
    assert manifest.splits == {"train": (0, train), "test": (train, train + 40), "all": (0, train + 40)}
    assert manifest.class_names == made.layout.class_names
    assert manifest.geometry.uniform_size == (32, 32)
    assert dataset.is_png().all()
    first = next(iter(made.layout.batches))
    assert dataset.sources()[:2] == [f"{first}/00000", f"{first}/00001"]


def test_same_bytes_for_any_number_of_workers(tmp_path: Path, content: Content) -> None:
    src = put("python archive", small("cifar10"), tmp_path / "raw")
    one = convert("cifar10", tmp_path / "one", src, workers=1, allow_incomplete=True)
    two = convert("cifar10", tmp_path / "two", src, workers=2, allow_incomplete=True, shard_bytes=60_000)
    again = convert("cifar10", tmp_path / "again", src, workers=0, allow_incomplete=True, shard_bytes=60_000)
    assert content(two.path) == content(again.path)
    assert one.manifest.mean == two.manifest.mean


@pytest.mark.parametrize("name", MODULES)
def test_a_whole_set_passes_without_being_asked_to(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = small(name)
    layout = made.layout
    per_class = {
        split: 40 * list(layout.batches.values()).count(split) // len(layout.class_names) for split in ("train", "test")
    }
    official = dataclasses.replace(layout.official, per_class=per_class)
    monkeypatch.setattr(MODULES[name], "LAYOUT", dataclasses.replace(layout, official=official))
    report = convert(name, tmp_path / "out", put("binary archive", made, tmp_path / "raw"), workers=1)
    assert "complete, every class counted; MD5 " in report.notes[0]
    assert report.manifest.source["complete"] is True
    assert report.manifest.source["deviations"] == []


def test_the_right_sum_of_wrong_counts_is_no_whole_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = small("cifar10")
    official = dataclasses.replace(made.layout.official, per_class={"train": 20, "test": 4})
    monkeypatch.setattr(cifar10, "LAYOUT", dataclasses.replace(made.layout, official=official))
    labels = made.labels["data_batch_1"]
    for odd in range(0, 10, 2):  # one image of each class moves to the next or from the one before
        labels[np.flatnonzero(labels == odd)[0]] = odd + 1
    src = put("binary archive", made, tmp_path / "raw")
    with pytest.raises(ValueError, match="CIFAR-10: train: airplane has 19 of 20, automobile has 21 of 20, bird"):
        convert("cifar10", tmp_path / "out", src)


def test_official_numbers() -> None:
    for module in MODULES.values():
        layout = module.LAYOUT
        total = {split: n * len(layout.class_names) for split, n in layout.official.per_class.items()}
        assert total == {"train": 50_000, "test": 10_000}
        assert set(layout.md5s) == set(layout.batches)


def test_md5_of_the_extracted_batches_is_compared(tmp_path: Path) -> None:
    src = put("python folder", small("cifar10"), tmp_path / "raw")
    report = convert("cifar10", tmp_path / "out", src, workers=1, allow_incomplete=True)
    assert "MD5 not the published one for data_batch_1, data_batch_2, data_batch_3 and 3 more" in report.notes[0]


def test_short_side_is_refused(tmp_path: Path) -> None:
    src = put("binary archive", small("cifar10"), tmp_path / "raw")
    with pytest.raises(ValueError, match="cifar10 is small and stored pixel by pixel; leave --short-side out"):
        convert("cifar10", tmp_path / "out", src, short_side=16, allow_incomplete=True)


# What people point at instead. Each function writes it and returns what --src names.


def absent(made: Cifar, raw: Path) -> Path:
    return raw / "cifar.tar.gz"


def half(made: Cifar, raw: Path) -> Path:
    path = put("python archive", made, raw)
    path.write_bytes(path.read_bytes()[:-3000])
    return path


def web_page(made: Cifar, raw: Path) -> Path:
    return write_folder(raw, {"cifar.tar.gz": b"\n<!DOCTYPE html><title>Not found</title>"}) / "cifar.tar.gz"


def empty(made: Cifar, raw: Path) -> Path:
    return write_folder(raw, {"cifar.tar.gz": b""}) / "cifar.tar.gz"


def noise(made: Cifar, raw: Path) -> Path:
    path = put("python archive", made, raw)
    data = bytearray(path.read_bytes())
    data[5000:5200] = bytes(200)
    path.write_bytes(data)
    return path


def the_other(made: Cifar, raw: Path) -> Path:
    other = small("cifar100-20" if made.layout.official.name == "cifar10" else "cifar10")
    return put("python archive", other, raw)


def the_other_folder(made: Cifar, raw: Path) -> Path:
    other = small("cifar100-20" if made.layout.official.name == "cifar10" else "cifar10")
    return put("binary parent", other, raw)


def matlab(made: Cifar, raw: Path) -> Path:
    return write_tar_gz(raw / "m.tgz", {"cifar-batches-mat/data.mat": b"MATLAB", "cifar-batches-mat/r.html": b""})


def strangers(made: Cifar, raw: Path) -> Path:
    return write_folder(raw, {"cats/1.jpg": b"", "dogs/1.jpg": b""})


def too_few(made: Cifar, raw: Path) -> Path:
    return put("binary archive", made, raw)


def one_batch_missing(made: Cifar, raw: Path) -> Path:
    last = [*made.layout.batches][-1]
    return write_folder(raw, archives.without(made.python(), [last])) / made.layout.official.folders[0]


def one_label(made: Cifar, raw: Path) -> Path:
    for labels in made.labels.values():
        labels[:] = 3
    return put("python archive", made, raw)


def label_beyond(made: Cifar, raw: Path) -> Path:
    made.labels[next(iter(made.layout.batches))][7] = 20
    return put("binary archive", made, raw)


def cut_records(made: Cifar, raw: Path) -> Path:
    files = {name: data[:-100] for name, data in made.binary().items()}
    return write_folder(raw, archives.without(files, [made.layout.meta[2]])) / made.layout.official.folders[1]


def other_classes(made: Cifar, raw: Path) -> Path:
    files = made.binary()
    name = f"{made.layout.official.folders[1]}/{made.layout.meta[2]}"
    return write_zip(raw / "c.zip", files | {name: b"cat\ndog\n"})


def cut_pickle(made: Cifar, raw: Path) -> Path:
    files = {name: data if "meta" in name else data[:-500] for name, data in made.python().items()}
    return write_folder(raw, files)


def hostile(made: Cifar, raw: Path) -> Path:
    files = made.python()
    name = f"{made.layout.official.folders[0]}/{next(iter(made.layout.batches))}"
    return write_tar_gz(raw / "c.tgz", files | {name: pickle.dumps(Trap(), protocol=2)})


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("trapped",)


WRONG = {
    absent: r"cifar\.tar\.gz: no such file or folder; fetch cifar-10.*https://www\.cs\.toronto\.edu/~kriz/cifar\.html",
    half: r"ends too early, so it is a half download: \d+ bytes instead of 1\d{8} \(cifar-10",
    web_page: "is a web page, not an archive, so the download failed",
    empty: "cifar.tar.gz: is empty; fetch cifar-10",
    noise: r"renamed\.tgz: is damaged",
    the_other: "that is CIFAR-10.*converted with: tcc-fast convert cifar10",
    the_other_folder: "that is CIFAR-10.*converted with: tcc-fast convert cifar10",
    matlab: "holds 'cifar-batches-mat/data.mat': that is the MATLAB version",
    strangers: r"is not CIFAR-10.*\(found: 'cats', 'dogs', 'cats/1\.jpg'\)",
    too_few: r"is not the whole CIFAR-100?: train: \d+ of 50000 images; test: 40 of 10000 images.*--allow-incomplete",
    one_batch_missing: r": (test_batch|test) is missing; .*test: 0 of 10000 images",
    one_label: "all [0-9]+ images have the same label.*labels are broken",
    label_beyond: "image 7 has the label 20, but CIFAR-100? has [12]0 classes",
    cut_records: r"\.bin: has \d+ bytes, no multiple of the 307[34] of one image",
    other_classes: "meta.txt: lists other classes|coarse_label_names.txt: lists other classes",
    cut_pickle: "is damaged or no file of CIFAR-10.*cannot be read as a pickle",
    hostile: "asks for '(posix|nt).mkdir' when opened, which no official file does.*nothing was run",
}


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.__name__)
def test_wrong_input_gets_the_right_sentence(
    tmp_path: Path, name: str, wrong: Callable[[Cifar, Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "raw").mkdir()
    src = wrong(small(name), tmp_path / "raw")
    with pytest.raises(ValueError, match=WRONG[wrong]) as caught:
        convert(name, tmp_path / "out", src, workers=1)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["raw"]  # neither a data set nor what the trap would have made


def test_labels_all_the_same_fail_even_where_an_incomplete_set_would_do(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    src = one_label(small("cifar10"), tmp_path / "raw")
    with pytest.raises(ValueError, match="same label"):
        convert("cifar10", tmp_path / "out", src, allow_incomplete=True)


# Pickles.


def test_pickles_written_by_python_3_are_read_too() -> None:
    data = np.arange(2 * 3072).astype(np.uint8).reshape(2, 3072)
    table = cifar_pickle.load_dict(pickle.dumps({"data": data, "labels": [3, 1]}, protocol=2))
    assert (cifar_pickle.pixels(table) == data).all()
    assert cifar_pickle.numbers(table, "labels").tolist() == [3, 1]
    turned = cifar_pickle.load_dict(pickle.dumps({"data": np.asfortranarray(data)}, protocol=2))
    assert (cifar_pickle.pixels(turned) == data).all()


@pytest.mark.parametrize(
    "asked", ["os.system", "builtins.eval", "builtins.getattr", "numpy.load", "numpy.core.multiarray.frombuffer"]
)
def test_no_name_but_those_of_cifar_is_given(asked: str) -> None:
    module, _, name = asked.rpartition(".")
    with pytest.raises(UnsafePickle, match=asked):
        cifar_pickle.load_dict(f"c{module}\n{name}\n.".encode())
    with pytest.raises(UnsafePickle, match=asked):  # the same by another opcode
        cifar_pickle.load_dict(f"(i{module}\n{name}\n.".encode())


def test_a_pickle_cannot_change_what_it_is_given() -> None:
    # BUILD with a pair sets attributes: here on the stand-in for numpy.ndarray.
    stream = b"\x80\x02cnumpy\nndarray\n(N}X\x04\x00\x00\x00evilK\x01stb."
    with pytest.raises(NotCifar):
        cifar_pickle.load_dict(stream)
    assert not any(hasattr(stand_in, "evil") for stand_in in cifar_pickle._ALLOWED.values())


@pytest.mark.parametrize(
    "table",
    [
        {"labels": [1]},
        {"data": [1]},
        {"data": np.zeros((2, 10), np.uint8)},
        {"data": np.zeros((2, 3072), np.float32)},
        {"data": np.zeros(3072, np.uint8)},
    ],
)
def test_other_arrays_are_refused(table: dict[str, Any]) -> None:
    with pytest.raises(NotCifar):
        cifar_pickle.pixels(cifar_pickle.load_dict(pickle.dumps(table, protocol=2)))


@pytest.mark.parametrize("labels", [None, 3, ["a"], [1.5], [True], [-1], [256]])
def test_other_labels_are_refused(labels: Any) -> None:
    with pytest.raises(NotCifar):
        cifar_pickle.numbers({"labels": labels}, "labels")


def test_a_file_that_is_much_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tcc_fast.datasets import archive

    src = put("python archive", small("cifar10"), tmp_path / "raw")
    monkeypatch.setattr(archive, "MAX_FILE_BYTES", 100_000)
    with pytest.raises(ValueError, match="data_batch_1: has 12[0-9]{4} bytes, which no official file"):
        convert("cifar10", tmp_path / "out", src)


def test_files_of_a_mac_are_passed_over(tmp_path: Path) -> None:
    files: Files = {}
    for name, data in small("cifar10").python().items():
        folder, _, file = name.partition("/")
        files[f"./{folder}/._{file}"] = b"Mac OS X"
        files[f"./{name}"] = data
    src = write_tar_gz(tmp_path / "c.tgz", files)
    assert convert("cifar10", tmp_path / "out", src, workers=1, allow_incomplete=True).num_images == 240
