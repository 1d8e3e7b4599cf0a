"""What `tcc_fast.batch` promises, of every backend."""

from __future__ import annotations

import dataclasses
import itertools
import multiprocessing
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from tcc_fast.batch import Batch
from tcc_fast.datasets import Dataset, open_dataset
from tcc_fast.pipelines import Shard
from tcc_fast.pipelines.order import EpochOrder

RESIDENT, TORCH, TORCH_2 = ("resident",), ("torch", 0), ("torch", 2)
every_backend = pytest.mark.parametrize(
    "backend", [RESIDENT, TORCH, TORCH_2], ids=["resident", "torch", "torch-2-workers"]
)
both_backends = pytest.mark.parametrize("backend", [RESIDENT, TORCH], ids=["resident", "torch"])
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def same(one: Batch, other: Batch) -> bool:
    """Bit by bit."""
    return all(torch.equal(getattr(one, field.name), getattr(other, field.name)) for field in dataclasses.fields(Batch))


def same_batches(some: list[Batch], others: list[Batch]) -> bool:
    return len(some) == len(others) and all(itertools.starmap(same, zip(some, others, strict=True)))


def joined(parts: list[Batch]) -> Batch:
    """The global batch of all ranks' parts."""
    return Batch(*(torch.cat([getattr(part, field.name) for part in parts]) for field in dataclasses.fields(Batch)))


def by_index(batches: list[Batch]) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
    return {
        int(i): views for batch in batches for i, *views in zip(batch.index, batch.view_1, batch.view_2, strict=True)
    }


def test_a_batch_has_no_place_for_a_label() -> None:
    assert [field.name for field in dataclasses.fields(Batch)] == ["view_1", "view_2", "index"]


@every_backend
@pytest.mark.parametrize("device", DEVICES)
def test_epochs_are_equally_long_and_visit_no_image_twice(
    pipeline: Any, photos: Path, backend: tuple[Any, ...], device: str
) -> None:
    made = pipeline(photos, *backend, device=device)
    dropped = []
    assert made.batches_per_epoch == 5  # of 8 from 46
    for epoch in range(3):
        assert made.state_dict() == {"epoch": epoch, "batch": 0}
        batches = list(made)
        assert len(batches) == 5
        for batch in batches:
            assert batch.index.shape == (8,)
            assert batch.index.dtype == torch.int64
            assert batch.index.device.type == device
            for view in (batch.view_1, batch.view_2):
                assert view.shape == (8, 3, 16, 16)
                assert view.dtype == torch.float32
                assert view.device.type == device
                assert view.is_contiguous(memory_format=torch.channels_last)
                assert view.isfinite().all()
                assert not view.requires_grad
        visited = torch.cat([batch.index for batch in batches]).tolist()
        assert len(set(visited)) == 40
        assert set(visited) <= set(range(46))
        dropped.append(set(range(46)) - set(visited))
    assert dropped[0] != dropped[1] != dropped[2]


def test_all_backends_have_the_order_of_the_epoch(pipeline: Any, photos: Path) -> None:
    order = EpochOrder(46, 8, 3, Shard())
    expected = [[order.indices(epoch, batch).tolist() for batch in range(5)] for epoch in range(2)]
    assert expected[0] != expected[1]
    for backend in (RESIDENT, TORCH, TORCH_2):
        made = pipeline(photos, *backend)
        assert [[batch.index.tolist() for batch in made] for _ in range(2)] == expected


@both_backends
@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_share_the_same_global_batches(pipeline: Any, photos: Path, backend: tuple[Any, ...], ranks: int) -> None:
    alone = list(pipeline(photos, *backend))
    parts = [list(pipeline(photos, *backend, shard=Shard(rank, ranks))) for rank in range(ranks)]
    together = [joined(list(step)) for step in zip(*parts, strict=True)]
    assert len(together) == len(alone)
    for found, expected in zip(together, alone, strict=True):
        assert torch.equal(found.index, expected.index)
        torch.testing.assert_close(found.view_1, expected.view_1, rtol=0, atol=1e-5)
        torch.testing.assert_close(found.view_2, expected.view_2, rtol=0, atol=1e-5)


