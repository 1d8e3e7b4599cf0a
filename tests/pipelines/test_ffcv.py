"""`ffcv`: refusals by name, images that its decoder objects to, errors in its thread, and runs that end anywhere."""

from __future__ import annotations

import io
import itertools
import os
import shutil
import sys
import threading
import time
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
from tcc_fast.datasets.ffcv_import import import_ffcv
from tcc_fast.draws import STREAM_AUGMENT, keys, scalar_key
from tcc_fast.pipelines import RankShare, ffcv_views
from tcc_fast.pipelines.decoded import channel_moments
from tcc_fast.pipelines.order import EpochOrder
from tcc_fast.pipelines.view_maker import TensorViews
from tcc_fast.settings import Config
from tcc_fast.views.augment import apply
from tcc_fast.views.view_parameters import draw

Open = Callable[..., Any]
NAME = "images.beton"
SEED = 3
both_caches = pytest.mark.parametrize("cache", ["os", "process"])


@pytest.fixture(autouse=True, scope="module")
def _needs_ffcv() -> None:
    try:
        import_ffcv()
    except ValueError as error:
        pytest.skip(str(error))


@pytest.fixture
def ffcv(pipeline: Open) -> Open:
    """`ffcv(data, cache, **settings)` opens a pipeline with two threads."""

    def make(data: Path | Dataset, cache: str = "os", **settings: Any) -> Any:
        return pipeline(data, "ffcv", 2, cache, **settings)

    return make


@pytest.fixture
def copy(photos: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(photos, tmp_path / "copy"))


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


# What is refused at opening.


def test_a_set_without_a_beton_says_how_to_convert(ffcv: Open, tmp_path: Path) -> None:
    convert("digits", tmp_path / "digits", progress=False)
    with pytest.raises(
        ValueError, match=r"digits has no beton.*--overwrite --formats tar,beton.*another data\.pipeline"
    ):
        ffcv(tmp_path / "digits", image_size=8)


@pytest.mark.parametrize(
    ("at", "data", "message"),
    [
        (0, b"\x09\x00", "is of version 9 of the format, but the installed FFCV reads version 2"),
        (8, b"\x07", "holds 7 images, but the data set has 46"),
        (2, b"\x02", "something else than one field of images"),
    ],
    ids=["version", "count", "fields"],
)
def test_a_beton_that_ffcv_would_misread_is_refused_by_name(
    ffcv: Open, copy: Path, at: int, data: bytes, message: str
) -> None:
    dataset = open_dataset(copy)
    with open(copy / NAME, "r+b") as file:
        file.seek(at)
        file.write(data)
    with pytest.raises(ValueError, match=rf"copy/images\.beton: .*{message}.*--overwrite --formats tar,beton"):
        ffcv(dataset)


def test_a_beton_that_is_cut_or_gone_is_refused_by_name(ffcv: Open, copy: Path) -> None:
    dataset = open_dataset(copy)
    os.truncate(copy / NAME, (copy / NAME).stat().st_size - 1)
    with pytest.raises(ValueError, match=r"copy/images\.beton: is truncated"):
        ffcv(dataset)
    (copy / NAME).unlink()
    with pytest.raises(ValueError, match=r"copy/images\.beton: is missing"):
        ffcv(dataset)


def test_without_ffcv_it_says_what_to_install(ffcv: Open, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ffcv", None)
    with pytest.raises(ValueError, match=r"libturbojpeg0-dev.*pip install ffcv"):
        ffcv(photos)


# What happens to the file later.


def made_ahead() -> int:
    """Batches that are made while nobody takes one: in the queue, and one that waits for room there."""
    from tcc_fast.pipelines.ffcv_inside import BATCHES_AHEAD

    return BATCHES_AHEAD + 1


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[int, int]]]:
    """`watch(pipeline)`: a list that gets the position of every batch when it is made."""

    def make(made: Any) -> list[tuple[int, int]]:
        positions: list[tuple[int, int]] = []
        original = made._views_of

        def views_of(locations: Any) -> Any:
            found = original(locations)
            positions.append(found.position)
            return found

        monkeypatch.setattr(made, "_views_of", views_of)
        return positions

    return make


def wait_for(positions: list[tuple[int, int]], count: int) -> None:
    patience = time.monotonic() + 30
    while len(positions) < count and time.monotonic() < patience:
        time.sleep(0.01)
    time.sleep(0.05)


@both_caches
@pytest.mark.parametrize("done", [0, 1])
def test_a_beton_that_shrinks_under_way_ends_the_training_by_name(
    ffcv: Open, copy: Path, watch: Any, cache: str, done: int
) -> None:
    """While no batch is being made: reading a mapped file beyond its end kills the process, here the tests'."""
    made = ffcv(copy, cache)
    positions = watch(made)
    iterator = iter(made)
    found = list(itertools.islice(iterator, done))
    wait_for(positions, ready := done and done + made_ahead())
    os.truncate(copy / NAME, 1 << 20)
    with pytest.raises(
        ValueError, match=r"copy/images\.beton: is no longer the file that was opened; convert the data set again"
    ):
        found.extend(iterator)
    assert len(positions) == ready
    assert made.state_dict() == {"epoch": 0, "batch": ready}
    made.close()


