"""What a long Q costs: the contrast against it, forwards and backwards, and its update."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from tcc_fast.bench.parts import clock
from tcc_fast.bench.rounds import Pace
from tcc_fast.method.losses import instance_log_likelihood
from tcc_fast.method.queues import MomentumQueue
from tcc_fast.settings import Config

LEAD = 3_000_000
"""Cycles that a GPU is kept busy before each time, about 1.5 ms: what is timed is launched by then."""


def queue_milliseconds(config: Config, device: torch.device, compiled: bool, repeats: int) -> list[float]:
    """Milliseconds of the contrast with Q and its update, of each of so many times, after a few others.

    Args:
        config: gives the batch B, d, J and τ.
        device: where.
        compiled: by torch.compile, as in training.
        repeats: how many.
    """
    batch, dim = config.train.batch_size, config.model.feature_dim
    queue = MomentumQueue(config.queue.instance_length, dim).to(device)
    generator = torch.Generator(device).manual_seed(0)

    def representations(count: int) -> torch.Tensor:
        return F.normalize(torch.randn(count, dim, generator=generator, device=device), dim=1)

    queue.enqueue_no_sync(representations(queue.length))
    e, e_hat = representations(batch).requires_grad_(), representations(batch)

    def contrast(e: torch.Tensor, e_hat: torch.Tensor) -> torch.Tensor:
        return instance_log_likelihood(e, e_hat, queue.keys, config.loss.temperature, queue.valid).mean()

    options = {"fullgraph": True, "dynamic": False}
    loss = torch.compile(contrast, **options) if compiled else contrast  # type: ignore[call-overload]
    enqueue = torch.compile(queue.enqueue_no_sync, **options) if compiled else queue.enqueue_no_sync  # type: ignore[call-overload]
    meter, pace = clock(device), Pace(device)
    warm_up = 5
    for _ in range(warm_up + repeats):
        if device.type == "cuda":
            torch.cuda._sleep(LEAD)
        meter.start()
        e.grad = None
        loss(e, e_hat).backward()
        enqueue(e_hat)
        meter.mark("queue")
        pace()
    return [one["queue"] for one in meter.read()[warm_up:]]
