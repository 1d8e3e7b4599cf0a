"""What `tcc_fast.batch` promises, of every backend."""

from __future__ import annotations

import dataclasses
import itertools
import multiprocessing
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
import torch
from scipy import stats

from tcc_fast.batch import Batch
from tcc_fast.datasets import Dataset, open_dataset
from tcc_fast.pipelines import RankShare, open_pipeline
from tcc_fast.pipelines.order import EpochOrder
from tcc_fast.settings import Config

Backend = tuple[Any, ...]
"""Name, workers, and the cache of `ffcv`."""
RESIDENT, TORCH, DALI, FFCV = ("resident", 1), ("torch", 0), ("dali", 1), ("ffcv", 1)
RESIDENT_2, TORCH_2, DALI_2, FFCV_2 = ("resident", 2), ("torch", 2), ("dali", 2), ("ffcv", 2)
FFCV_PROCESS = ("ffcv", 1, "process")


def name_of(backend: Backend) -> str:
    return "-".join(map(str, backend))


every_backend = pytest.mark.parametrize(
    "backend", [RESIDENT, TORCH, TORCH_2, DALI, DALI_2, FFCV, FFCV_2, FFCV_PROCESS], ids=name_of
)
each_kind = pytest.mark.parametrize("backend", [RESIDENT, TORCH, DALI, FFCV], ids=name_of)
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
    pipeline: Any, photos: Path, backend: Backend, device: str
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


@every_backend
def test_images_come_in_the_order_of_the_epoch(pipeline: Any, photos: Path, backend: Backend) -> None:
    order = EpochOrder(range(46), 8, 3, RankShare())
    expected = [[order.indices(epoch, batch).tolist() for batch in range(5)] for epoch in range(2)]
    assert expected[0] != expected[1]
    made = pipeline(photos, *backend)
    assert [[batch.index.tolist() for batch in made] for _ in range(2)] == expected


@each_kind
def test_a_split_has_its_own_images_and_no_others(pipeline: Any, photos: Path, backend: Backend) -> None:
    dataset = open_dataset(photos, verify=False)
    dataset.manifest = dataclasses.replace(dataset.manifest, splits={"late": (20, 44), "all": (0, 46)})
    made = pipeline(dataset, *backend, split="late")
    assert made.batches_per_epoch == 3  # of 8 from 24
    found = by_index(list(made))
    assert set(found) == set(range(20, 44))
    for index, views in by_index(list(pipeline(dataset, *backend))).items():  # an image's views are its own
        for view, same_view in zip(views, found.get(index, ()), strict=False):
            torch.testing.assert_close(view, same_view, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match=r"has no split 'test': it has late, all"):
        pipeline(dataset, *backend, split="test")


@each_kind
@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_share_the_same_global_batches(pipeline: Any, photos: Path, backend: Backend, ranks: int) -> None:
    alone = list(pipeline(photos, *backend))
    parts = [list(pipeline(photos, *backend, rank_share=RankShare(rank, ranks))) for rank in range(ranks)]
    together = [joined(list(step)) for step in zip(*parts, strict=True)]
    assert len(together) == len(alone)
    for found, expected in zip(together, alone, strict=True):
        assert torch.equal(found.index, expected.index)
        torch.testing.assert_close(found.view_1, expected.view_1, rtol=0, atol=1e-5)
        torch.testing.assert_close(found.view_2, expected.view_2, rtol=0, atol=1e-5)


@every_backend
@pytest.mark.parametrize("done", [0, 2, 5])
def test_a_resumed_epoch_goes_on_bit_by_bit(pipeline: Any, photos: Path, backend: Backend, done: int) -> None:
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
def test_set_epoch_goes_to_the_start_of_any_epoch(pipeline: Any, photos: Path, backend: Backend) -> None:
    made = pipeline(photos, *backend)
    epochs = [list(made) for _ in range(3)]
    assert not same(epochs[0][0], epochs[2][0])
    assert next(itertools.islice(made, 1, None)) is not None  # left half-way
    made.set_epoch(2)
    assert same_batches(list(made), epochs[2])
    made.set_epoch(0)
    assert same_batches(list(made), epochs[0])


