"""`dali`: the same crops as everywhere, read ahead, and none of what DALI does with epochs."""

from __future__ import annotations

import io
import itertools
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tcc_fast.batch import Batch
from tcc_fast.datasets import Dataset, convert, open_dataset
from tcc_fast.draws import STREAM_AUGMENT, keys, scalar_key
from tcc_fast.pipelines import RankShare, dali_views
from tcc_fast.pipelines.dali_views import DEPTH, DaliPipeline
from tcc_fast.pipelines.decoded import channel_moments
from tcc_fast.pipelines.order import EpochOrder
from tcc_fast.settings import AugmentConfig, Config
from tcc_fast.views.augment import place
from tcc_fast.views.view_parameters import ViewParameters, draw

pytest.importorskip("nvidia.dali")

NO_COLOUR: dict[str, Any] = {"jitter": 0, "grey": 0, "blur": 0}
NO_AFFINE: dict[str, Any] = {"rotation": 0, "shear": 0, "zoom": (1, 1)}
WHOLE: dict[str, Any] = {"crop_area": (1, 1), "crop_aspect": (1, 1), "flip": 0} | NO_AFFINE | NO_COLOUR
CPU = torch.device("cpu")
Open = Callable[..., DaliPipeline]


@pytest.fixture(params=[False, True], ids=["decodes", "cuts"])
def cuts(request: pytest.FixtureRequest) -> bool:
    """Whether DALI cuts the views, as it does on a GPU."""
    return bool(request.param)


@pytest.fixture
def dali(configure: Callable[..., Config], cuts: bool) -> Iterator[Open]:
    opened = []

    def make(data: Path | Dataset, threads: int = 1, **settings: Any) -> DaliPipeline:
        dataset = data if isinstance(data, Dataset) else open_dataset(data)
        config = configure(**settings)
        order = EpochOrder(range(len(dataset)), config.train.batch_size, config.seed, RankShare())
        made = DaliPipeline(dataset, config.augment, config.data.image_size, order, CPU, threads, cuts=cuts)
        opened.append(made)
        return made

    yield make
    for made in opened:
        made.close()


def same(some: list[Batch], others: list[Batch]) -> bool:
    """Bit by bit."""
    pairs = zip(some, others, strict=True)
    return all(torch.equal(getattr(a, name), getattr(b, name)) for a, b in pairs for name in vars(a))


def views_of(batches: list[Batch]) -> Iterator[tuple[int, int, Tensor]]:
    """(image, 1 or 2, view) of every view."""
    for batch in batches:
        for row, image in enumerate(batch.index.tolist()):
            yield image, 1, batch.view_1[row]
            yield image, 2, batch.view_2[row]


def grey_levels(dataset: Dataset, view: Tensor) -> Tensor:
    """Pixels in 0..255 of a normalised view."""
    mean, std = (moment.view(3, 1, 1) for moment in channel_moments(dataset))
    return (view * std + mean) * 255


def parameters_of(made: DaliPipeline, recipe: AugmentConfig, image: int, view: int) -> ViewParameters:
    """As drawn in epoch 0."""
    key = keys(scalar_key(STREAM_AUGMENT, made.order.seed, 0, view), torch.tensor([image]))
    height, width = torch.from_numpy(made.dataset.sizes()[image]).unsqueeze(1)
    return draw(recipe, key, height, width)


def errors(made: DaliPipeline) -> tuple[Tensor, Tensor]:
    """Absolute differences, in grey levels, of epoch 0 from `place` on the same pixels: inside, and at the border."""
    inside, border = [], []
    for index, number, view in views_of(list(made)):
        image = torch.from_numpy(made.dataset.decode(index)).permute(2, 0, 1).unsqueeze(0)
        parameters = parameters_of(made, made.recipe, index, number)
        expected = place(image, parameters, made.recipe, made.image_size)[0, 0]
        error = (grey_levels(made.dataset, view) - expected).abs()
        is_border = torch.ones_like(error, dtype=torch.bool)
        is_border[:, 1:-1, 1:-1] = False
        inside.append(error[~is_border])
        border.append(error[is_border])
    return torch.cat(inside), torch.cat(border)


# What the views show.


EVERY_PLACE: dict[str, Any] = {"rotation": 30, "shear": 15, "zoom": (0.6, 1.4)}


@pytest.mark.parametrize("cuts", [False])
@pytest.mark.parametrize("affine", [NO_AFFINE, EVERY_PLACE], ids=["crop", "affine"])
@pytest.mark.parametrize("image_size", [16, 64])
def test_views_of_whole_images_are_those_of_the_reference(
    dali: Open, photos: Path, image_size: int, affine: dict[str, Any]
) -> None:
    inside, border = errors(dali(photos, image_size=image_size, augment=affine | NO_COLOUR))
    assert max(inside.max(), border.max()) < 0.01


