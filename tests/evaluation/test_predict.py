"""Images that lie in no data set get the clusters and features that they would get in one."""

from __future__ import annotations

import re
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tcc_fast.config import load_config
from tcc_fast.cores import default_workers
from tcc_fast.datasets import convert, open_dataset
from tcc_fast.evaluation import predict as predict_module
from tcc_fast.evaluation.predict import Predictor
from tcc_fast.evaluation.trained import open_trained
from tcc_fast.train import train
from tests.conftest import TINY


@pytest.fixture(scope="module")
def run(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("predict") / "run"
    train(load_config("digits", TINY), digits, folder, say=lambda sentence: None)
    return folder


@pytest.fixture(scope="module")
def predictor(run: Path) -> Predictor:
    return Predictor(run, "cpu")


def test_images_of_the_data_set_get_what_an_evaluation_gives_them(run: Path, predictor: Predictor) -> None:
    trained = open_trained(run)
    features, assignment = trained.embed()
    pixels = [trained.dataset.decode(index) for index in range(len(trained.dataset))]
    found = predictor(pixels, batch_size=500)
    torch.testing.assert_close(found.features, features, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.assignment, assignment, rtol=0, atol=1e-5)
    confidence, cluster = found.assignment.max(dim=1)
    assert torch.equal(found.cluster, cluster)
    assert torch.equal(found.confidence, confidence)


def test_every_form_of_an_image_is_the_same_image(predictor: Predictor, tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (9, 14), dtype=np.uint8)
    file = tmp_path / "noise.png"
    Image.fromarray(grey).save(file)
    forms = [grey, np.stack([grey] * 3, axis=2), Image.fromarray(grey), file, str(file), file.read_bytes()]
    found = predictor(iter(forms))
    assert found.features.shape == (6, 16)
    assert torch.equal(found.features, found.features[:1].expand(6, 16))
    assert (predictor([255 - grey]).features - found.features[0]).abs().max() > 0.01


def test_a_single_image_need_not_stand_in_a_list(predictor: Predictor, tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (9, 14), dtype=np.uint8)
    file = tmp_path / "noise.png"
    Image.fromarray(grey).save(file)
    expected = predictor([grey]).features
    for one in (grey, np.stack([grey] * 3, axis=2), Image.fromarray(grey), file, str(file), file.read_bytes()):
        assert torch.equal(predictor(one).features, expected)
    assert predictor(np.stack([grey, 255 - grey] * 3)).features.shape == (6, 16)  # of grey images
    for shape in ((9, 14, 4), (9, 14, 1), (3, 9, 14)):
        with pytest.raises(ValueError, match=re.escape(f"of shape {shape} may be an image or several")):
            predictor(np.zeros(shape, dtype=np.uint8))


def test_photographs_get_nearly_what_their_converted_copies_get(
    run: Path, predictor: Predictor, tmp_path: Path
) -> None:
    """Which were reduced to a short side of 40 pixels and encoded anew."""
    (tmp_path / "raw").mkdir()
    rng = np.random.default_rng(1)
    files = [tmp_path / "raw" / f"{number}.jpg" for number in range(12)]
    for file in files:
        small = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
        small.resize((200, 160), Image.Resampling.BICUBIC).save(file, quality=95)
    convert("folder", tmp_path / "set", tmp_path / "raw", short_side=40, progress=False)
    assert [name for name in open_dataset(tmp_path / "set").sources()] == sorted(file.name for file in files)
    expected, _ = open_trained(run, tmp_path / "set").embed()
    likeness = (predictor(sorted(files)).features * expected).sum(dim=1)
    assert likeness.min() > 0.98
    assert (expected @ expected.T).min() < 0.9  # which says something


def test_opened_images_are_turned_and_flattened_as_files_are(predictor: Predictor, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    noise = Image.fromarray(rng.integers(0, 256, (8, 12, 4), dtype=np.uint8))
    turned = Image.Exif()
    turned[0x0112] = 6
    noise.save(tmp_path / "clear.png")
    noise.convert("RGB").save(tmp_path / "turned.png", exif=turned)
    noise.convert("RGB").save(tmp_path / "turned.tiff", exif=turned)
    noise.convert("RGB").save(tmp_path / "straight.png")
    files = sorted(tmp_path.iterdir())
    found = predictor([*files, *map(Image.open, files)]).features
    assert torch.equal(found[:4], found[4:])
    clear, straight, *both = found[:4]
    assert torch.equal(*both)
    assert (clear - straight).abs().max() > 0.01
    assert (both[0] - straight).abs().max() > 0.01


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4), dtype=np.float32), r"image 1 is float32 of shape \(4, 4\), not uint8"),
        (np.zeros((3, 4, 4), dtype=np.uint8), r"image 1 is uint8 of shape \(3, 4, 4\), not uint8 \(H, W\)"),
        (torch.zeros(3, 4, 4), "image 1 is a Tensor: give a path, bytes"),
        (np.zeros((0, 4, 3), dtype=np.uint8), r"image 1 is uint8 of shape \(0, 4, 3\)"),
        (b"hello", "image 1: not an image"),
        (Image.new("F", (4, 4)), r"image 1: unsupported pixel type \(F\)"),
    ],
)
def test_what_is_no_image_is_named(predictor: Predictor, image: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        predictor([np.zeros((4, 4), dtype=np.uint8), image])  # type: ignore[list-item]


def test_a_cut_file_is_named_and_so_is_nothing(predictor: Predictor, tmp_path: Path) -> None:
    file = tmp_path / "half.png"
    Image.new("RGB", (40, 40), "red").save(file)
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"half\.png: truncated"):
        predictor([file])
    with pytest.raises(ValueError, match="no images"):
        predictor([])
    with pytest.raises(FileNotFoundError):
        predictor([tmp_path / "gone.png"])


def test_many_files_are_decoded_at_once_in_their_order_and_the_first_bad_one_is_named(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file waits for another to have begun, so one after another would never end."""
    files = [tmp_path / f"{number}.png" for number in range(6)]
    for number, file in enumerate(files):
        Image.new("L", (9, 9), 40 * number).save(file)
    expected = torch.cat([predictor(file).features for file in files])
    meeting, decode = threading.Barrier(2, timeout=60), predict_module.decode_image

    def after_meeting(*args: Any, **kwargs: Any) -> Any:
        meeting.wait()
        return decode(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(predict_module, "default_workers", lambda: 2)
        patch.setattr(predict_module, "decode_image", after_meeting)
        found = predictor(iter(files), batch_size=4).features
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert torch.cdist(expected, expected).fill_diagonal_(1).min() > 0.01
    for number in (2, 3):
        files[number].write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"2\.png: not an image"):
        predictor(files)


def test_few_images_are_there_at_once(predictor: Predictor) -> None:
    """Of a generator's: what has become a view is let go of."""
    alive: list[weakref.ref[Image.Image]] = []
    most = 0

    def images() -> Iterator[Image.Image]:
        nonlocal most
        for number in range(40):
            image = Image.new("L", (9, 9), number)
            alive.append(weakref.ref(image))
            most = max(most, sum(one() is not None for one in alive))
            yield image

    assert len(predictor(images()).cluster) == 40
    assert most <= default_workers() + 3
