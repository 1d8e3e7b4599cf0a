"""`--formats files`: the images of a plain folder stay where they are, and only an index of them is made."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tcc_fast.datasets import Dataset, convert, open_dataset
from tcc_fast.pipelines import open_pipeline
from tcc_fast.settings import Config, DataConfig, TrainConfig


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Seven images in two classes, one with a name that is no utf-8, one CMYK, one rotated."""
    rng = np.random.default_rng(0)
    for number in range(7):
        folder = tmp_path / "raw" / ("cat", "dog")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(rng.integers(0, 256, (20 + number, 30, 3), dtype=np.uint8))
        image.save(folder / f"{number}.{('jpg', 'png')[number == 3]}", quality=90)
    (tmp_path / "raw" / "cat" / "0.jpg").rename(tmp_path / "raw" / "cat" / "\udcff.jpg")
    Image.new("CMYK", (20, 20)).save(tmp_path / "raw" / "dog" / "cmyk.jpg")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (20, 30)).save(tmp_path / "raw" / "dog" / "turned.jpg", exif=turned)
    return tmp_path / "raw"


@pytest.fixture
def dataset(raw: Path, tmp_path: Path) -> Dataset:
    report = convert("folder", tmp_path / "packed", raw, formats="files", workers=1, progress=False)
    assert report.rejected == {"needs conversion": 2}
    assert f"the images stay in {raw}" in report.summary()
    return open_dataset(tmp_path / "packed")


def test_where_most_images_need_conversion_that_is_what_is_advised(raw: Path, tmp_path: Path) -> None:
    advised = r"needs conversion: 2.* listed in .*: leave --formats files out, .*; or mend or remove them"
    with pytest.raises(ValueError, match=advised):
        convert("folder", tmp_path / "packed", raw, formats="files", workers=1, max_rejected=0.1, progress=False)


def originals(raw: Path) -> list[Path]:
    return sorted((path for path in raw.glob("*/*") if path.stem not in ("cmyk", "turned")), key=lambda p: bytes(p))


def test_nothing_is_copied_and_every_image_is_read_where_it_lies(dataset: Dataset, raw: Path) -> None:
    assert {path.suffix for path in dataset.path.iterdir()} == {".csv", ".json"}
    assert len(dataset) == 7
    for one in (dataset, pickle.loads(pickle.dumps(dataset))):
        for index, path in enumerate(originals(raw)):
            assert one.read(index) == path.read_bytes()
            with Image.open(path) as image:
                assert (one.decode(index) == np.asarray(image)).all()
                assert tuple(one.sizes()[index]) == image.size[::-1]
    labels = dataset.labels()
    assert labels is not None
    assert labels.tolist() == [path.parent.name == "dog" for path in originals(raw)]


@pytest.mark.parametrize("backend", ["resident", "dali", "torch"])
def test_pipelines_read_a_plain_folder(dataset: Dataset, backend: str) -> None:
    if backend == "dali":
        pytest.importorskip("nvidia.dali")
    config = Config(
        data=DataConfig(pipeline=backend, image_size=16, workers=0 if backend == "torch" else 1),
        train=TrainConfig(batch_size=7),
    )
    pipeline = open_pipeline(dataset, config, torch.device("cpu"))
    (batch,) = pipeline
    assert sorted(batch.index.tolist()) == list(range(7))
    assert batch.view_1.std() > 0.1
    pipeline.close()


def test_an_image_that_has_changed_or_gone_is_refused_by_name(dataset: Dataset, raw: Path) -> None:
    changed, gone = originals(raw)[1], originals(raw)[2]
    changed.write_bytes(changed.read_bytes() + b"more")
    gone.unlink()
    with pytest.raises(ValueError, match=rf"{changed.name}: image 1: has \d+ bytes, not \d+; convert"):
        dataset.read(1)
    with pytest.raises(ValueError, match=rf"{gone.name}: image 2: cannot be read \(No such file"):
        dataset.decode(2)


def test_a_folder_that_has_moved_is_named(dataset: Dataset, raw: Path) -> None:
    raw.rename(raw.with_name("elsewhere"))
    with pytest.raises(ValueError, match=r"raw: is not there, but holds the images of"):
        open_dataset(dataset.path)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("folder", {"formats": "tar,files"}, "goes with no other format"),
        ("folder", {"formats": "files", "short_side": 64}, "leave --short-side out"),
        ("digits", {"formats": "files"}, "is for a folder of images"),
    ],
)
def test_what_does_not_go_together_is_said(
    raw: Path, tmp_path: Path, name: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        convert(name, tmp_path / "packed", raw if name == "folder" else None, progress=False, **options)  # type: ignore[arg-type]
    assert not (tmp_path / "packed").exists()
