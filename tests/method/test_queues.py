"""The queues against a plain Python ring: exact wrap for any batch size, fill, saving, shards."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
import torch
from torch import Tensor

from tcc_fast.method.queues import MomentumQueue

DIM = 3


def numbered(start: int, count: int) -> Tensor:
    """Keys that say when they were written: row n is (n, n + 0.25, n + 0.5), from 1 on."""
    n = torch.arange(start, start + count, dtype=torch.float32).unsqueeze(1)
    return n + torch.tensor([0.0, 0.25, 0.5])


class PlainRing:
    """The same thing, one key at a time, in lists."""

    def __init__(self, length: int) -> None:
        self.length, self.written = length, 0
        self.slots = [[0.0] * DIM for _ in range(length)]
        self.newest: deque[list[float]] = deque(maxlen=length)

    def enqueue(self, keys: Tensor) -> None:
        for key in keys.tolist():
            self.slots[self.written % self.length] = key
            self.newest.append(key)
            self.written += 1


@pytest.mark.parametrize("length", [1, 2, 5, 7, 12, 64])
def test_any_sequence_of_batch_sizes(length):
    rng = np.random.default_rng(length)
    for _ in range(20):
        queue, ring, next_key = MomentumQueue(length, DIM), PlainRing(length), 1
        for count in rng.integers(0, 3 * length + 1, size=8).tolist():
            keys = numbered(next_key, count)
            queue.enqueue_no_sync(keys)
            ring.enqueue(keys)
            next_key += count
            assert queue.keys.tolist() == ring.slots
            assert queue.written.item() == ring.written
            filled = len(ring.newest)
            assert queue.valid.tolist() == [slot < filled for slot in range(length)]
            # What is filled is exactly the newest keys, and what is not was never touched.
            assert sorted(queue.keys[:filled].tolist()) == sorted(ring.newest)
            assert not queue.keys[filled:].any()


@pytest.mark.parametrize(("length", "batch"), [(7, 3), (8, 8), (10, 4), (5, 12), (384 * 2 + 1, 384)])
def test_one_batch_size_many_times(length, batch):
    queue, ring = MomentumQueue(length, DIM), PlainRing(length)
    for step in range(12):
        keys = numbered(1 + step * batch, batch)
        queue.enqueue_no_sync(keys)
        ring.enqueue(keys)
    assert queue.keys.tolist() == ring.slots


@pytest.mark.parametrize(("num_clusters", "multiple"), [(2, 1), (3, 4), (10, 20)])
def test_groups_of_k_keep_entry_l_of_cluster_l_mod_k(num_clusters, multiple):
    """What the indicator of (5) relies on, over several turns of P."""
    queue = MomentumQueue(num_clusters * multiple, 1)
    clusters = torch.arange(num_clusters, dtype=torch.float32).unsqueeze(1)
    for step in range(1, 3 * multiple + 2):
        queue.enqueue_no_sync(clusters)
        filled = num_clusters * min(step, multiple)
        assert torch.equal(queue.valid.nonzero().flatten(), torch.arange(filled))
        assert torch.equal(queue.keys[:filled, 0], torch.arange(filled) % num_clusters)


def test_state_dict_round_trip_continues_exactly():
    original, ring = MomentumQueue(7, DIM), PlainRing(7)
    for step in range(3):
        original.enqueue_no_sync(numbered(1 + 4 * step, 4))
        ring.enqueue(numbered(1 + 4 * step, 4))
    assert sorted(original.state_dict()) == ["keys", "written"]
    saved = {name: value.clone() for name, value in original.state_dict().items()}
    restored = MomentumQueue(7, DIM)
    restored.load_state_dict(saved)
    for queue in (original, restored):
        queue.enqueue_no_sync(numbered(13, 4))
    ring.enqueue(numbered(13, 4))
    assert restored.keys.tolist() == original.keys.tolist() == ring.slots
    assert restored.written.item() == 16


def test_a_new_queue_is_empty():
    queue = MomentumQueue(5, DIM)
    assert not queue.valid.any()
    assert queue.keys.shape == (5, DIM)
    assert list(queue.parameters()) == []


def test_position_is_int64_device_state():
    """2^31 keys are 131 000 batches of 16 384: a 32-bit counter would wrap to a negative position."""
    queue = MomentumQueue(5, DIM)
    assert queue.written.dtype == torch.int64
    queue.written.fill_(2**33 + 3)  # 2^33 mod 5 == 2, so the next key goes to slot 0
    queue.enqueue_no_sync(numbered(1, 1))
    assert queue.keys[0].tolist() == numbered(1, 1)[0].tolist()
    assert queue.valid.all()


def test_keys_are_stored_without_their_graph():
    queue = MomentumQueue(4, DIM)
    queue.enqueue_no_sync(numbered(1, 2).requires_grad_(True) * 2)
    assert not queue.keys.requires_grad
    assert queue.keys.grad_fn is None


def test_keys_are_copied_not_aliased():
    queue, keys = MomentumQueue(4, DIM), numbered(1, 2)
    queue.enqueue_no_sync(keys)
    keys.zero_()
    assert queue.keys[:2].tolist() == numbered(1, 2).tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_keys_take_the_type_of_the_queue(dtype):
    queue = MomentumQueue(4, DIM, dtype)
    queue.enqueue_no_sync(numbered(1, 2).double())
    assert queue.keys.dtype == dtype
    assert torch.equal(queue.keys[:2], numbered(1, 2).to(dtype))


def shards(length: int, ranks: int, batch: int) -> list[MomentumQueue]:
    return [MomentumQueue(length, DIM, torch.float32, rank, ranks, batch // ranks) for rank in range(ranks)]


def held(queues: list[MomentumQueue]) -> list[list[float]]:
    """The valid keys of all shards, oldest first."""
    numbers = torch.cat([queue.numbers[queue.valid] for queue in queues])
    return torch.cat([queue.keys[queue.valid] for queue in queues])[numbers.argsort()].tolist()


def enqueue(queues: list[MomentumQueue], keys: Tensor) -> None:
    for queue, part in zip(queues, keys.chunk(len(queues)), strict=True):
        queue.enqueue_no_sync(part)


@pytest.mark.parametrize("length", [1, 5, 11, 12, 13, 24, 30])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_shards_together_hold_what_one_queue_holds(length, ranks):
    queues, ring = shards(length, ranks, 12), PlainRing(length)
    for step in range(9):
        keys = numbered(1 + 12 * step, 12)
        enqueue(queues, keys)
        ring.enqueue(keys)
        assert held(queues) == list(ring.newest)


@pytest.mark.parametrize(("length", "batch"), [(64, 8), (60, 8), (8, 8)])
@pytest.mark.parametrize("ranks", [2, 4])
def test_a_shard_is_no_larger_than_its_part_rounded_up_to_batches(length, batch, ranks):
    part = batch // ranks
    for queue in shards(length, ranks, batch):
        assert len(queue.keys) == -(-length // batch) * part  # J / W when B divides J
        assert len(queue.keys) < length / ranks + part


@pytest.mark.parametrize("length", [5, 12, 30])
def test_another_number_of_ranks_takes_over_the_same_keys_and_goes_on(length):
    queues, ring = shards(length, 2, 12), PlainRing(length)
    step = 0
    for ranks in (1, 4, 2, 3):
        for _ in range(3):
            keys = numbered(1 + 12 * step, 12)
            enqueue(queues, keys)
            ring.enqueue(keys)
            step += 1
        saved, written = [(queue.numbers, queue.keys) for queue in queues], queues[0].written
        queues = shards(length, ranks, 12)
        for queue in queues:
            queue.restore(reversed(saved), written)
        assert held(queues) == list(ring.newest)
        for missing in range(len(saved)) if length >= 12 else ():  # a shorter queue may lie at one rank alone
            some = saved[:missing] + saved[missing + 1 :]
            with pytest.raises(ValueError, match="keys of Q are missing"):
                for queue in shards(length, ranks, 12):
                    queue.restore(some, written)