@every_backend
@pytest.mark.parametrize("done", [0, 2, 5])
def test_a_resumed_epoch_goes_on_bit_by_bit(pipeline: Any, photos: Path, backend: tuple[Any, ...], done: int) -> None:
    whole = pipeline(photos, *backend)
    whole.set_epoch(1)
    iterator = iter(whole)
    for _ in range(done):
        next(iterator)
    state = whole.state_dict()
    assert state == {"epoch": 1, "batch": done}
    rest = list(iterator)
    following = next(iter(whole))

    resumed = pipeline(photos, *backend)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    assert same_batches(list(resumed), rest)
    assert len(rest) == 5 - done
    assert resumed.state_dict() == {"epoch": 2, "batch": 0}
    assert same(next(iter(resumed)), following)


@every_backend
def test_set_epoch_goes_to_the_start_of_any_epoch(pipeline: Any, photos: Path, backend: tuple[Any, ...]) -> None:
    made = pipeline(photos, *backend)
    epochs = [list(made) for _ in range(3)]
    assert not same(epochs[0][0], epochs[2][0])
    assert next(itertools.islice(made, 1, None)) is not None  # left half-way
    made.set_epoch(2)
    assert same_batches(list(made), epochs[2])
    made.set_epoch(0)
    assert same_batches(list(made), epochs[0])


@every_backend
def test_an_epoch_that_was_left_is_continued(pipeline: Any, photos: Path, backend: tuple[Any, ...]) -> None:
    whole = list(pipeline(photos, *backend))
    made = pipeline(photos, *backend)
    first = list(itertools.islice(made, 2))
    assert same_batches(first + list(made), whole)


def test_workers_change_nothing(pipeline: Any, photos: Path) -> None:
    alone, helped = pipeline(photos, *TORCH), pipeline(photos, *TORCH_2)
    for _ in range(2):
        assert same_batches(list(alone), list(helped))


@both_backends
def test_views_depend_on_seed_epoch_image_and_view_alone(pipeline: Any, photos: Path, backend: tuple[Any, ...]) -> None:
    made = pipeline(photos, *backend)
    first, second = by_index(list(made)), by_index(list(made))
    in_other_company = by_index(list(pipeline(photos, *backend, batch_size=11)))
    other_seed = by_index(list(pipeline(photos, *backend, seed=4)))
    shared = set(first) & set(second) & set(in_other_company) & set(other_seed)
    assert len(shared) > 20
    for index in shared:
        view_1, view_2 = first[index]
        torch.testing.assert_close(view_1, in_other_company[index][0], rtol=0, atol=1e-5)
        torch.testing.assert_close(view_2, in_other_company[index][1], rtol=0, atol=1e-5)
        assert (view_1 - view_2).abs().mean() > 1e-2
        for other in (second, other_seed):
            assert (view_1 - other[index][0]).abs().mean() > 1e-2
            assert (view_2 - other[index][1]).abs().mean() > 1e-2


@both_backends
def test_global_random_generators_are_left_alone(pipeline: Any, photos: Path, backend: tuple[Any, ...]) -> None:
    def state() -> tuple[bytes, bytes]:
        return torch.get_rng_state().numpy().tobytes(), np.random.get_state()[1].tobytes()  # noqa: NPY002

    before = state()
    list(pipeline(photos, *backend))
    assert state() == before
    torch.rand(1)
    assert state() != before


@every_backend
def test_dtype_is_that_of_the_views(pipeline: Any, photos: Path, backend: tuple[Any, ...]) -> None:
    full = next(iter(pipeline(photos, *backend)))
    half = next(iter(pipeline(photos, *backend, dtype=torch.bfloat16)))
    for name in ("view_1", "view_2"):
        found = getattr(half, name)
        assert found.dtype == torch.bfloat16
        assert found.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(found, getattr(full, name).bfloat16())


