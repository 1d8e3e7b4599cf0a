"""A few steps of a run, continued by whatever number of processes this is launched with; writes what Q held.

``accelerate launch --num_processes N tests/elastic.py DATA FOLDER STEPS``: FOLDER/step-S.safetensors gets the keys that
are negatives after loading step S and before anything else, and those after the steps done here.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from tcc_fast.checkpoint import list_checkpoints, read_state
from tcc_fast.config import Config, load_config
from tcc_fast.distributed import gather
from tcc_fast.session import Session, open_session
from tests.conftest import TINY


def settings() -> Config:
    # Small steps of SGD: larger ones, or those of Adam, blow rounding up to a different run.
    plain = ["optim.name=sgd", "optim.lr=0.003", "optim.weight_decay=0"]
    return load_config(
        "digits", [*TINY, *plain, "start.method=none", "queue.instance_length=700", "train.batch_size=240"]
    )


def negatives(session: Session) -> Tensor:
    """The keys that count, oldest first."""
    queue = session.training.queues.instance
    numbers, keys = gather(queue.numbers.masked_fill(~queue.valid, -1)), gather(queue.keys)
    order = numbers.argsort()
    return keys[order[numbers[order] >= 0]].clone()


def go_on(data: Path, folder: Path, steps: int) -> None:
    config, checkpoints = settings(), list_checkpoints(folder)
    saved = read_state(checkpoints[-1]) if checkpoints else None
    session = open_session(config, data, folder)
    if saved:
        session.load(checkpoints[-1], saved)
    start, before = session.step, negatives(session)
    done = 0
    while done < steps:
        for batch in session.pipeline:
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
    session.accelerator.end_training()


if __name__ == "__main__":
    torch.set_num_threads(1)
    go_on(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
