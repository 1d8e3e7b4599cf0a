"""Which images come when, and what is said when a batch cannot be made."""

from __future__ import annotations

import re

import pytest
import torch

from tcc_fast.pipelines.order import SINGLE, EpochOrder, Position, RankShare


@pytest.mark.parametrize(("num_images", "batch_size"), [(46, 8), (48, 8), (8, 8), (15, 8)])
def test_an_epoch_is_a_shuffle_without_its_tail(num_images: int, batch_size: int) -> None:
    order = EpochOrder(range(num_images), batch_size, 0, SINGLE)
    assert order.batches_per_epoch == num_images // batch_size
    epochs = []
    for epoch in range(3):
        index = torch.cat([order.indices(epoch, batch) for batch in range(order.batches_per_epoch)])
        assert index.dtype == torch.int64
        assert len(index) == num_images // batch_size * batch_size
        assert len(index.unique()) == len(index)
        assert 0 <= index.min() <= index.max() < num_images
        epochs.append(index.tolist())
    assert epochs[0] != epochs[1] != epochs[2]


def test_images_may_begin_later_in_the_data_set() -> None:
    whole, later = EpochOrder(range(30), 10, 5, SINGLE), EpochOrder(range(70, 100), 10, 5, SINGLE)
    for epoch, batch in ((0, 0), (2, 1)):
        assert torch.equal(later.indices(epoch, batch), 70 + whole.indices(epoch, batch))


def test_the_order_depends_on_seed_and_epoch_and_not_on_what_was_asked_before() -> None:
    order = EpochOrder(range(100), 10, 5, SINGLE)
    later = order.indices(7, 3)
    order.indices(2, 9)
    assert torch.equal(order.indices(7, 3), later)
    assert torch.equal(EpochOrder(range(100), 10, 5, SINGLE).indices(7, 3), later)
    assert not torch.equal(EpochOrder(range(100), 10, 6, SINGLE).indices(7, 3), later)


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 6, 12])
def test_ranks_cut_the_global_batch_in_equal_parts(ranks: int) -> None:
    whole = EpochOrder(range(100), 12, 1, SINGLE)
    for batch in range(whole.batches_per_epoch):
        parts = [EpochOrder(range(100), 12, 1, RankShare(rank, ranks)).indices(4, batch) for rank in range(ranks)]
        assert {len(part) for part in parts} == {12 // ranks}
        assert torch.equal(torch.cat(parts), whole.indices(4, batch))


def test_every_image_is_visited_as_often_in_the_long_run() -> None:
    """400 epochs that drop 6 of 46: 348 visits expected, standard deviation 6.7."""
    order = EpochOrder(range(46), 8, 0, SINGLE)
    visits = torch.zeros(46)
    for epoch in range(400):
        for batch in range(5):
            visits[order.indices(epoch, batch)] += 1
    assert (visits - 400 * 40 / 46).abs().max() < 5 * 6.8


def suggested(message: str) -> int:
    found = re.search(r"set train\.batch_size=(\d+)", message)
    assert found, message
    return int(found[1])


@pytest.mark.parametrize("num_images", [2, 3, 4, 5, 7, 8, 46, 1797])
@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
@pytest.mark.parametrize("batch_size", [2, 7, 47, 2000])
def test_what_an_error_suggests_works(num_images: int, ranks: int, batch_size: int) -> None:
    try:
        EpochOrder(range(num_images), batch_size, 0, RankShare(0, ranks))
    except ValueError as error:
        message = str(error)
    else:
        assert batch_size <= num_images
        assert batch_size % ranks == 0
        return
    if num_images < ranks:
        assert f"{num_images} image(s)" in message
        assert "fewer processes" in message
        return
    assert f"train.batch_size is {batch_size}" in message
    if batch_size > num_images:
        assert f"{num_images} images" in message
        most = int(re.findall(r"at most (\d+) is possible", message)[0])
        assert EpochOrder(range(num_images), most, 0, RankShare(0, ranks)).batches_per_epoch == 1
        assert most + ranks > num_images
    else:
        assert f"{ranks} processes cannot share equally" in message
    batch = suggested(message)
    assert batch >= 2
    assert EpochOrder(range(num_images), batch, 0, RankShare(0, ranks)).batches_per_epoch >= 1


def test_a_single_image_cannot_be_trained_on() -> None:
    with pytest.raises(ValueError, match="1 image.*at least 2.*train on more images"):
        EpochOrder(range(1), 2, 0, SINGLE)


def test_position() -> None:
    position = Position(5)
    assert position.state_dict() == {"epoch": 0, "batch": 0}
    position.load_state_dict({"epoch": 2, "batch": 3})
    assert position.state_dict() == {"epoch": 2, "batch": 3}
    position.set_epoch(4)
    assert position.state_dict() == {"epoch": 4, "batch": 0}
