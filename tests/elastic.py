"""A few steps of a run, continued by whatever number of processes this is launched with; writes what Q held.

``accelerate launch --num_processes N tests/elastic.py DATA FOLDER STEPS COMPILE``: FOLDER/step-S.safetensors gets the
keys that are negatives after loading step S and before anything else, and those after the steps done here. COMPILE is
`on` or `off`.

All of it in double precision: in single precision a change of 1e-7 in the weights grows to 5e-3 in the keys within
twelve steps, by as much as another order of summation makes. And with a start that decides nothing: one image that
rounding hands to another cluster of a k-means moves the keys by 1e-3.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import save_file
from torch import Tensor

from tcc_fast.config import load_config
from tcc_fast.distributed import gather, leave
from tcc_fast.method.compiled_step import CompiledStep
from tcc_fast.pipelines.decoded import whole_views
from tcc_fast.runs.checkpoint_folder import list_checkpoints
from tcc_fast.runs.run_state import read_state
from tcc_fast.session import Session, open_session
from tcc_fast.settings import Config
from tests.conftest import TINY


def settings(compiling: str) -> Config:
    start = ["start.method=kmeans", "start.at=0.5"]  # after step 7, where the second of two epochs begins
    sizes = ["queue.instance_length=700", "train.batch_size=240"]
    return load_config("digits", [*TINY, *start, *sizes, f"train.compile={compiling}"])


def some_means(features: Tensor, num_clusters: int, *_: Any) -> Tensor:
    """Centres that follow the features smoothly, where those of a method may jump: the mean of every K-th image."""
    return torch.stack([features[k::num_clusters].double().mean(dim=0) for k in range(num_clusters)])


@contextmanager
def double_precision() -> Iterator[None]:
    """New parameters are float64, and so are the whole images that a start looks at."""

    def in_double(*arguments: Any) -> Iterator[Tensor]:
        return (views.double() for views in whole_views(*arguments))

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with (
            patch("tcc_fast.evaluation.embed.whole_views", in_double),
            patch("tcc_fast.session.find_centres", some_means),
            patch.dict("tcc_fast.session.STEPS", {"on": partial(CompiledStep, backend="eager")}),
        ):
            yield
    finally:
        torch.set_default_dtype(before)


def negatives(session: Session) -> Tensor:
    """The keys that count, oldest first."""
    queue = session.training.queues.instance
    numbers, keys = gather(queue.numbers.masked_fill(~queue.valid, -1)), gather(queue.keys)
    order = numbers.argsort()
    return keys[order[numbers[order] >= 0]].clone()


def go_on(data: Path, folder: Path, steps: int, compiling: str = "off") -> None:
    with double_precision():
        _go_on(data, folder, steps, compiling)
    leave()


def _go_on(data: Path, folder: Path, steps: int, compiling: str) -> None:
    config, checkpoints = settings(compiling), list_checkpoints(folder)
    saved = read_state(checkpoints[-1]) if checkpoints else None
    session = open_session(config, data, folder)
    session.training.queues.instance.double()
    session.training.queues.cluster.double()
    if saved:
        session.load(checkpoints[-1], saved)
    start, before = session.step, negatives(session)
    done = 0
    while done < steps:
        for batch in session.pipeline:
            if session.step == session.training_step.start_step:
                session.start_prototypes()
            batch = replace(batch, view_1=batch.view_1.double(), view_2=batch.view_2.double())
            session.training_step(batch, session.step)
            session.step += 1
            done += 1
            if done == steps:
                break
    after = negatives(session)
    if session.accelerator.is_main_process:
        save_file({"before": before, "after": after}, folder / f"step-{start}.safetensors")
    session.save(folder, {}, None)
    session.pipeline.close()


if __name__ == "__main__":
    torch.set_num_threads(1)
    go_on(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
    os._exit(0)  # as `python -m tcc_fast` does, and for the same reason