@pytest.mark.parametrize("cuts", [True])
@pytest.mark.parametrize("image_size", [16, 64])
def test_crops_are_those_of_the_reference_but_for_whole_grey_levels(dali: Open, photos: Path, image_size: int) -> None:
    """Half a level at most, 0.25 on average: DALI rounds, nothing else. At the border of crops that are made smaller
    its resize repeats pixels: for crops of up to 110 pixels made 16 that is up to 17 levels there, 0.6 on average."""
    made = dali(photos, image_size=image_size, augment=NO_AFFINE | NO_COLOUR)
    inside, border = errors(made)
    assert inside.max() < 0.51
    assert inside.mean() < 0.26
    assert border.max() < (30 if image_size == 16 else 0.51)
    assert border.mean() < (0.8 if image_size == 16 else 0.26)


@pytest.mark.parametrize("cuts", [True])
def test_affine_maps_are_those_of_the_reference_but_for_whole_grey_levels(dali: Open, photos: Path) -> None:
    """Rounded twice: measured at most 0.98 levels, 0.26 on average."""
    inside, border = errors(dali(photos, image_size=64, augment=EVERY_PLACE | NO_COLOUR))
    assert max(inside.max(), border.max()) < 1.1
    assert max(inside.mean(), border.mean()) < 0.35


def test_a_flip_changes_nothing_else(dali: Open, photos: Path) -> None:
    plain, mirrored = (list(dali(photos, augment=NO_COLOUR | {"flip": flip})) for flip in (0, 1))
    for one, other in zip(plain, mirrored, strict=True):
        assert torch.equal(one.view_1, other.view_1.flip(3))
        assert torch.equal(one.view_2, other.view_2.flip(3))


def test_every_kind_of_stored_image_is_decoded_as_by_pillow(dali: Open, tmp_path: Path) -> None:
    """Exactly: of whole images at their own size, DALI only decodes."""
    raw = tmp_path / "raw"
    raw.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((32, 32), Image.Resampling.BICUBIC)
    image.save(raw / "0.jpg", quality=90)  # halved colour planes
    image.save(raw / "1.jpg", quality=90, subsampling=0)
    image.save(raw / "2.jpg", quality=90, progressive=True)
    image.convert("L").save(raw / "3.jpg", quality=90)
    image.save(raw / "4.png")
    image.convert("L").save(raw / "5.png")
    convert("folder", tmp_path / "packed", raw, workers=1, progress=False)
    dataset = open_dataset(tmp_path / "packed")
    assert [source.rpartition("/")[2] for source in dataset.sources()] == [path.name for path in sorted(raw.iterdir())]
    assert dataset.read(0) == (raw / "0.jpg").read_bytes()  # kept as they are
    batches = list(dali(dataset, batch_size=6, image_size=32, augment=WHOLE))
    for index, _, view in views_of(batches):
        expected = torch.from_numpy(dataset.decode(index)).permute(2, 0, 1)
        assert torch.equal(grey_levels(dataset, view).round().to(torch.uint8), expected)


# Order and time.


def test_threads_change_nothing(dali: Open, photos: Path) -> None:
    assert same(list(dali(photos, threads=1)), list(dali(photos, threads=2)))


def test_any_position_can_be_gone_to(dali: Open, photos: Path) -> None:
    """Also those that DALI is at work on already, from which it must not be a batch off."""
    made = dali(photos)
    epochs = [list(made) for _ in range(3)]
    for epoch, batch in [(0, 0), (0, 1), (0, 3), (2, 4), (1, 0), (1, 0), (0, 4), (1, 1), (2, 0)]:
        made.load_state_dict({"epoch": epoch, "batch": batch})
        assert same(list(itertools.islice(made, 2)), epochs[epoch][batch : batch + 2]), (epoch, batch)