@every_backend
def test_close_leaves_nothing_behind_and_may_be_called_twice(
    pipeline: Any, photos: Path, backend: tuple[Any, ...]
) -> None:
    processes, threads = multiprocessing.active_children(), threading.enumerate()
    made = pipeline(photos, *backend)
    iterator = iter(made)
    next(iterator)
    assert bool(set(multiprocessing.active_children()) - set(processes)) == (backend == TORCH_2)
    made.close()  # with `iterator` half used and still referred to
    assert not set(multiprocessing.active_children()) - set(processes)
    made.close()
    patience = time.monotonic() + 30  # threads that fed the workers' queues see by themselves that these are closed
    while set(threading.enumerate()) - set(threads) and time.monotonic() < patience:
        time.sleep(0.01)
    assert not set(threading.enumerate()) - set(threads)  # one of an earlier test may have ended meanwhile
    del iterator


def test_close_ends_the_workers_after_one_has_failed(
    pipeline: Any, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Dataset, index: int) -> np.ndarray:
        raise ValueError(f"image {index} cannot be decoded")

    monkeypatch.setattr(Dataset, "decode", fail)
    before = multiprocessing.active_children()
    made = pipeline(photos, *TORCH_2)
    with pytest.raises(ValueError, match="cannot be decoded") as caught:
        list(made)
    made.close()
    assert multiprocessing.active_children() == before
    assert caught.traceback  # it still refers to the iterator


def test_an_unused_pipeline_can_be_closed(pipeline: Any, photos: Path) -> None:
    for backend in (RESIDENT, TORCH, TORCH_2):
        pipeline(photos, *backend).close()


@every_backend
def test_no_pipeline_opens_a_label(
    pipeline: Any, photos: Path, backend: tuple[Any, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Dataset) -> None:
        raise AssertionError("a pipeline asked for labels")

    shutil.copytree(photos, tmp_path / "packed")
    dataset = open_dataset(tmp_path / "packed")
    assert dataset.labels() is not None
    (tmp_path / "packed" / "labels.csv").unlink()  # also out of the workers' reach
    monkeypatch.setattr(Dataset, "labels", refuse)
    assert len(list(pipeline(dataset, *backend))) == 5


@both_backends
def test_digits_go_through(pipeline: Any, digits: Path, backend: tuple[Any, ...]) -> None:
    made = pipeline(digits, *backend, batch_size=256, image_size=8)
    assert made.batches_per_epoch == 7
    batch = next(iter(made))
    assert batch.view_1.shape == (256, 3, 8, 8)


# The backends against each other.

STATISTICS = {
    "red": lambda v: v[:, 0].mean((1, 2)),
    "blue": lambda v: v[:, 2].mean((1, 2)),
    "contrast": lambda v: v.std((1, 2, 3)),
    "colour": lambda v: (v.amax(1) - v.amin(1)).mean((1, 2)),
    "left to right": lambda v: v[..., 8:].mean((1, 2, 3)) - v[..., :8].mean((1, 2, 3)),
    "top to bottom": lambda v: v[..., 8:, :].mean((1, 2, 3)) - v[..., :8, :].mean((1, 2, 3)),
    "detail": lambda v: v.diff(dim=3).abs().mean((1, 2, 3)) + v.diff(dim=2).abs().mean((1, 2, 3)),
}
LEVEL = 1e-4


def many_views(made: Any) -> torch.Tensor:
    batches = [batch for _ in range(20) for batch in made]
    return torch.cat([view for batch in batches for view in (batch.view_1, batch.view_2)])


def test_views_of_both_backends_are_distributed_alike(pipeline: Any, frames: Path) -> None:
    """2 x 960 views, Kolmogorov-Smirnov at level 1e-4 for each of 7 statistics: distances above 0.102 are found.
    It sees what tests of the parts cannot: the order of operations, and that each acts on the view it is meant for."""
    theirs, ours = many_views(pipeline(frames, *TORCH)), many_views(pipeline(frames, *RESIDENT))
    assert len(theirs) == len(ours) == 960
    wrong = many_views(pipeline(frames, *RESIDENT, augment={"grey": 0.4, "zoom": (0.8, 1.0)}))
    found = set()
    for name, statistic in STATISTICS.items():
        assert stats.ks_2samp(statistic(theirs), statistic(ours), method="asymp").pvalue > LEVEL, name
        if stats.ks_2samp(statistic(theirs), statistic(wrong), method="asymp").pvalue < LEVEL:
            found.add(name)
    assert found >= {"colour", "detail"}
