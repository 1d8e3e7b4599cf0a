"""What is found in a folder, in which order, with which classes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tcc_fast.datasets import convert, open_dataset
from tcc_fast.datasets.escape import unescape_name
from tcc_fast.datasets.folder import FolderReader, open_reader
from tcc_fast.datasets.reader import Checks, LabelMode, Rejected


@pytest.fixture
def png(encode: Any, photo: Any) -> bytes:
    data: bytes = encode(photo(6, 5), "PNG")
    return data


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def found(reader: FolderReader) -> dict[str, str]:
    """source -> "" or the reason of rejection, in order."""
    return {item.source: str(item.payload) if isinstance(item.payload, Rejected) else "" for item in reader}


def test_order_is_by_path_whatever_the_order_of_creation(tmp_path: Path, png: bytes) -> None:
    names = ["b/2.png", "b/10.png", "a/z/1.png", "a/b.png", "c.png", "B/1.png", "b.png", "ä.png"]
    for name in names:
        put(tmp_path / name, png)
    order = list(found(open_reader(tmp_path, "none", Checks())))
    assert order == ["B/1.png", "a/b.png", "a/z/1.png", "b/10.png", "b/2.png", "b.png", "c.png", "ä.png"]
    assert open_reader(tmp_path, "none", Checks()).total() == len(names)


def test_classes_from_sub_folders(tmp_path: Path, png: bytes) -> None:
    for name in ("dog/1.png", "dog/x/y/2.png", "cat/3.png", "Zebra/4.png"):
        put(tmp_path / name, png)
    put(tmp_path / "readme.txt", b"no image")
    put(tmp_path / "documents/readme.txt", b"no image")
    (tmp_path / "empty").mkdir()
    reader = open_reader(tmp_path, "auto", Checks())
    assert reader.class_names == ("Zebra", "cat", "dog")
    labels = {item.source: item.label for item in reader if item.label is not None}
    assert labels == {"Zebra/4.png": 0, "cat/3.png": 1, "dog/1.png": 2, "dog/x/y/2.png": 2}
    assert found(reader)["documents/readme.txt"] == "not an image"
    assert "3 classes" in reader.notes[0]


@pytest.mark.parametrize(
    ("names", "labels", "classes", "note"),
    [
        (["a/1", "b/2"], "auto", ("a", "b"), "2 classes"),
        (["a/1", "b/2"], "folders", ("a", "b"), "2 classes"),
        (["a/1", "b/2"], "none", None, "as asked"),
        (["a/1", "b/2", "3"], "auto", None, "'3' lies in no sub-folder"),
        (
            ["train/cat/1", "val/cat/2", "3"],
            "auto",
            None,
            "none, since '3' lies in no sub-folder: if train, val are",
        ),
        (["a/1", "a/b/2"], "auto", None, "only 'a' holds images (if there are classes in it: --src "),
        (["a/1", "a/b/2"], "folders", ("a",), "1 classes"),
        (["1"], "auto", None, "'1' lies in no sub-folder"),
    ],
)
def test_label_modes(
    tmp_path: Path,
    png: bytes,
    names: list[str],
    labels: LabelMode,
    classes: tuple[str, ...] | None,
    note: str,
) -> None:
    for name in names:
        put(tmp_path / name, png)
    reader = open_reader(tmp_path, labels, Checks())
    assert reader.class_names == classes
    assert note in reader.notes[0]


def test_loose_image_contradicts_labels_from_folders(tmp_path: Path, png: bytes) -> None:
    put(tmp_path / "a/1", png)
    put(tmp_path / "loose", png)
    with pytest.raises(ValueError, match=r"'loose' lies directly in .*; move it"):
        open_reader(tmp_path, "folders", Checks())


def test_hidden_entries_are_skipped_and_counted(tmp_path: Path, png: bytes) -> None:
    for name in ("a.png", ".b.png", ".git/c.png", "__MACOSX/d.png", "x/Thumbs.db", "x/.DS_Store", "x/e.png"):
        put(tmp_path / name, png)
    reader = open_reader(tmp_path, "auto", Checks())
    for _ in range(2):  # counts do not add up over iterations
        assert list(found(reader)) == ["a.png", "x/e.png"]
        assert reader.skipped == {"hidden": 5}


def test_a_hidden_source_is_read(tmp_path: Path, png: bytes) -> None:
    put(tmp_path / ".cache/a.png", png)
    assert list(found(open_reader(tmp_path / ".cache", "auto", Checks()))) == ["a.png"]


def test_loops_and_links(tmp_path: Path, png: bytes) -> None:
    root = tmp_path / "root"
    put(root / "a/1.png", png)
    put(tmp_path / "outside/2.png", png)
    put(root / ".store/3.png", png)
    (root / "a/up").symlink_to("..")
    (root / "a/self").symlink_to(".")
    (root / "a/parent").symlink_to(tmp_path)
    (root / "also_a").symlink_to("a")
    (root / "out1").symlink_to(tmp_path / "outside")
    (root / "out2").symlink_to(tmp_path / "outside")
    (root / "visible").symlink_to(".store")
    (root / "one.png").symlink_to("a/1.png")
    (root / "broken").symlink_to("nowhere")
    (root / "ring").symlink_to("ring")
    reader = open_reader(root, "none", Checks())
    outcome = found(reader)
    # "a/parent" leads out and back: what lies outside is found once, the source itself is not entered again.
    assert outcome == {
        "a/1.png": "",
        "a/parent/outside/2.png": "",
        "broken": "broken link",
        "one.png": "",
        "ring": "broken link",
        "visible/3.png": "",
    }
    assert reader.skipped["folder reached twice"] == 3  # root through a/parent, out1, out2
    assert reader.skipped["link to a folder of the source"] == 3  # a/up, a/self, also_a


def test_pipes_are_not_opened(tmp_path: Path, png: bytes) -> None:
    put(tmp_path / "a.png", png)
    os.mkfifo(tmp_path / "pipe")
    assert found(open_reader(tmp_path, "auto", Checks())) == {"a.png": "", "pipe": "not a regular file"}


def test_no_permission(tmp_path: Path, png: bytes) -> None:
    src = tmp_path / "src"
    for name in ("a.png", "locked.png", "folder/b.png"):
        put(src / name, png)
    (src / "locked.png").chmod(0)
    if os.access(src / "locked.png", os.R_OK):
        pytest.skip("this user (root?) reads every file")
    (src / "folder").chmod(0)
    try:
        report = convert("folder", tmp_path / "out", src, max_rejected=0.9, workers=1)
    finally:
        (src / "folder").chmod(0o700)
    assert report.rejected == {"unreadable": 1, "unreadable folder": 1}


def test_unreadable_folder(tmp_path: Path, png: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    # Simulated, since tests may run as root, who reads everything.
    put(tmp_path / "a.png", png)
    put(tmp_path / "locked/b.png", png)
    real = os.listdir

    def listdir(path: bytes) -> list[bytes]:
        if path.endswith(b"locked"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "listdir", listdir)
    assert found(open_reader(tmp_path, "auto", Checks())) == {
        "a.png": "",
        "locked": "unreadable folder (Permission denied)",
    }
    with pytest.raises(ValueError, match=r"locked: cannot be read \(Permission denied\)"):
        open_reader(tmp_path / "locked", "none", Checks())


ODD = [
    "new\nline.png",
    "-rf.png",
    "😀.png",
    " space .png",
    'comma,"quote".png',
    "back\\slash.png",
    "cr\r.png",
]


def test_odd_names_survive(tmp_path: Path, png: bytes) -> None:
    raw = sorted([os.fsencode(name) for name in ODD] + [b"latin-\xe9.png", b"\xff\xfe"])
    (tmp_path / "src").mkdir()
    for name in raw:
        with open(os.path.join(os.fsencode(tmp_path / "src"), name), "wb") as file:
            file.write(png)
    report = convert("folder", tmp_path / "out", tmp_path / "src", workers=2)
    dataset = open_dataset(report.path)
    assert [os.fsencode(unescape_name(name)) for name in dataset.sources()] == raw
    assert len((report.path / "images.csv").read_text("utf-8").splitlines()) == len(raw) + 1


def test_odd_class_names(tmp_path: Path, png: bytes) -> None:
    for name in (b"caf\xe9", "naïve\n".encode()):
        folder = os.path.join(os.fsencode(tmp_path / "src"), name)
        os.makedirs(folder)
        with open(os.path.join(folder, b"1"), "wb") as file:
            file.write(png)
    report = convert("folder", tmp_path / "out", tmp_path / "src", workers=1)
    assert report.manifest.class_names == ("caf\\xe9", "naïve\\u000a")


def test_deep_nesting(tmp_path: Path, png: bytes) -> None:
    put(tmp_path.joinpath(*["d"] * 300, "1.png"), png)
    assert list(found(open_reader(tmp_path, "auto", Checks()))) == ["d/" * 300 + "1.png"]


def test_sources_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--src FOLDER"):
        open_reader(None, "auto", Checks())
    with pytest.raises(ValueError, match="absent: no such folder"):
        open_reader(tmp_path / "absent", "auto", Checks())
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file: is not a folder"):
        open_reader(tmp_path / "file", "auto", Checks())
    (tmp_path / "e/f").mkdir(parents=True)
    (tmp_path / "e/.hidden").touch()
    with pytest.raises(ValueError, match=r"e: no image found.*1 hidden.*JPEG, PNG, WebP, BMP, GIF, TIFF"):
        list(open_reader(tmp_path / "e", "auto", Checks()))


def test_splits_with_class_folders(tmp_path: Path, png: bytes) -> None:
    for name in ("train/dog/1.png", "train/cat/x/2.png", "Test/cat/3.png", "Test/owl/4.png", "notes/a.txt"):
        put(tmp_path / name, png if name.endswith("png") else b"no image")
    reader = open_reader(tmp_path, "auto", Checks())
    assert reader.class_names == ("cat", "dog", "owl")
    items = {item.source: (item.split, item.label) for item in reader}
    assert items == {
        "Test/cat/3.png": ("Test", 0),
        "Test/owl/4.png": ("Test", 2),
        "notes/a.txt": (None, None),
        "train/cat/x/2.png": ("train", 0),
        "train/dog/1.png": ("train", 1),
    }
    assert reader.notes == ("Splits: Test, train. Labels: 3 classes, named by sub-folder: cat, dog, owl.",)
    insisted = open_reader(tmp_path, "folders", Checks())
    assert insisted.class_names == ("Test", "train")
    assert {item.split for item in insisted} == {None}


@pytest.mark.parametrize(
    ("names", "labels", "note"),
    [
        (["train/1", "test/2"], "auto", "'test/2' lies in no sub-folder."),
        (["train/cat/1", "test/cat/2"], "auto", "only 'cat' holds images."),
        (["train/cat/1", "train/dog/1", "test/cat/2"], "none", "none, as asked."),
        (["train/1"], "auto", "'train/1' lies in no sub-folder."),
    ],
)
def test_splits_without_labels(tmp_path: Path, png: bytes, names: list[str], labels: LabelMode, note: str) -> None:
    for name in names:
        put(tmp_path / name, png)
    reader = open_reader(tmp_path, labels, Checks())
    assert reader.class_names is None
    assert reader.notes[0].endswith(note)
    assert [item.split for item in reader] == sorted(name.partition("/")[0] for name in names)


@pytest.mark.parametrize("stray", ["train/0.png", "train/montage.png", "train/zz.png", "test/0.png"])
def test_an_image_beside_class_folders_hides_none_of_them(stray: str, tmp_path: Path, png: bytes) -> None:
    for name in ("train/bird/1.png", "train/cat/1.png", "train/zebra/1.png", "test/yak/1.png", stray):
        put(tmp_path / name, png)
    reader = open_reader(tmp_path, "auto", Checks())
    assert reader.class_names == ("bird", "cat", "yak", "zebra")
    assert {item.source for item in reader if item.label is None} == {stray}
    assert f"such as '{stray}', have none" in reader.notes[0]


@pytest.mark.parametrize("other", ["val", "test"])
def test_a_split_without_classes_beside_one_that_has_them(other: str, tmp_path: Path, png: bytes) -> None:
    """Whether it comes before or after."""
    for name in ("train/cat/1.png", "train/dog/1.png", f"{other}/1.png", f"{other}/2.png"):
        put(tmp_path / "raw" / name, png)
    reader = open_reader(tmp_path / "raw", "auto", Checks())
    (note,) = reader.notes
    assert "Labels: 2 classes, named by sub-folder: cat, dog. Images that lie in no class folder, such as" in note
    assert {item.source: item.label for item in reader if item.split == other} == {
        f"{other}/1.png": None,
        f"{other}/2.png": None,
    }
    report = convert("folder", tmp_path / "set", tmp_path / "raw", progress=False)
    assert "4 images in 2 classes, 2 of them without a label" in report.summary()
    labels = open_dataset(tmp_path / "set").labels()
    assert labels is not None
    assert sorted(labels.tolist()) == [-1, -1, 0, 1]


def test_a_folder_that_cannot_be_read_is_no_small_matter(
    tmp_path: Path, png: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("cat/1.png", "dog/1.png", "cow/1.png"):
        put(tmp_path / "raw" / name, png)
    real = os.listdir

    def listdir(path: Any = ".") -> list[Any]:
        if os.fsencode(path).endswith(b"cow"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "listdir", listdir)
    report = convert("folder", tmp_path / "set", tmp_path / "raw", max_rejected=0.5, progress=False)
    assert report.rejected == {"unreadable folder": 1}
    assert "MISSING: all images of 1 folder that cannot be read (see rejected.csv): make" in report.summary()


def test_a_class_without_a_good_image_is_named(tmp_path: Path, png: bytes) -> None:
    for name in ("cat/1.png", "dog/1.png"):
        put(tmp_path / "raw" / name, png)
    put(tmp_path / "raw/cow/1.png", png[: len(png) // 2])
    report = convert("folder", tmp_path / "set", tmp_path / "raw", max_rejected=0.5, progress=False)
    assert report.empty_classes == ("cow",)
    assert "classes without a single good image: cow; K counts them, too, unless model" in report.summary()
    (tmp_path / "raw/cow/1.png").write_bytes(png)
    report = convert("folder", tmp_path / "all", tmp_path / "raw", progress=False)
    assert report.empty_classes == ()
    assert "good image" not in report.summary()


def test_one_other_folder_and_none_is_a_split(tmp_path: Path, png: bytes) -> None:
    for name in ("train/cat/1.png", "test/cat/1.png", "dog/1.png"):
        put(tmp_path / name, png)
    reader = open_reader(tmp_path, "auto", Checks())
    splits = "Splits: none, since 'dog' stands beside them: if test, train are splits, move it away."
    assert reader.notes == (f"Labels: 3 classes, named by sub-folder: dog, test, train. {splits}",)
    assert {item.split for item in reader} == {None}


def test_a_split_is_trained_on_and_the_other_scored(tmp_path: Path, png: bytes) -> None:
    for split, count in (("train", 3), ("val", 2)):
        for index in range(count):
            for name in ("cat", "dog"):
                put(tmp_path / f"raw/{split}/{name}/{index}.png", png)
    convert("folder", tmp_path / "set", tmp_path / "raw", progress=False)
    dataset = open_dataset(tmp_path / "set")
    assert dataset.manifest.splits == {"train": (0, 6), "val": (6, 10), "all": (0, 10)}
    labels = dataset.labels()
    assert labels is not None
    assert labels.tolist() == [0] * 3 + [1] * 3 + [0, 0, 1, 1]