def test_batches_are_prepared_while_the_step_runs(dali: Open, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = dali(photos)
    read: list[int] = []
    original = Dataset.read
    monkeypatch.setattr(Dataset, "read", lambda self, image: read.append(image) or original(self, image))
    next(iter(made))
    ahead = 8 * (1 + DEPTH + 1)
    patience = time.monotonic() + 30
    while len(read) < ahead and time.monotonic() < patience:
        time.sleep(0.01)
    time.sleep(0.05)
    assert len(read) == ahead


def test_close_ends_native_threads_at_work(dali: Open, photos: Path) -> None:
    """Twice, since torch and DALI start some at first use that they keep."""

    def threads() -> int:
        return len(os.listdir("/proc/self/task"))

    counts = []
    for _ in range(2):
        made = dali(photos, threads=2)
        iterator = iter(made)
        next(iterator)
        during = threads()
        made.close()
        patience = time.monotonic() + 30
        while threads() > min([during - 3, *counts]) and time.monotonic() < patience:
            time.sleep(0.01)
        counts.append(threads())
        assert counts[-1] <= during - 3  # DALI's two and the reading one
        del iterator
    assert counts[1] <= counts[0]


def test_without_dali_it_says_what_to_install(dali: Open, frames: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    with pytest.raises(ValueError, match=r"pip install nvidia-dali-cuda130"):
        dali(frames)


# Images that cannot be decoded.


def thumbnail() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 12)).save(buffer, "JPEG", quality=50)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"", ": cannot be decoded ("), (b"\xff\xd8\xff", ": cannot be decoded ("), (thumbnail(), "12 x 20 pixels, not ")],
    ids=["zeros", "start of a JPEG", "another image"],
)
def test_an_undecodable_image_is_reported_once_and_left_blank(
    dali: Open, photos: Path, damaged: Any, content: bytes, why: str
) -> None:
    whole = dali(photos)
    expected = [list(whole) for _ in range(3)]
    jpegs = set(np.flatnonzero(~whole.dataset._is_png).tolist())
    in_order = [[image for image in batch.index.tolist() if image in jpegs] for batch in expected[0]]
    bad = [*in_order[1][:2], in_order[3][0]]  # two in one batch
    made = dali(damaged(photos, dict.fromkeys(bad, content)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = [list(made) for _ in range(3)]
    messages = [str(warning.message) for warning in caught]
    assert len(messages) == 3
    for image in bad:
        assert sum(f"image {image} cannot be decoded and is left blank" in message for message in messages) == 1
    for message in messages:
        assert why in message.partition(" is left blank (")[2]
    assert made.damage.indices == set(bad)
    for epoch in range(3):
        assert [batch.index.tolist() for batch in found[epoch]] == [batch.index.tolist() for batch in expected[epoch]]
        for (image, _, view), (_, _, healthy) in zip(views_of(found[epoch]), views_of(expected[epoch]), strict=True):
            if image in bad:
                assert not view.any()
            else:
                assert torch.equal(view, healthy)


def test_an_undecodable_image_in_a_large_batch_is_borne(dali: Open, photos: Path, damaged: Any) -> None:
    """DALI's decoder, left to itself, throws while its threads are at work on the others, which ends the process."""
    jpegs = np.flatnonzero(~open_dataset(photos).is_png()).tolist()
    for bad, content in ((jpegs[2], b""), (jpegs[20], b"\xff\xd8\xff")):
        dataset = damaged(photos, {bad: content})
        for seed in range(4):
            made = dali(dataset, threads=2, batch_size=40, seed=seed)
            with pytest.warns(RuntimeWarning, match=f"image {bad} cannot be decoded and is left blank"):
                list(itertools.chain(made, made, made))
            made.close()


def test_what_only_dali_refuses_is_reported_in_its_words(
    dali: Open, photos: Path, damaged: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = damaged(photos, {7: b""})
    height, width = dataset.sizes()[7]
    monkeypatch.setattr(Dataset, "decode", lambda self, image: np.zeros((height, width, 3), dtype=np.uint8))
    made = dali(dataset)
    with pytest.warns(RuntimeWarning, match=r"image 7 .* left blank \(DALI: nvImageCodec failure: '#\d+'\); 1 so far"):
        list(itertools.chain(made, made))


def test_a_shard_that_becomes_shorter_is_borne(dali: Open, photos: Path, damaged: Any) -> None:
    dataset = damaged(photos, {})
    last = int(dataset._offsets[45]) + 10
    made = dali(dataset)
    os.truncate(dataset.path / dataset.manifest.shards[-1], last)
    with pytest.warns(RuntimeWarning, match="image 45 cannot be decoded.*the shard ends within the image"):
        batches = list(itertools.chain(made, made))
    assert made.damage.indices == {45}
    blank = [view for image, _, view in views_of(batches) if image == 45]
    assert blank
    assert not any(view.any() for view in blank)


@pytest.mark.filterwarnings("ignore:.*is left blank")
def test_too_many_undecodable_images_end_the_training(dali: Open, photos: Path, damaged: Any) -> None:
    made = dali(damaged(photos, dict.fromkeys(range(30), b"")))
    with pytest.raises(ValueError, match="11 images cannot be decoded, where 10 are borne"):
        list(made)


def test_an_error_that_is_about_no_image_is_raised(dali: Open, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what comes after it goes on where it was."""
    expected = list(dali(photos))
    made = dali(photos)
    iterator = iter(made)
    found = [next(iterator), next(iterator)]

    def fail(*arguments: object) -> list[Tensor]:
        raise RuntimeError("no memory left")

    with monkeypatch.context() as patched:
        patched.setattr(dali_views, "outputs", fail)
        patched.setattr(dali_views, "whole_images", fail)
        with pytest.raises(RuntimeError, match="no memory left"):
            next(iterator)
    assert not made.damage.indices
    assert made.state_dict() == {"epoch": 0, "batch": 2}
    assert same(found + list(made), expected)


def test_an_error_in_the_reading_thread_is_raised(dali: Open, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = list(dali(photos))
    made = dali(photos)

    def fail(self: Dataset, image: int) -> bytes:
        raise OSError("input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(Dataset, "read", fail)
        with pytest.raises(OSError, match="input/output error"):
            next(iter(made))
    assert same(list(made), expected)
