"""Accelerate as the user's launcher has set it up, as far as it goes with what is trained."""

from __future__ import annotations

import os
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import DistributedType, DynamoBackend

from tcc_fast.precision import Precision
from tcc_fast.settings import Config


def open_accelerator(config: Config, run: Path) -> Accelerator:
    """Accelerate for this run.

    Raises:
        ValueError: what it was told by its launcher, by `accelerate config` or by other code here would make another
            step; says what to do.
    """
    try:
        accelerator = Accelerator(
            mixed_precision="no",  # the step has its own autocast, and its own scaler of gradients
            log_with="tensorboard" if config.train.tensorboard else None,
            project_dir=str(run),
        )
    except ValueError as error:
        if "already been initialized" not in str(error):
            raise
        raise ValueError(
            "this process has used Accelerate before, with a mixed_precision that holds as long as it lives, while "
            "tcc-fast computes in train.precision: train in a process of its own"
        ) from None
    if accelerator.gradient_accumulation_steps > 1:
        raise ValueError(
            "gradient accumulation is not there: both contrasts compare within the whole batch, and a part of it "
            "would be another method. Launch with more processes, or choose a smaller train.batch_size"
        )
    known = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
    if accelerator.distributed_type not in known:
        raise ValueError(
            f"{accelerator.distributed_type.value} is not supported: the networks are replicated. Launch with "
            "--multi_gpu, or choose no plugin in `accelerate config`"
        )
    if accelerator.state.dynamo_plugin.backend != DynamoBackend.NO:
        raise ValueError("launch with --dynamo_backend no: tcc-fast compiles its step itself, see train.compile")
    return accelerator


def ignored_precision(precision: Precision) -> str | None:
    """What a user should know who asked Accelerate for another precision."""
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if asked in ("no", precision):
        return None
    return f"{precision}: Accelerate's mixed_precision={asked} is not looked at, train.precision is"
