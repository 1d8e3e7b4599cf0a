"""The file for FFCV: FFCV itself reads back every image, and a file that it would misread is refused by name."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tcc_fast.datasets import Dataset, beton, convert, open_dataset
from tcc_fast.datasets.beton import _place, beton_bytes, check_beton
from tcc_fast.datasets.ffcv_import import import_ffcv

Content = Callable[[Path], dict[str, bytes]]
NAME = "images.beton"
KEPT: list[Any] = []
"""What FFCV has compiled. It changes types that numba shares, so that numba fails when it is to forget such a function;
pytest would count that against whichever test is running then."""


@pytest.fixture(name="ffcv", scope="module")
def _ffcv() -> Iterator[Any]:
    try:
        package = import_ffcv()
    except ValueError as error:
        pytest.skip(str(error))
    threads = torch.get_num_threads()
    compiler = package.pipeline.Compiler
    real = compiler.compile

    def compile_and_keep(code: Any, signature: Any = None) -> Any:
        KEPT.append(real(code, signature))
        return KEPT[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "compile", compile_and_keep)
        yield package
    torch.set_num_threads(threads)  # a Loader sets it


@pytest.fixture(scope="module")
def packed(ffcv: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert("digits", tmp_path_factory.mktemp("packed") / "digits", formats="tar,beton", progress=False).path


@pytest.fixture
def copy(packed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(packed, tmp_path / "copy"))


def read_bytes(ffcv: Any, path: Path) -> list[bytes]:
    """What FFCV's own reader and memory manager find for every image, in index order."""
    reader = ffcv.reader.Reader(str(path))
    manager = ffcv.memory_managers.OSCacheManager(reader)
    read = manager.compile_reader()
    with manager.schedule_epoch([]) as context:
        return [read(pointer, context.state).tobytes() for pointer in reader.metadata["f0"]["data_ptr"]]


