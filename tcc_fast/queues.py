"""Ring buffers of past momentum representations: P (cluster level) and Q (instance level)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MomentumQueue(nn.Module):
    """The last ``length`` keys, oldest overwritten first.

    Position and fill are tensors on the queue's device: nothing waits for the device, and both are saved with
    the keys. Any number of keys may be written at a time; the write wraps exactly.
    """

    keys: Tensor
    """(length, d)."""
    written: Tensor
    """() int64: keys ever written. The next one goes to ``written % length``."""

    def __init__(self, length: int, dim: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.length = length
        self.register_buffer("keys", torch.zeros(length, dim, dtype=dtype))
        self.register_buffer("written", torch.zeros((), dtype=torch.int64))

    @property
    def filled(self) -> Tensor:
        """() int64: entries that hold a key; they are the first ones, since filling starts at 0."""
        return self.written.clamp(max=self.length)

    @torch.no_grad()
    def enqueue_no_sync(self, keys: Tensor) -> None:
        """Write keys (n, d), n of any size; of more than ``length`` the last ones remain."""
        count = len(keys)
        skipped = max(0, count - self.length)
        slots = torch.arange(skipped, count, device=self.keys.device)
        slots = (self.written + slots) % self.length
        self.keys.index_copy_(0, slots, keys[skipped:].to(self.keys.dtype))
        self.written += count