@every_backend
def test_an_epoch_that_was_left_is_continued(pipeline: Any, photos: Path, backend: Backend) -> None:
    whole = list(pipeline(photos, *backend))
    made = pipeline(photos, *backend)
    first = list(itertools.islice(made, 2))
    assert same_batches(first + list(made), whole)


@pytest.mark.parametrize(
    ("one", "other"),
    [(RESIDENT, RESIDENT_2), (TORCH, TORCH_2), (DALI, DALI_2), (FFCV, FFCV_2), (FFCV, FFCV_PROCESS)],
    ids=name_of,
)
def test_neither_workers_nor_caches_change_anything(pipeline: Any, photos: Path, one: Backend, other: Backend) -> None:
    alone, helped = pipeline(photos, *one), pipeline(photos, *other)
    for _ in range(2):
        assert same_batches(list(alone), list(helped))


@each_kind
def test_views_depend_on_seed_epoch_image_and_view_alone(pipeline: Any, photos: Path, backend: Backend) -> None:
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


@each_kind
def test_global_random_generators_are_left_alone(pipeline: Any, photos: Path, backend: Backend) -> None:
    def states() -> list[str]:
        return [str(torch.get_rng_state().tolist()), str(np.random.get_state()), str(random.getstate())]  # noqa: NPY002

    before = states()
    made = pipeline(photos, *backend)
    list(made)
    made.close()
    assert states() == before
    torch.rand(1), np.random.rand(1), random.random()  # noqa: NPY002
    assert not any(one == other for one, other in zip(states(), before, strict=True))


@pytest.fixture
def torch_threads() -> Iterator[int]:
    """Torch has one thread more than numba, so that whoever sets the one by the other is seen."""
    before = torch.get_num_threads()
    torch.set_num_threads(numba.config.NUMBA_NUM_THREADS + 1)
    yield torch.get_num_threads()
    torch.set_num_threads(before)


@every_backend
def test_torch_keeps_its_threads(pipeline: Any, photos: Path, backend: Backend, torch_threads: int) -> None:
    """In this thread, and in those that begin later: torch keeps a number for each of the two."""

    def found() -> tuple[int, int]:
        with ThreadPoolExecutor(1) as another:
            return torch.get_num_threads(), another.submit(torch.get_num_threads).result()

    assert found() == (torch_threads, torch_threads)
    made = pipeline(photos, *backend)
    assert found() == (torch_threads, torch_threads)
    list(made)
    assert found() == (torch_threads, torch_threads)
    made.close()
    assert found() == (torch_threads, torch_threads)


@every_backend
def test_dtype_is_that_of_the_views(pipeline: Any, photos: Path, backend: Backend) -> None:
    full = next(iter(pipeline(photos, *backend)))
    for dtype in (torch.bfloat16, torch.float16):
        half = next(iter(pipeline(photos, *backend, dtype=dtype)))
        for name in ("view_1", "view_2"):
            found = getattr(half, name)
            assert found.dtype == dtype
            assert found.is_contiguous(memory_format=torch.channels_last)
            assert torch.equal(found, getattr(full, name).to(dtype))


@every_backend
def test_batches_are_the_callers_to_keep(pipeline: Any, photos: Path, backend: Backend) -> None:
    """Or a part of a view of one: memory may be written into again only when nobody holds any of it."""
    made = pipeline(photos, *backend)
    parts, copies = [], []
    for _ in range(3):
        for number, batch in enumerate(made):
            kept = (batch.view_1, batch.view_2[3:], batch.index) if number % 2 else (batch.view_2[1, 2].view(-1),)
            parts += kept
            copies += [part.clone() for part in kept]
    del batch
    made.close()
    assert all(torch.equal(part, copy) for part, copy in zip(parts, copies, strict=True))


