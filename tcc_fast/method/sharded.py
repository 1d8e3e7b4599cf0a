"""The log-sum-exp of every query against a queue that lies in shards, one at each rank.

Shapes: b queries of this rank, B = W b queries of all W ranks, C keys in this rank's shard, d dimensions.

The queries are gathered (they are few), each rank takes its partial sum over its own shard, and maximum and sum are
combined across ranks: O(B d) is sent and O(J / W) stored, and the result is that of the whole queue in one place.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from tcc_fast.distributed import gather, max_over_ranks_, own_part, total_over_ranks_


def sharded_logsumexp(queries: Tensor, keys: Tensor, valid: Tensor, temperature: float) -> Tensor:
    """log Σ_j exp(q_jᵀe / τ) over the valid keys of all ranks' shards; -inf where there is none.

    Args:
        queries: e, (b, d).
        keys: this rank's shard, (C, d); a constant.
        valid: (C,) bool, which of its entries count.
        temperature: τ.

    Returns:
        (b,), differentiable with respect to the queries of every rank.
    """
    result: Tensor = _ShardedLogSumExp.apply(queries, keys, valid, temperature)
    return result


class _ShardedLogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, valid: Tensor, temperature: float) -> Tensor:
        everyone = gather(queries)
        logits = (everyone @ keys.T / temperature).masked_fill(~valid, -math.inf)  # (B, C)
        highest = max_over_ranks_(logits.amax(dim=1))
        shift = highest.masked_fill(highest == -math.inf, 0.0)  # no valid key anywhere: log 0 below
        log_total = total_over_ranks_((logits - shift.unsqueeze(1)).exp().sum(dim=1)).log() + shift
        ctx.save_for_backward(everyone, keys, valid, log_total)
        ctx.temperature = temperature
        return own_part(log_total)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        everyone, keys, valid, log_total = ctx.saved_tensors
        weight = gather(gradients[0])  # (B,): the loss of every rank depends on its own queries alone
        logits = (everyone @ keys.T / ctx.temperature).masked_fill(~valid, -math.inf)
        shift = log_total.masked_fill(log_total == -math.inf, 0.0)
        softmax = (logits - shift.unsqueeze(1)).exp()
        partial = (weight.unsqueeze(1) * softmax) @ keys / ctx.temperature  # (B, d), over this shard
        return own_part(total_over_ranks_(partial)), None, None, None
