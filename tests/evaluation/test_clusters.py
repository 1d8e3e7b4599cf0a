"""Tables, sheets and features of clusters, against what an evaluation of the same checkpoint says."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from tcc_fast.cli import app
from tcc_fast.config import load_config
from tcc_fast.datasets import Dataset, convert, open_dataset
from tcc_fast.datasets.escape import unescape_name
from tcc_fast.evaluation.clusters import GAP, THUMBNAIL, contact_sheet, write_clusters
from tcc_fast.evaluation.evaluate import evaluate
from tcc_fast.evaluation.sort import link_by_cluster
from tcc_fast.train import train
from tests.conftest import TINY
from tests.method.test_step import fresh_accelerate


@pytest.fixture(scope="module")
def run(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(load_config("digits", [*TINY, "train.epochs=1", "start.method=none"]), digits, folder)
    return folder


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_table_has_every_image_in_the_cluster_that_an_evaluation_counts(
    run: Path, digits: Path, tmp_path: Path
) -> None:
    sizes = write_clusters(run, tmp_path / "clusters.csv", features=tmp_path / "features.safetensors")
    rows = rows_of(tmp_path / "clusters.csv")
    assert [int(row["index"]) for row in rows] == list(range(1797))
    assert [row["source"] for row in rows] == open_dataset(digits).sources()
    clusters = np.array([int(row["cluster"]) for row in rows])
    assert sizes == np.bincount(clusters, minlength=10).tolist() == evaluate(run, baselines=()).cluster_sizes
    tensors = load_file(tmp_path / "features.safetensors")
    assert tensors["features"].shape == (1797, 16)
    assert tensors["assignment"].argmax(dim=1).tolist() == clusters.tolist()
    confidence = torch.tensor([float(row["confidence"]) for row in rows])
    torch.testing.assert_close(confidence, tensors["assignment"].max(dim=1).values, rtol=1e-5, atol=0)


def test_images_whose_files_are_gone_get_no_link(run: Path, tmp_path: Path) -> None:
    raw = photographs(tmp_path / "raw")
    convert("folder", tmp_path / "set", raw, short_side=0, progress=False)
    (raw / "a" / "two.png").unlink()
    command = ["assign", "--ckpt", str(run), "--data", str(tmp_path / "set"), "--out", str(tmp_path / "new.csv")]
    with pytest.warns(RuntimeWarning, match=r"1 of 8 files are gone .*a/two\.png: there is no link to them"):
        CliRunner().invoke(
            app, [*command, "--sort", str(tmp_path / "sorted"), "--src", str(raw)], catch_exceptions=False
        )
    links = [file for _, _, files in os.walk(tmp_path / "sorted") for file in files]
    assert len(links) == 7
    assert "two.png" not in links
    assert len(rows_of(tmp_path / "new.csv")) == 8


def thumbnail(sheet: Image.Image, place: int) -> np.ndarray:
    step = THUMBNAIL + GAP
    left, top = GAP + place % 10 * step, GAP + place // 10 * step
    return np.asarray(sheet.crop((left, top, left + THUMBNAIL, top + THUMBNAIL)))


def as_thumbnail(dataset: Dataset, index: int) -> np.ndarray:
    image = Image.fromarray(dataset.decode(index))
    return np.asarray(image.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BICUBIC))


def test_every_cluster_with_images_has_a_sheet_from_its_surest_to_its_most_doubtful(
    digits: Path, tmp_path: Path
) -> None:
    settings = [*TINY, "train.epochs=1", "start.method=none", "model.num_clusters=12"]
    train(load_config("digits", settings), digits, tmp_path / "run")
    sheets = tmp_path / "sheets"
    sheets.mkdir()
    (sheets / "cluster-77.png").touch()  # of an earlier model
    (sheets / "mine.png").touch()
    features = tmp_path / "features.safetensors"
    sizes = write_clusters(tmp_path / "run", tmp_path / "clusters.csv", sheets=sheets, features=features)
    expected = [f"cluster-{k:02}.png" for k, size in enumerate(sizes) if size]
    assert sorted(path.name for path in sheets.iterdir()) == [*expected, "mine.png"]
    k = int(np.argmax(sizes))
    confidence, cluster = load_file(features)["assignment"].max(dim=1)
    members = (cluster == k).nonzero().flatten()
    dataset, sheet = open_dataset(digits), Image.open(sheets / f"cluster-{k:02}.png")
    for place, picked in ((0, confidence[members].argmax()), (99, confidence[members].argmin())):
        assert np.array_equal(thumbnail(sheet, place), as_thumbnail(dataset, int(members[picked])))


def test_a_sheet_spreads_over_all_images_and_is_no_larger_than_they_need(digits: Path) -> None:
    dataset = open_dataset(digits)
    step = THUMBNAIL + GAP
    sheet = contact_sheet(dataset, list(range(1000)))
    assert sheet.size == (10 * step + GAP, 10 * step + GAP)
    for place, index in ((0, 0), (50, 504), (99, 999)):
        assert np.array_equal(thumbnail(sheet, place), as_thumbnail(dataset, index))
    assert contact_sheet(dataset, list(range(11))).size == (10 * step + GAP, 2 * step + GAP)
    assert contact_sheet(dataset, [7]).size == (10 * step + GAP, step + GAP)


def test_an_image_that_cannot_be_decoded_is_in_no_cluster(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = Dataset.decode

    def damaged(self: Dataset, index: int) -> np.ndarray:
        if index == 5:
            raise ValueError("image 5 cannot be decoded")
        return decode(self, index)

    monkeypatch.setattr(Dataset, "decode", damaged)
    with pytest.warns(RuntimeWarning, match="image 5 cannot be decoded"):
        sizes = write_clusters(run, tmp_path / "clusters.csv", sheets=tmp_path / "sheets")
    rows = rows_of(tmp_path / "clusters.csv")
    assert (rows[5]["cluster"], rows[5]["confidence"]) == ("", "")
    assert sum(row["cluster"] == "" for row in rows) == 1
    assert sum(sizes) == 1796


def test_a_split_that_begins_later_names_its_own_images(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for split in ("a", "b"):
        (tmp_path / "images" / split).mkdir()
        for shade in range(8):
            image = Image.new("RGB", (16, 16), (shade * 30, 0, 200 if split == "a" else 0))
            image.save(tmp_path / "images" / split / f"{shade}.png")
    convert("folder", tmp_path / "set", tmp_path / "images", progress=False)
    manifest = json.loads((tmp_path / "set" / "dataset.json").read_text())
    manifest["splits"]["second"] = [8, 16]
    (tmp_path / "set" / "dataset.json").write_text(json.dumps(manifest))
    settings = [*TINY, "train.batch_size=8", "start.method=none", "train.epochs=1"]
    train(load_config("folder", settings), tmp_path / "set", tmp_path / "run")
    sheets = tmp_path / "sheets"
    sizes = write_clusters(tmp_path / "run", tmp_path / "clusters.csv", split="second", sheets=sheets)
    rows = rows_of(tmp_path / "clusters.csv")
    assert [row["source"] for row in rows] == [f"b/{shade}.png" for shade in range(8)]
    assert sum(sizes) == 8
    assert all(np.asarray(Image.open(sheet))[GAP, GAP, 2] == 0 for sheet in sheets.iterdir())  # those of a are blue


def test_images_that_were_not_trained_on_are_assigned_by_their_own_names(run: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    for shade in range(6):
        Image.new("RGB", (30, 20), (shade * 40,) * 3).save(tmp_path / "new" / f"größe {shade}.png")
    convert("folder", tmp_path / "set", tmp_path / "new", progress=False)
    command = ["assign", "--ckpt", str(run), "--data", str(tmp_path / "set"), "--out", str(tmp_path / "new.csv")]
    printed = CliRunner().invoke(app, command, catch_exceptions=False).output
    assert "6 images in" in printed
    assert [row["source"] for row in rows_of(tmp_path / "new.csv")] == [f"größe {shade}.png" for shade in range(6)]


def photographs(folder: Path) -> Path:
    """Eight images in two folders, one with a name that is no text."""
    names = ["a/one.png", "a/two.png", "b/one.png", "b/with, comma.png", "größe.png", "back\\slash.png", "x.png"]
    for shade, name in enumerate([*map(os.fsencode, names), b"latin\xe9.png"]):
        file = os.path.join(os.fsencode(folder), name)
        os.makedirs(os.path.dirname(file), exist_ok=True)
        with open(file, "wb") as stream:
            Image.new("RGB", (30, 20), (shade * 30,) * 3).save(stream, "PNG")
    return folder


@pytest.mark.parametrize("formats", ["tar", "files"])
def test_sorted_folders_link_every_image_of_a_cluster(run: Path, tmp_path: Path, formats: str) -> None:
    raw = photographs(tmp_path / "raw")
    convert("folder", tmp_path / "set", raw, formats=formats, short_side=0, progress=False)
    command = ["assign", "--ckpt", str(run), "--data", str(tmp_path / "set"), "--out", str(tmp_path / "new.csv")]
    known = [] if formats == "files" else ["--src", str(raw)]
    CliRunner().invoke(app, [*command, "--sort", str(tmp_path / "sorted"), *known], catch_exceptions=False)
    rows = rows_of(tmp_path / "new.csv")
    assert len(rows) == 8
    wanted = set()
    for row in rows:
        file = os.path.join(os.fsencode(raw), os.fsencode(unescape_name(row["source"])))
        wanted.add((os.fsencode(f"cluster-{row['cluster']}"), file))
    there = os.fsencode(tmp_path / "sorted")
    found = [
        (k, os.path.join(there, k, name)) for k in os.listdir(there) for name in os.listdir(os.path.join(there, k))
    ]
    assert {(k, os.readlink(link)) for k, link in found} == wanted
    links = [file for _, _, files in os.walk(tmp_path / "sorted") for file in files]
    assert len(links) == 8
    for inside in (raw / "sorted", raw / "a" / "sorted"):  # where convert would find the images again
        with pytest.raises(ValueError, match="it would lie among the images; name a folder outside"):
            CliRunner().invoke(app, [*command, "--sort", str(inside), *known], catch_exceptions=False)
    with pytest.raises(ValueError, match=r"sorted: it is there and not an empty folder"):
        CliRunner().invoke(app, [*command, "--sort", str(tmp_path / "sorted"), *known], catch_exceptions=False)
    assert len([file for _, _, files in os.walk(tmp_path / "sorted") for file in files]) == 8


def test_files_of_one_name_lie_beside_each_other_the_surest_by_its_own(tmp_path: Path) -> None:
    files = [b"/x/a/IMG.jpg", b"/x/b/IMG.jpg", b"/x/b/IMG (2).jpg", b"/x/c/IMG.jpg", None, b"/x/d/IMG.jpg", b"/x/bad"]
    link_by_cluster(tmp_path, zip(files, [0, 0, 0, 0, 0, 11, -1], strict=True), 12)
    assert sorted(os.listdir(tmp_path)) == ["cluster-00", "cluster-11"]
    links = {name: os.readlink(tmp_path / "cluster-00" / name) for name in os.listdir(tmp_path / "cluster-00")}
    assert links == {
        "IMG.jpg": "/x/a/IMG.jpg",
        "IMG (2).jpg": "/x/b/IMG.jpg",
        "IMG (2) (2).jpg": "/x/b/IMG (2).jpg",
        "IMG (3).jpg": "/x/c/IMG.jpg",
    }


@pytest.mark.parametrize("name", ["x" * 251 + ".png", "x." + "y" * 253], ids=["name", "extension"])
def test_a_link_with_a_number_is_no_longer_than_a_name_may_be(name: str, tmp_path: Path) -> None:
    files = [os.fsencode(f"/{folder}/{name}") for folder in "abc"]
    link_by_cluster(tmp_path, [(file, 0) for file in files], 2)
    links = os.listdir(tmp_path / "cluster-0")
    assert {os.fsencode(os.readlink(tmp_path / "cluster-0" / link)) for link in links} == set(files)


def test_the_table_can_be_printed(run: Path, tmp_path: Path) -> None:
    written = tmp_path / "a.csv"
    command = ["assign", "--ckpt", str(run), "--out"]
    CliRunner().invoke(app, [*command, str(written)], catch_exceptions=False)
    printed = CliRunner().invoke(app, [*command, "-"], catch_exceptions=False)
    assert printed.stdout == written.read_text()
    assert "1,797 images in" in printed.stderr


def test_pictures_are_not_written_over_nor_joined_by_sheets(run: Path, digits: Path, tmp_path: Path) -> None:
    picture = tmp_path / "mine.png"
    Image.new("L", (3, 3)).save(picture)
    before, data = picture.read_bytes(), digits
    command = ["assign", "--ckpt", str(run), "--out"]
    with pytest.raises(ValueError, match=r"mine\.png: is a picture, and would be written over"):
        CliRunner().invoke(app, [*command, str(picture)], catch_exceptions=False)
    with pytest.raises(ValueError, match=r"holds other pictures \('mine\.png'\)"):
        CliRunner().invoke(app, [*command, str(tmp_path / "a.csv"), "--sheets", str(tmp_path)], catch_exceptions=False)
    with pytest.raises(ValueError, match=r"--out .*: holds other pictures"):
        CliRunner().invoke(
            app, ["train", "--config", "digits", "--data", str(data), "--out", str(tmp_path)], catch_exceptions=False
        )
    assert picture.read_bytes() == before


def test_a_data_set_that_has_become_another_is_spoken_of(tmp_path: Path) -> None:
    data = tmp_path / "set"
    convert("folder", data, photographs(tmp_path / "raw"), progress=False)
    small = ["model.num_clusters=2", "train.batch_size=4", "queue.instance_length=4"]
    with fresh_accelerate():
        train(
            load_config("digits", [*TINY, "start.method=none", *small]),
            data,
            tmp_path / "run",
            say=lambda sentence: None,
        )
    (tmp_path / "raw" / "one more.png").write_bytes(next((tmp_path / "raw").rglob("*.png")).read_bytes())
    convert("folder", data, tmp_path / "raw", overwrite=True, progress=False)
    with pytest.warns(
        RuntimeWarning, match="no longer the data set that the run was trained on: .*have changed .8 then, 9 now"
    ):
        write_clusters(tmp_path / "run", tmp_path / "a.csv")
    write_clusters(tmp_path / "run", tmp_path / "b.csv", data)  # asked for


def test_what_cannot_be_sorted_is_said_before_the_work(run: Path, tmp_path: Path) -> None:
    command = ["assign", "--ckpt", str(run), "--out", str(tmp_path / "a.csv"), "--sort", str(tmp_path / "sorted")]
    with pytest.raises(ValueError, match="is for images that were converted from a folder, and digits was not"):
        CliRunner().invoke(app, command, catch_exceptions=False)
    convert("folder", tmp_path / "set", photographs(tmp_path / "raw"), progress=False)
    command[3:3] = ["--data", str(tmp_path / "set")]
    with pytest.raises(ValueError, match="say where they are with --src FOLDER"):
        CliRunner().invoke(app, command, catch_exceptions=False)
    with pytest.raises(ValueError, match=r"is not there: --src must be the folder that was converted"):
        CliRunner().invoke(app, [*command, "--src", str(tmp_path)], catch_exceptions=False)
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        inside = [*command[:-1], str(tmp_path / "file" / "sorted"), "--src", str(tmp_path / "raw")]
        CliRunner().invoke(app, inside, catch_exceptions=False)
    with pytest.raises(ValueError, match="two of --out, --features, --sheets, --sort are the same"):
        CliRunner().invoke(app, [*command[:-1], str(tmp_path / "a.csv")], catch_exceptions=False)
    with pytest.raises(ValueError, match="--src is for --sort"):
        CliRunner().invoke(app, [*command[:-2], "--src", str(tmp_path)], catch_exceptions=False)
    with pytest.raises(ValueError, match=r"must end in \.safetensors"):
        CliRunner().invoke(app, [*command[:-2], "--features", "f.npy"], catch_exceptions=False)
    assert not (tmp_path / "a.csv").exists()


def test_where_nothing_can_be_written_is_said_before_the_work(run: Path, tmp_path: Path) -> None:
    command = ["assign", "--ckpt", str(run), "--out", str(tmp_path / "none" / "clusters.csv")]
    with pytest.raises(ValueError, match="does not exist; make it first"):
        CliRunner().invoke(app, command, catch_exceptions=False)
    with pytest.raises(ValueError, match="is a folder; name a file to write"):
        CliRunner().invoke(app, [*command[:-1], str(tmp_path)], catch_exceptions=False)


def test_images_of_the_users_own_stay_beside_the_sheets(run: Path, tmp_path: Path) -> None:
    sheets = tmp_path / "sheets"
    sheets.mkdir()
    for name in ("cluster-mine.png", "cluster-99.png"):
        (sheets / name).touch()
    command = ["assign", "--ckpt", str(run), "--out", str(tmp_path / "a.csv"), "--sheets", str(sheets)]
    CliRunner().invoke(app, command, catch_exceptions=False)
    assert (sheets / "cluster-mine.png").exists()
    assert not (sheets / "cluster-99.png").exists()  # of a run with more clusters
    assert b"\r" not in (tmp_path / "a.csv").read_bytes()
    with pytest.raises(ValueError, match="are the same: give each a name of its own"):
        CliRunner().invoke(app, [*command, "--features", str(tmp_path / "a.csv")], catch_exceptions=False)