@both_caches
def test_a_beton_that_is_gone_under_way_ends_the_training_by_name(ffcv: Open, copy: Path, cache: str) -> None:
    made = ffcv(copy, cache)
    (copy / NAME).unlink()
    with pytest.raises(ValueError, match=r"copy/images\.beton: cannot be read any more \(No such file"):
        next(iter(made))


# Images that FFCV's decoder objects to. (Those that nobody can decode are in `test_damage.py`.)


def with_junk(data: bytes) -> bytes:
    """A JPEG with bytes before its end that do not belong there: decoders warn of them, and show the image."""
    smaller = io.BytesIO()
    Image.open(io.BytesIO(data)).save(smaller, "JPEG", quality=60)
    assert smaller.getvalue()[-2:] == b"\xff\xd9"
    return smaller.getvalue()[:-2] + bytes(range(1, 40)) + b"\xff\xd9"


def jpegs_in_order(dataset: Dataset) -> list[int]:
    """Of epoch 0, in batches of 8."""
    order = EpochOrder(range(len(dataset)), 8, SEED, RankShare())
    images = torch.cat([order.indices(0, batch) for batch in range(order.batches_per_epoch)])
    return [image for image in images.tolist() if not dataset.is_png()[image]]


def expected_view(dataset: Dataset, recipe: Any, index: int, view: int, size: int) -> Tensor:
    """Of the image as Pillow decodes it, in epoch 0."""
    key = keys(scalar_key(STREAM_AUGMENT, SEED, 0, view), torch.tensor([index]))
    image = torch.from_numpy(dataset.decode(index)).permute(2, 0, 1).unsqueeze(0)
    parameters = draw(recipe, key, *torch.from_numpy(dataset.sizes()[index]).unsqueeze(1))
    return apply(image, parameters, recipe, size, *channel_moments(dataset))[0]


def unlike(dataset: Dataset, found: list[Batch], recipe: Any, size: int = 16) -> set[int]:
    """Images whose views are not those of the image as Pillow decodes it, but for rounding."""
    return {
        image
        for image, number, view in views_of(found)
        if (view - expected_view(dataset, recipe, image, number, size)).abs().max() > 1e-4
    }


def test_an_image_that_is_merely_odd_is_shown_and_not_counted(
    ffcv: Open, configure: Callable[..., Config], photos: Path, damaged: Any
) -> None:
    """Warnings are errors here, so none is given. JPEGs that are not odd are FFCV's decoder's: not exactly Pillow's."""
    good = open_dataset(photos)
    odd = jpegs_in_order(good)[:12:3]
    dataset = damaged(photos, {image: with_junk(good.read(image)) for image in odd})
    made, plain = ffcv(dataset, seed=SEED), ffcv(photos, seed=SEED)
    found, others = list(made), list(plain)
    assert made.damage.indices == set()
    unlike_pillow = unlike(dataset, found, configure().augment)
    assert not unlike_pillow & {*odd, *np.flatnonzero(good.is_png()).tolist()}
    assert unlike_pillow
    for (image, _, view), (_, _, other) in zip(views_of(found), views_of(others), strict=True):
        assert torch.equal(view, other) == (image not in odd)


def test_an_image_that_is_damaged_in_the_beton_alone_is_taken_from_the_tar(
    ffcv: Open, configure: Callable[..., Config], photos: Path, damaged: Any
) -> None:
    bad = jpegs_in_order(open_dataset(photos))[:12]
    dataset = damaged(photos, dict.fromkeys(bad, b""), files="beton")
    made = ffcv(dataset, seed=SEED)
    found = list(made)
    assert made.damage.indices == set()
    assert not unlike(dataset, found, configure().augment) & set(bad)


# The thread that FFCV works ahead in.


@both_caches
def test_an_error_while_views_are_made_reaches_the_training_and_can_be_survived(
    ffcv: Open, photos: Path, monkeypatch: pytest.MonkeyPatch, cache: str
) -> None:
    expected = list(ffcv(photos))
    made = ffcv(photos, cache)
    iterator = iter(made)
    found = [next(iterator), next(iterator)]

    def fail(*arguments: object) -> None:
        raise RuntimeError("no memory left")

    with monkeypatch.context() as patched:
        patched.setattr(ffcv_views, "decoded_views", fail)
        made.set_epoch(7)  # so that nothing is there already
        with pytest.raises(RuntimeError, match="no memory left"):
            next(iter(made))
        assert made.state_dict() == {"epoch": 7, "batch": 0}
    made.load_state_dict({"epoch": 0, "batch": 2})
    assert same(found + list(made), expected)


