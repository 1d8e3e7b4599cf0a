"""The ring buffer of past momentum representations: P (cluster level, whole at every rank) and Q (instance level, in
shards)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class MomentumQueue(nn.Module):
    """The last ``length`` keys, oldest overwritten first; those of several ranks lie each at the rank that made it.

    Position and fill are a tensor on the queue's device: nothing waits for the device, and it is saved with the keys.

    Keys are numbered as a single process would write them: in the step t, those of rank r are t B + r b .. + b, with
    the global batch B = W b. What is valid is decided by number, so the shards together always hold exactly the keys
    that one queue would hold. Where a key lies follows from its number, so only the keys and their count are state.

    A shard has room for J / W keys, rounded up so that it is a multiple of b.

    Args:
        length: J, over all ranks.
        dim: d.
        dtype: of the keys.
        rank: r.
        ranks: W.
        share: b, keys of this rank in each step; a single rank may write any number.
    """

    keys: Tensor
    """(C, d), this rank's shard."""
    written: Tensor
    """() int64: keys ever written, by all ranks together."""

    def __init__(
        self,
        length: int,
        dim: int,
        dtype: torch.dtype = torch.float32,
        rank: int = 0,
        ranks: int = 1,
        share: int | None = None,
    ) -> None:
        super().__init__()
        assert ranks == 1 or share, "several ranks write equal shares"
        self.length, self.rank, self.ranks, self.share = length, rank, ranks, share or 1
        capacity = length if ranks == 1 else -(-length // (ranks * self.share)) * self.share
        self.register_buffer("keys", torch.zeros(capacity, dim, dtype=dtype))
        self.register_buffer("written", torch.zeros((), dtype=torch.int64))

    @property
    def numbers(self) -> Tensor:
        """Number of the key in each slot, (C,) int64; negative where there is none."""
        capacity = len(self.keys)
        own = self.written // self.ranks  # keys that this rank has written
        slot = torch.arange(capacity, device=self.keys.device)
        last_round = own - 1 - torch.remainder(own - 1 - slot, capacity)  # newest own ordinal in the slot
        return torch.where(last_round < 0, -1, self._number(last_round))

    def _number(self, own: Tensor) -> Tensor:
        """The number of the keys that this rank writes as its own-th."""
        if self.ranks == 1:
            return own
        step, place = own // self.share, own % self.share
        return step * (self.ranks * self.share) + self.rank * self.share + place

    @property
    def valid(self) -> Tensor:
        """Which slots hold one of the last ``length`` keys, (C,) bool."""
        return self.numbers >= (self.written - self.length).clamp(min=0)

    @torch.no_grad()
    def enqueue_no_sync(self, keys: Tensor) -> None:
        """Write this rank's keys (b, d), while the other ranks write theirs; of more than fit the last ones remain."""
        count = len(keys)
        assert self.ranks == 1 or count == self.share, f"{count} keys where each rank writes {self.share}"
        capacity = len(self.keys)
        skipped = max(0, count - capacity)
        slots = (self.written // self.ranks + torch.arange(skipped, count, device=self.keys.device)) % capacity
        self.keys.index_copy_(0, slots, keys[skipped:].to(self.keys.dtype))
        self.written.add_(count * self.ranks)

    @torch.no_grad()
    def restore(self, shards: Iterable[tuple[Tensor, Tensor]], written: Tensor) -> None:
        """Take over a queue from shards of any number of ranks, one at a time, so that Q is never whole in memory.

        Args:
            shards: (n,) int64 numbers of the keys, negative where there is none, and (n, d) keys; in any order,
                together at least those that are valid.
            written: () int64.

        Raises:
            ValueError: a key that counts is not among them.
        """
        self.keys.zero_()
        self.written.copy_(written)
        wanted = self.numbers
        found = wanted < 0
        for numbers, keys in shards:
            numbers, order = numbers.to(self.keys.device).sort()
            place = torch.searchsorted(numbers, wanted).clamp(max=len(numbers) - 1)
            here = (numbers[place] == wanted) & (wanted >= 0)
            self.keys[here] = keys[order[place[here]].to(keys.device)].to(self.keys)
            found |= here
        if not bool((found | ~self.valid).all()):
            raise ValueError("keys of Q are missing")