def load(ffcv: Any, path: Path, **options: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """All images of a uniform set as FFCV's Loader decodes them, (N, H, W, 3)."""
    loader = ffcv.Loader(
        str(path), 300, num_workers=1, order=ffcv.loader.OrderOption.SEQUENTIAL, drop_last=False, **options
    )
    # The batches are views into memory that FFCV uses again.
    return np.concatenate([batch.numpy().copy() for (batch,) in loader])


def turbo(ffcv: Any, dataset: Dataset, index: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """An image's own JPEG as FFCV's libjpeg-turbo decodes it, (H, W, 3)."""
    data = np.frombuffer(dataset.read(index), dtype=np.uint8)
    height, width = (int(side) for side in dataset.sizes()[index])
    pixels = np.zeros((height, width, 3), np.uint8)
    assert ffcv.libffcv.imdecode(data, pixels, height, width, height, width, 0, 0, 1, 1, False, False) == 0
    return pixels


@pytest.mark.parametrize("os_cache", [True, False])
def test_pngs_are_raw_and_come_back_bit_by_bit(ffcv: Any, packed: Path, os_cache: bool) -> None:
    dataset = open_dataset(packed)
    wanted = np.stack([dataset.decode(index) for index in range(len(dataset))])
    assert (load(ffcv, packed / NAME, os_cache=os_cache) == wanted).all()


def test_jpegs_keep_their_bytes(ffcv: Any, tmp_path: Path, encode: Any, photo: Any) -> None:
    (tmp_path / "src").mkdir()
    for index, (mode, options) in enumerate(
        [("RGB", {}), ("L", {}), ("RGB", {"progressive": True}), ("RGB", {"subsampling": 0}), ("RGB", {"quality": 30})]
    ):
        data = encode(photo(45, 33, seed=index).convert(mode), "JPEG", **options)
        (tmp_path / "src" / f"{index}.jpg").write_bytes(data)
    dataset = open_dataset(
        convert("folder", tmp_path / "out", tmp_path / "src", workers=1, formats=("tar", "beton")).path
    )
    path = dataset.path / NAME
    assert read_bytes(ffcv, path) == [dataset.read(index) for index in range(5)]
    found = load(ffcv, path)
    for index in range(5):
        assert (found[index] == turbo(ffcv, dataset, index)).all()
        # Pillow's libjpeg may round otherwise in the last step.
        assert np.abs(found[index].astype(int) - dataset.decode(index)).max() <= 4


def test_images_of_both_kinds_and_many_sizes(ffcv: Any, tmp_path: Path, photos: Path) -> None:
    dataset = open_dataset(convert("folder", tmp_path / "out", photos, workers=1, formats="tar,beton").path)
    is_png = dataset.is_png()
    assert 0 < is_png.sum() < len(dataset) == 20
    wanted = [dataset.decode(i).tobytes() if png else dataset.read(i) for i, png in enumerate(is_png)]
    assert read_bytes(ffcv, dataset.path / NAME) == wanted
    reader = ffcv.reader.Reader(str(dataset.path / NAME))
    rows = reader.metadata["f0"]
    assert np.stack([rows["height"], rows["width"]], axis=1).tolist() == dataset.sizes().tolist()
    modes = ffcv.fields.rgb_image.IMAGE_MODES
    assert rows["mode"].tolist() == [modes["raw"] if png else modes["jpg"] for png in is_png]
    assert reader.field_names == ["image"]  # and no label
    assert reader.alloc_table["sample_id"].tolist() == list(range(20))
    assert reader.alloc_table["size"].tolist() == [len(data) for data in wanted]


def test_constants_are_those_of_ffcv(ffcv: Any) -> None:
    assert beton.PAGE_BYTES >= ffcv.writer.MIN_PAGE_SIZE
    assert beton.MAX_PAGE_BYTES < ffcv.writer.MAX_PAGE_SIZE
    assert ffcv.types.TYPE_ID_HANDLER[beton._IMAGE_TYPE] is ffcv.fields.RGBImageField


@pytest.mark.parametrize(
    ("sizes", "pointers", "end"),
    [
        ([3, 3, 2, 1], [16, 19, 22, 24], 32),  # a page filled to the last byte
        ([3, 6, 2], [16, 24, 30], 32),  # one that would span two pages
        ([8, 8], [16, 24], 32),
        ([1], [16], 24),
    ],
)
def test_no_image_spans_two_pages(sizes: list[int], pointers: list[int], end: int) -> None:
    found = _place(sizes, start=9, page=8)
    assert (found[0].tolist(), found[1]) == (pointers, end)


def test_several_pages_and_an_image_larger_than_one(ffcv: Any, tmp_path: Path, encode: Any, photo: Any) -> None:
    (tmp_path / "src").mkdir()
    for index, size in enumerate([(900, 900), (2000, 1500), (1000, 1000), (1700, 1600), (2000, 1500), (30, 20)]):
        (tmp_path / "src" / f"{index}.png").write_bytes(encode(photo(*size, seed=index), "PNG"))
    out = convert("folder", tmp_path / "out", tmp_path / "src", workers=1, short_side=0, formats="tar,beton").path
    dataset, reader = open_dataset(out), ffcv.reader.Reader(str(out / NAME))
    assert reader.page_size == 16 << 20  # 2000 x 1500 pixels have 9 MB
    pages = (reader.alloc_table["ptr"] // reader.page_size).tolist()
    assert pages == [1, 1, 1, 2, 3, 3]
    assert read_bytes(ffcv, out / NAME) == [dataset.decode(index).tobytes() for index in range(6)]
    content, inside = (out / NAME).read_bytes(), np.zeros((out / NAME).stat().st_size, np.bool_)
    inside[: ffcv.types.HeaderType.itemsize + reader.field_descriptors.nbytes + reader.metadata.nbytes] = True
    for row in reader.alloc_table:
        inside[row["ptr"] : row["ptr"] + row["size"]] = True
    inside[-reader.alloc_table.nbytes :] = True
    assert not np.frombuffer(content, np.uint8)[~inside].any()  # the rest is zeros


def test_same_bytes_for_any_number_of_workers(ffcv: Any, tmp_path: Path, photos: Path, content: Content) -> None:
    one = convert("folder", tmp_path / "one", photos, workers=1, short_side=48, formats="tar,beton")
    two = convert("folder", tmp_path / "two", photos, workers=2, short_side=48, formats="beton")  # tar comes anyway
    plain = convert("folder", tmp_path / "plain", photos, workers=1, short_side=48)
    assert content(one.path) == content(two.path)
    without = {name: data for name, data in content(one.path).items() if name not in (NAME, "dataset.json")}
    assert without == {name: data for name, data in content(plain.path).items() if name != "dataset.json"}
    assert (one.manifest.beton, plain.manifest.beton) == (NAME, None)
    assert ", beton 16.8 MB" in one.summary()
    assert "beton" not in plain.summary()


# Refusals.


@pytest.mark.parametrize(
    ("extension", "width", "height", "encoded_bytes", "message"),
    [
        ("png", 65_536, 1, 100, "sides are at most 65535.*--short-side"),
        ("jpg", 1, 65_536, 100, "sides are at most 65535.*--short-side"),
        ("png", 30_000, 30_000, 100, "takes 2700000000 bytes.*pages are at most 1073741824.*--short-side"),
    ],
)
def test_images_that_do_not_fit(extension: str, width: int, height: int, encoded_bytes: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        beton_bytes(extension, width, height, encoded_bytes)


def test_largest_images() -> None:
    assert beton_bytes("png", 65_535, 2, 100) == 65_535 * 6
    assert beton_bytes("jpg", 65_535, 65_535, 1 << 30) == 1 << 30


def test_an_image_that_does_not_fit_stops_the_conversion(ffcv: Any, tmp_path: Path, encode: Any) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "long.png").write_bytes(encode(Image.new("L", (65_536, 1)), "PNG"))
    with pytest.raises(ValueError, match=r"long\.png: an image of 65536 x 1 pixels does not fit"):
        convert("folder", tmp_path / "out", tmp_path / "src", workers=1, short_side=0, formats="tar,beton")
    assert [path.name for path in tmp_path.iterdir()] == ["src"]
    convert("folder", tmp_path / "out", tmp_path / "src", workers=1, short_side=0)


def test_without_ffcv_nothing_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ffcv", None)
    with pytest.raises(ValueError, match=r"libturbojpeg0-dev, libopencv-dev.*pip install ffcv"):
        convert("digits", tmp_path / "out", formats="tar,beton")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match=r"pip install ffcv"):
        check_beton(tmp_path / NAME, 3)
    convert("digits", tmp_path / "out")


def test_importing_ffcv_keeps_the_number_of_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ffcv.py").write_text(f"import torch\ntorch.set_num_threads({torch.get_num_threads() + 1})\n")
    monkeypatch.setitem(sys.modules, "ffcv", None)  # so that what is there now comes back
    del sys.modules["ffcv"]
    monkeypatch.syspath_prepend(tmp_path)
    before = torch.get_num_threads()
    assert import_ffcv().__file__ == str(tmp_path / "ffcv.py")
    assert torch.get_num_threads() == before


def test_a_whole_file_passes(packed: Path) -> None:
    check_beton(packed / NAME, 1797)


def change(path: Path, at: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(data)


@pytest.mark.parametrize(
    ("at", "data", "message"),
    [
        (0, b"\x01", "is of version 1 of the format, but the installed FFCV reads version 2"),
        (2, b"\x02", "something else than one field of images"),
        (24, b"\x01", "something else than one field of images"),
        (25, b"label", "something else than one field of images"),
        (8, b"\x06\x07", r"holds 1798 images, but the data set has 1797"),
        (16, b"\x01", r"is truncated \(\d+ bytes instead of \d+\)"),
    ],
)
def test_headers_that_ffcv_would_misread(copy: Path, at: int, data: bytes, message: str) -> None:
    change(copy / NAME, at, data)
    with pytest.raises(ValueError, match=rf"images\.beton: .*{message}.*--overwrite --formats tar,beton"):
        check_beton(copy / NAME, 1797)


def test_files_of_another_length(copy: Path) -> None:
    path = copy / NAME
    whole = path.read_bytes()
    for length in (len(whole) - 1, 1000, 0):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"images\.beton: is truncated .*convert the data set again"):
            check_beton(path, 1797)
        with pytest.raises(ValueError, match=r"images\.beton: is truncated"):
            open_dataset(copy)
    path.write_bytes(whole + b"x")
    with pytest.raises(ValueError, match=r"images\.beton: is too long"):
        check_beton(path, 1797)
    path.unlink()
    with pytest.raises(ValueError, match=r"images\.beton: is missing.*--overwrite --formats tar,beton"):
        check_beton(path, 1797)
    with pytest.raises(ValueError, match=r"images\.beton: is missing"):
        open_dataset(copy)
    path.mkdir()
    with pytest.raises(ValueError, match=r"images\.beton: cannot be read"):
        check_beton(path, 1797)


def test_another_set_is_refused(packed: Path) -> None:
    with pytest.raises(ValueError, match=r"holds 1797 images, but the data set has 5000, so it belongs to another"):
        check_beton(packed / NAME, 5000)


def test_a_changed_byte_is_found_at_opening(copy: Path) -> None:
    change(copy / NAME, (8 << 20) + 100, b"\xff")
    with pytest.raises(ValueError, match=r"images\.beton: content has changed"):
        open_dataset(copy)
