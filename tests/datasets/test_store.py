"""Reading back: by index, from anywhere, and never from a damaged folder."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import multiprocessing
import os
import pickle
import shutil
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tcc_fast.datasets import Dataset, convert, open_dataset, store


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert("digits", tmp_path_factory.mktemp("packed") / "digits", shard_bytes=300_000).path


@pytest.fixture
def copy(packed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(packed, tmp_path / "copy"))


def seal(folder: Path, name: str) -> None:
    """Make the manifest agree with a changed file."""
    manifest = json.loads((folder / "dataset.json").read_text())
    data = (folder / name).read_bytes()
    manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "dataset.json").write_text(json.dumps(manifest))


def test_reading(packed: Path) -> None:
    dataset = open_dataset(packed)
    assert len(dataset) == 1797
    assert len(dataset.manifest.shards) == 7
    for index in (0, 1, 400, 1796):
        pixels = dataset.decode(index)
        assert (pixels.shape, pixels.dtype, pixels.flags.writeable) == ((8, 8, 3), np.uint8, True)
        assert dataset.read(index).startswith(b"\x89PNG")
    assert dataset.sizes().tolist() == [[8, 8]] * 1797
    assert dataset.sizes().dtype == np.int64
    assert dataset.lengths().tolist() == [len(dataset.read(index)) for index in range(1797)]
    assert dataset.is_png().all()
    assert dataset.sources()[7] == "digits/00007"
    labels = dataset.labels()
    assert labels is not None
    assert (labels.dtype, labels.shape) == (np.int64, (1797,))
    assert dataset.fingerprint == hashlib.sha256((packed / "dataset.json").read_bytes()).hexdigest()
    assert "1797 images" in repr(dataset)


@pytest.mark.parametrize("index", [-1, 1797])
def test_no_such_index(packed: Path, index: int) -> None:
    dataset = open_dataset(packed)
    for read in (dataset.read, dataset.decode):
        with pytest.raises(IndexError, match=f"image {index} of 1797"):
            read(index)


def test_own_images_are_called_as_their_folder(tmp_path: Path, photos: Path, copy: Path) -> None:
    convert("folder", tmp_path / "holi\udcffdays", photos, workers=1, progress=False)
    own = open_dataset(tmp_path / "holi\udcffdays")
    assert (own.title, own.manifest.name) == ("holi\\xffdays", "folder")
    assert open_dataset(copy).title == "digits"


def test_relative_paths_survive_a_change_of_folder(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(packed.parent)
    dataset = open_dataset("digits")
    monkeypatch.chdir("/")
    assert (dataset.decode(0) == open_dataset(packed).decode(0)).all()


def test_pickled_and_spawned(packed: Path) -> None:
    dataset = open_dataset(packed)
    wanted = [dataset.decode(index) for index in range(20)]  # files are open now
    again: Dataset = pickle.loads(pickle.dumps(dataset))
    assert again.fingerprint == dataset.fingerprint
    assert (again.decode(5) == wanted[5]).all()
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as workers:
        found = list(workers.map(dataset.decode, range(20)))
    assert all((a == b).all() for a, b in zip(found, wanted, strict=True))


def open_files(folder: Path) -> list[str]:
    """Files in a folder that this process has open; others come and go with the threads of other tests."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the one that lists this very folder is closed by now
            found.append(os.readlink(link))
    return [path for path in found if Path(path).is_relative_to(folder.resolve())]


def test_threads_and_close(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_MAX_OPEN_SHARDS", 3)  # fewer than there are
    dataset = open_dataset(packed)
    wanted = [dataset.read(index) for index in range(len(dataset))]
    assert len(open_files(packed)) == 3
    dataset.close()
    assert open_files(packed) == []
    order = np.random.default_rng(0).permutation(len(dataset)).tolist()
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(dataset.read, order))
    assert all(data == wanted[index] for data, index in zip(found, order, strict=True))
    del dataset
    assert open_files(packed) == []