def test_a_thread_of_ffcvs_that_ends_by_itself_is_noticed(
    ffcv: Open, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = ffcv(photos)
    from tcc_fast.pipelines import ffcv_inside

    monkeypatch.setattr(ffcv_inside.EpochIterator, "run", lambda self: None)
    with pytest.raises(RuntimeError, match="FFCV's thread ended without a word"):
        next(iter(made))


@both_caches
def test_closing_half_way_is_quick_and_ends_all_threads(ffcv: Open, photos: Path, cache: str) -> None:
    before = set(threading.enumerate())
    for done in (1, 3):
        made = ffcv(photos, cache)
        iterator = iter(made)
        found = [next(iterator) for _ in range(done)]
        assert set(threading.enumerate()) - before
        start = time.monotonic()
        made.close()
        assert time.monotonic() - start < 2
        assert not set(threading.enumerate()) - before
        assert all(batch.view_1.isfinite().all() for batch in found)
        with pytest.raises(AssertionError, match="the pipeline is closed"):
            next(iter(made))


@both_caches
def test_runs_may_end_anywhere(ffcv: Open, photos: Path, monkeypatch: pytest.MonkeyPatch, cache: str) -> None:
    """FFCV is given many epochs at a time, up to the end of one; it shows nowhere where."""
    epochs = [list(batches) for batches in itertools.repeat(ffcv(photos), 4)]
    runs = []
    for at_least, number in ((1, 4), (6, 2), (100, 1)):
        monkeypatch.setattr(ffcv_views, "RUN_BATCHES", at_least)
        made = ffcv(photos, cache)
        start = made._ahead.start
        monkeypatch.setattr(made._ahead, "start", lambda order, start=start: runs.append(len(order)) or start(order))
        assert all(same(list(made), expected) for expected in epochs)
        assert len(runs) == number
        runs.clear()


def test_any_position_can_be_gone_to(ffcv: Open, photos: Path) -> None:
    """Also those that FFCV is at work on already, from which it must not be a batch off."""
    made = ffcv(photos)
    epochs = [list(made) for _ in range(3)]
    for epoch, batch in [(0, 0), (0, 1), (0, 3), (2, 4), (1, 0), (1, 0), (0, 4), (1, 1), (2, 0)]:
        made.load_state_dict({"epoch": epoch, "batch": batch})
        assert same(list(itertools.islice(made, 2)), epochs[epoch][batch : batch + 2]), (epoch, batch)


def test_batches_are_prepared_while_the_step_runs(ffcv: Open, photos: Path, watch: Any) -> None:
    made = ffcv(photos)
    positions = watch(made)
    next(iter(made))
    wait_for(positions, 1 + made_ahead())
    assert positions == [(0, batch) for batch in range(1 + made_ahead())]


# For a GPU.


def test_crops_for_a_gpu_are_whole_grey_levels_and_finished_there(
    ffcv: Open, configure: Callable[..., Config], photos: Path, damaged: Any
) -> None:
    """What happens then, but on the CPU: crops of uint8 travel, and the colours come after."""
    dataset = open_dataset(photos)
    bad = jpegs_in_order(dataset)[3]
    dataset = damaged(photos, {bad: b""})
    settings: dict[str, Any] = {"seed": SEED, "image_size": 20}
    recipe = configure().augment
    mean, std = channel_moments(dataset)
    plain, made = ffcv(dataset, augment={"jitter": 0, "grey": 0, "blur": 0}, **settings), ffcv(dataset, **settings)
    made._finisher = TensorViews(recipe, 20, mean, std, torch.device("cpu"), torch.float32)
    crops = []
    original = made._placed
    made._placed = lambda one: crops.append(one.views) or original(one)
    with pytest.warns(RuntimeWarning, match=f"image {bad} cannot be decoded"):
        found, before = list(made), list(plain)
    assert made.damage.indices == {bad}
    for batch, uncoloured, levels in zip(found, before, crops, strict=True):
        assert levels.dtype == torch.uint8
        good = batch.index != bad
        sizes = torch.from_numpy(dataset.sizes())[batch.index]
        for number, view, exact in ((1, batch.view_1, uncoloured.view_1), (2, batch.view_2, uncoloured.view_2)):
            assert not view[~good].any()
            pixels = (exact * std.view(3, 1, 1) + mean.view(3, 1, 1)).permute(0, 2, 3, 1) * 255
            assert (levels[number - 1] - pixels)[good].abs().max() < 0.501
            key = keys(scalar_key(STREAM_AUGMENT, SEED, 0, number), batch.index)
            finished = made._finisher.views_of_crops(levels[number - 1], draw(recipe, key, *sizes.unbind(1)).pack())
            torch.testing.assert_close(view[good], finished[good], rtol=0, atol=1e-5)
            assert view.is_contiguous(memory_format=torch.channels_last)