@every_backend
def test_close_leaves_nothing_behind_and_may_be_called_twice(pipeline: Any, photos: Path, backend: Backend) -> None:
    processes, threads = multiprocessing.active_children(), threading.enumerate()
    made = pipeline(photos, *backend)
    iterator = iter(made)
    next(iterator)
    assert bool(set(multiprocessing.active_children()) - set(processes)) == (backend == TORCH_2)
    assert bool(set(threading.enumerate()) - set(threads)) == (backend not in (TORCH, RESIDENT))
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
        raise OSError("input/output error")

    monkeypatch.setattr(Dataset, "decode", fail)
    before = multiprocessing.active_children()
    made = pipeline(photos, *TORCH_2)
    with pytest.raises(OSError, match="input/output error") as caught:
        list(made)
    made.close()
    assert multiprocessing.active_children() == before
    assert caught.traceback  # it still refers to the iterator


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=str)
def test_workers_outlive_what_announces_a_checkpoint(pipeline: Any, photos: Path, number: int) -> None:
    """Launchers and terminals send it to all processes of a run."""
    before = set(multiprocessing.active_children())
    expected = list(pipeline(photos, *TORCH_2))
    made = pipeline(photos, *TORCH_2)
    iterator = iter(made)
    found = [next(iterator), next(iterator)]  # both workers are at work
    for worker in set(multiprocessing.active_children()) - before:
        os.kill(worker.pid, number)
    time.sleep(0.2)
    found += iterator
    assert same_batches(found, expected)


@every_backend
def test_an_unused_pipeline_can_be_closed(pipeline: Any, photos: Path, backend: Backend) -> None:
    threads = threading.enumerate()
    made = pipeline(photos, *backend)
    made.close()
    made.close()
    assert not set(threading.enumerate()) - set(threads)


@every_backend
def test_no_pipeline_opens_a_label(
    pipeline: Any, photos: Path, backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Dataset) -> None:
        raise AssertionError("a pipeline asked for labels")

    shutil.copytree(photos, tmp_path / "packed")
    dataset = open_dataset(tmp_path / "packed")
    assert dataset.labels() is not None
    (tmp_path / "packed" / "labels.csv").unlink()  # also out of the workers' reach
    monkeypatch.setattr(Dataset, "labels", refuse)
    assert len(list(pipeline(dataset, *backend))) == 5


@each_kind
def test_digits_go_through(pipeline: Any, digits: Path, backend: Backend) -> None:
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


@pytest.fixture(scope="module")
def reference_views(frames: Path, configure: Callable[..., Config]) -> Iterator[torch.Tensor]:
    """By torchvision's own transforms, on PIL images."""
    made = open_pipeline(open_dataset(frames), configure("torch"), torch.device("cpu"))
    yield many_views(made)
    made.close()


def differing(some: torch.Tensor, others: torch.Tensor) -> set[str]:
    """The statistics that tell the two apart."""
    return {
        name
        for name, statistic in STATISTICS.items()
        if stats.ks_2samp(statistic(some), statistic(others), method="asymp").pvalue < LEVEL
    }


@pytest.mark.parametrize("backend", [RESIDENT, DALI, FFCV], ids=name_of)
def test_views_are_distributed_as_those_of_torchvision(
    pipeline: Any, frames: Path, backend: Backend, reference_views: torch.Tensor
) -> None:
    """2 x 960 views, Kolmogorov-Smirnov at level 1e-4 for each of 7 statistics: a distribution function that is off
    by 0.16 at a single point is found with probability 0.997 (simulated). It sees what tests of the parts cannot: the
    order of operations, and that each acts on the view it is meant for."""
    ours = many_views(pipeline(frames, *backend))
    assert len(reference_views) == len(ours) == 960
    assert differing(reference_views, ours) == set()
    wrong = many_views(pipeline(frames, *backend, augment={"grey": 0.4, "zoom": (0.8, 1.0)}))
    assert differing(reference_views, wrong) >= {"colour", "detail"}