def test_two_threads_that_open_the_same_shard(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = open_dataset(packed)
    real = os.open

    def racing(path: Any, flags: int) -> int:
        dataset._handles[0] = real(path, flags)  # the other thread
        return real(path, flags)

    before = len(open_files(packed))
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", racing)
        assert dataset.read(0).startswith(b"\x89PNG")
    assert len(open_files(packed)) == before + 1


NAMES = ["images.csv", "labels.csv", "rejected.csv", "shard-00000.idx", "shard-00000.tar", "shard-00006.tar"]


@pytest.mark.parametrize("name", NAMES)
def test_missing_truncated_and_longer_files_are_named(copy: Path, name: str) -> None:
    data = (copy / name).read_bytes()
    for verify in ("auto", True, False):
        (copy / name).write_bytes(data[:-1])
        with pytest.raises(ValueError, match=f"{name}: is truncated"):
            open_dataset(copy, verify=verify)  # type: ignore[arg-type]
        (copy / name).write_bytes(data + b"x")
        with pytest.raises(ValueError, match=f"{name}: is too long"):
            open_dataset(copy, verify=verify)  # type: ignore[arg-type]
    (copy / name).unlink()
    with pytest.raises(ValueError, match=f"{name}: is missing"):
        open_dataset(copy)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "name", ["images.csv", "rejected.csv", "shard-00000.idx", "shard-00000.tar", "shard-00006.tar"]
)
def test_a_changed_byte_is_found(copy: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    flip(copy / name, 600 if name.endswith("tar") else 5)
    for verify in ("auto", True):
        with pytest.raises(ValueError, match=f"{name}: content has changed"):
            open_dataset(copy, verify=verify)  # type: ignore[arg-type]
    open_dataset(copy, verify=False)
    monkeypatch.setattr(store, "AUTO_VERIFY_BYTES", 1000)
    open_dataset(copy)


def test_labels_are_opened_by_labels_alone(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flip(copy / "labels.csv", 20)
    dataset = open_dataset(copy, verify=True)
    dataset.decode(3)
    with pytest.raises(ValueError, match=r"labels\.csv: content has changed"):
        dataset.labels()


@pytest.mark.parametrize(
    ("text", "message"),
    [("10", "outside the 10 classes"), ("-2", "outside the 10 classes"), ("x", "not a whole number")],
)
def test_impossible_labels(copy: Path, text: str, message: str) -> None:
    lines = (copy / "labels.csv").read_text().splitlines()
    lines[-1] = f"1796,{text}"
    (copy / "labels.csv").write_text("\n".join(lines) + "\n")
    seal(copy, "labels.csv")
    with pytest.raises(ValueError, match=message):
        open_dataset(copy).labels()


def test_tables_must_fit(copy: Path) -> None:
    lines = (copy / "images.csv").read_text().splitlines()
    (copy / "images.csv").write_text("\n".join(lines[:-1]) + "\n")
    seal(copy, "images.csv")
    with pytest.raises(ValueError, match=r"images\.csv: is not a table of 1797 rows"):
        open_dataset(copy).sizes()
    lines[3], lines[4] = lines[4], lines[3]
    (copy / "images.csv").write_text("\n".join(lines) + "\n")
    seal(copy, "images.csv")
    with pytest.raises(ValueError, match=r"images\.csv: rows are not in index order"):
        open_dataset(copy).sizes()


def test_other_format_version(copy: Path) -> None:
    manifest = json.loads((copy / "dataset.json").read_text())
    (copy / "dataset.json").write_text(json.dumps({**manifest, "format_version": 99}))
    with pytest.raises(ValueError, match=r"dataset\.json: format_version is 99"):
        open_dataset(copy)


def test_damaged_tar_headers_are_found_without_verification(copy: Path) -> None:
    flip(copy / "shard-00001.tar", 0)
    with pytest.raises(ValueError, match=r"shard-00001\.tar: no header of image \d+ at byte 0"):
        open_dataset(copy, verify=False)


def test_an_image_that_cannot_be_decoded_is_named(copy: Path) -> None:
    flip(copy / "shard-00000.tar", 512 + 20)  # in the header of the first image
    dataset = open_dataset(copy, verify=False)
    with pytest.raises(ValueError, match=r"shard-00000\.tar: image 0 \(from 'digits/00000'\): cannot be decoded"):
        dataset.decode(0)


def test_a_shard_that_shrinks_later(copy: Path) -> None:
    dataset = open_dataset(copy)
    os.truncate(copy / "shard-00000.tar", 600)
    with pytest.raises(ValueError, match=r"shard-00000\.tar: image 0 .* ends within the image"):
        dataset.read(0)


def test_numbers_of_images_must_agree(copy: Path) -> None:
    text = (copy / "dataset.json").read_text()
    for wrong in (1796, 1798):
        (copy / "dataset.json").write_text(text.replace("1797", str(wrong)))
        with pytest.raises(ValueError, match=f"manifest says.*{wrong}"):
            open_dataset(copy)


def test_numpy_indices(packed: Path) -> None:
    dataset = open_dataset(packed)
    index: Any = np.int64(3)
    assert dataset.read(index) == dataset.read(3)


def test_an_image_that_the_disk_does_not_give_is_named(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    dataset = open_dataset(packed)
    dataset.read(0)
    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(
        ValueError, match=r"shard-00000\.tar: image 3 \(from .*\): cannot be read \(Input/output error\)"
    ):
        dataset.read(3)
