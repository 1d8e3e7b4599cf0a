"""Tables, sheets and features of clusters, against what an evaluation of the same checkpoint says."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from tcc_fast.cli import app
from tcc_fast.clusters import GAP, THUMBNAIL, assign, contact_sheet
from tcc_fast.config import load_config
from tcc_fast.datasets import convert, open_dataset
from tcc_fast.evaluate import evaluate
from tcc_fast.train import train
from tests.conftest import TINY


@pytest.fixture(scope="module")
def run(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(load_config("digits", [*TINY, "train.epochs=1"]), digits, folder)
    return folder


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_table_has_every_picture_in_the_cluster_that_an_evaluation_counts(
    run: Path, digits: Path, tmp_path: Path
) -> None:
    sizes = assign(run, tmp_path / "clusters.csv", features=tmp_path / "features.safetensors")
    rows = rows_of(tmp_path / "clusters.csv")
    assert [int(row["index"]) for row in rows] == list(range(1797))
    assert [row["source"] for row in rows] == open_dataset(digits).sources()
    clusters = np.array([int(row["cluster"]) for row in rows])
    assert sizes == np.bincount(clusters, minlength=10).tolist() == evaluate(run, baselines=()).cluster_sizes
    tensors = load_file(tmp_path / "features.safetensors")
    assert tensors["features"].shape == (1797, 16)
    assert tensors["assignment"].argmax(dim=1).tolist() == clusters.tolist()
    confidence = torch.tensor([float(row["confidence"]) for row in rows])
    torch.testing.assert_close(confidence, tensors["assignment"].max(dim=1).values, rtol=0, atol=5e-5)


def test_every_cluster_with_pictures_has_a_sheet_that_begins_with_its_surest(
    run: Path, digits: Path, tmp_path: Path
) -> None:
    sizes = assign(run, tmp_path / "clusters.csv", sheets=tmp_path / "sheets")
    expected = [f"cluster-{k}.png" for k, size in enumerate(sizes) if size]
    assert sorted(path.name for path in (tmp_path / "sheets").iterdir()) == expected
    k = int(np.argmax(sizes))
    rows = [row for row in rows_of(tmp_path / "clusters.csv") if int(row["cluster"]) == k]
    surest = max(rows, key=lambda row: float(row["confidence"]))
    shown = Image.open(tmp_path / "sheets" / f"cluster-{k}.png").crop((GAP, GAP, GAP + THUMBNAIL, GAP + THUMBNAIL))
    picture = Image.fromarray(open_dataset(digits).decode(int(surest["index"])))
    assert np.array_equal(
        np.asarray(shown), np.asarray(picture.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BICUBIC))
    )


def test_a_sheet_spreads_over_all_pictures_and_is_no_larger_than_they_need(digits: Path) -> None:
    dataset = open_dataset(digits)
    step = THUMBNAIL + GAP
    assert contact_sheet(dataset, list(range(1797))).size == (10 * step + GAP, 10 * step + GAP)
    assert contact_sheet(dataset, list(range(11))).size == (10 * step + GAP, 2 * step + GAP)


def test_a_picture_that_cannot_be_decoded_stays_blank(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = open_dataset(digits)
    decode = dataset.decode

    def damaged(index: int) -> np.ndarray:
        if index == 1:
            raise ValueError("image 1 cannot be decoded")
        return decode(index)

    monkeypatch.setattr(dataset, "decode", damaged)
    sheet = np.asarray(contact_sheet(dataset, [0, 1, 2]))
    second = sheet[GAP:, 2 * GAP + THUMBNAIL :][:THUMBNAIL, :THUMBNAIL]
    assert (second == 255).all()
    assert (sheet[GAP:, GAP:][:THUMBNAIL, :THUMBNAIL] == 0).any()


def test_pictures_that_were_not_trained_on_are_assigned_by_their_own_names(run: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    for shade in range(6):
        Image.new("RGB", (30, 20), (shade * 40,) * 3).save(tmp_path / "new" / f"größe {shade}.png")
    convert("folder", tmp_path / "set", tmp_path / "new", progress=False)
    command = ["assign", "--ckpt", str(run), "--data", str(tmp_path / "set"), "--out", str(tmp_path / "new.csv")]
    printed = CliRunner().invoke(app, command, catch_exceptions=False).output
    assert "6 pictures in" in printed
    assert [row["source"] for row in rows_of(tmp_path / "new.csv")] == [f"größe {shade}.png" for shade in range(6)]


def test_a_missing_folder_is_said_before_the_work(run: Path, tmp_path: Path) -> None:
    command = ["assign", "--ckpt", str(run), "--out", str(tmp_path / "none" / "clusters.csv")]
    with pytest.raises(ValueError, match="does not exist; make it first"):
        CliRunner().invoke(app, command, catch_exceptions=False)
