"""Everything a training run needs, built in order from its settings: device, data, networks, queues, optimiser."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor

from tcc_fast.batch import Pipeline
from tcc_fast.compiling import compile_mode, why_not_compiled
from tcc_fast.cores import cpu_threads, local_processes
from tcc_fast.datasets import Dataset, open_dataset
from tcc_fast.distributed import decide, from_main_, keep_own_buffers, processes
from tcc_fast.evaluation.embed import embed
from tcc_fast.idle_gpu import idle_gpu
from tcc_fast.launch import ignored_precision, open_accelerator
from tcc_fast.method.batch_norm import average_running_statistics, share_batch_statistics
from tcc_fast.method.compiled_step import CompiledStep, GraphedStep
from tcc_fast.method.model import TCC, momentum_twin
from tcc_fast.method.optim import build_optimizer
from tcc_fast.method.own_encoder import check_encoder
from tcc_fast.method.start import evenly_spread, find_centres
from tcc_fast.method.step import TrainingStep, build_queues
from tcc_fast.pipelines import Choice, RankShare, choose_pipeline, open_pipeline
from tcc_fast.precision import Precision, resolve_precision, tune, why_this_precision
from tcc_fast.runs.checkpoint import load_training, save_checkpoint
from tcc_fast.runs.first_weights import find_init, take_weights
from tcc_fast.runs.run_state import RunState
from tcc_fast.runs.same_run import check_same_data, check_same_settings, describe_dataset
from tcc_fast.runs.training_tensors import Training
from tcc_fast.settings import Config
from tcc_fast.telemetry import NonFiniteLoss

STEPS = {"off": TrainingStep, "on": CompiledStep, "graphs": GraphedStep}
"""The kind of step, by what :func:`tcc_fast.compiling.compile_mode` returns."""


@dataclass
class Session:
    """The parts of a run. ``step`` counts the steps done."""

    config: Config
    dataset: Dataset
    accelerator: Accelerator
    pipeline: Pipeline
    backend: str
    """Name of the pipeline."""
    training: Training
    training_step: TrainingStep
    step: int = 0

    @property
    def model(self) -> TCC:
        """θ, as it is without any wrapping."""
        return self.training.model

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimiser of θ."""
        return self.training.optimizer

    @property
    def images(self) -> range:
        """Indices of the images that are trained on."""
        return self.dataset.split(self.config.data.split)

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.pipeline.batches_per_epoch * self.config.train.epochs

    @property
    def precision(self) -> Precision:
        """Precision of both encoders."""
        return self.training_step.precision

    @property
    def compiled(self) -> bool:
        """Whether the first step of each phase takes long, because it is compiled."""
        return isinstance(self.training_step, CompiledStep)

    def start_prototypes(self) -> None:
        """Put μ and its twin where `start.method` finds clusters among un-augmented features. Once a run; waits."""
        self._average_statistics()
        images = self.images
        features, _ = embed(
            self.model,
            self.dataset,
            [images[place] for place in evenly_spread(len(images))],
            self.config.data.image_size,
            self.accelerator.device,
            precision=self.precision,
        )
        if not torch.isfinite(features).all():  # known to all ranks, unlike what the main one finds below
            raise ValueError("features are not finite at the start of the prototypes: lower optim.lr")
        centres = torch.zeros_like(self.model.prototypes)
        if self.accelerator.is_main_process:
            threads = cpu_threads(self.accelerator.device)
            num_clusters, seed = len(self.model.prototypes), self.config.seed
            centres.copy_(find_centres(features, num_clusters, self.config.start, seed, threads))
        from_main_(centres)
        self.model.set_prototypes(centres)
        self.training.twin.set_prototypes(centres)

    def _average_statistics(self) -> None:
        """Average running statistics, which are the ranks' own unless batch norm is over the global batch."""
        if not self.config.model.sync_batch_norm:
            average_running_statistics(self.model)
            average_running_statistics(self.training.twin)

    def check_finite(self) -> None:
        """Raise if a parameter is NaN or infinite. Waits for the device."""
        for name, parameter in self.model.named_parameters():
            if not torch.isfinite(parameter).all():
                raise NonFiniteLoss(f"{name} became NaN or infinite by step {self.step}")

    def check_scale(self) -> None:
        """Raise if gradients are not finite however little they are scaled, so that θ stands still. Waits."""
        if self.training_step.scaler.get_scale() < 1.0:
            raise NonFiniteLoss(f"gradients became NaN or infinite in fp16, by step {self.step}")

    def save(self, run: Path, log: dict[str, Tensor], loss: float | None) -> Path:
        """Write a checkpoint of this moment: a matter of all ranks.

        Args:
            run: the run's folder.
            log: losses not yet reported.
            loss: mean loss of the epoch that has ended; None within an epoch.
        """
        self._average_statistics()
        state = RunState(
            self.step,
            self.pipeline.state_dict(),
            self.config,
            describe_dataset(self.dataset),
            self.backend,
            loss,
            self.precision,
            self.training_step.scaler.state_dict(),
        )
        return save_checkpoint(run, state, self.training, self.config.train.keep_checkpoints, log)

    def load(self, checkpoint: Path, saved: RunState) -> dict[str, Tensor]:
        """Go back to the moment of a checkpoint; returns the losses that were not yet reported then."""
        log = load_training(checkpoint, self.training)
        self.pipeline.load_state_dict(saved.pipeline)
        if saved.loss_scale:
            self.training_step.scaler.load_state_dict(saved.loss_scale)
        self.step = saved.step
        return log


def open_session(
    config: Config,
    data: Path,
    run: Path,
    saved: RunState | None = None,
    say: Callable[[str], None] = lambda sentence: None,
    precision: str | None = None,
) -> Session:
    """Build all parts of a run.

    Args:
        config: all settings.
        data: the data set folder.
        run: the run's folder.
        saved: of the checkpoint that will be continued, whose choices of a pipeline and of a precision hold.
        say: told which pipeline it is and what memory it takes, before it takes it, and what was changed since the
            checkpoint; on the main process.
        precision: what `auto` means without a checkpoint, which says it; None: by the device.

    Raises:
        ValueError: the data set, the batch size, K, the epochs or the memory does not fit, or data or settings are not
            those of the checkpoint; says what to do.
    """
    _check_that_clusters_start(config)
    if config.train.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise ValueError("train.tensorboard=true needs TensorBoard: pip install tensorboard")
    before = saved.precision if saved else precision
    precision = decide(lambda: resolve_precision(config.train.precision, processes().device, before))
    accelerator = open_accelerator(config, run)
    device = accelerator.device
    dataset = open_dataset(data)
    if saved:
        check_same_data(saved, dataset)  # before anything else is wrong with another one
    counted = config.model.num_clusters is None
    config = with_num_clusters(config, dataset)
    changes = check_same_settings(run, saved, config) if saved else []
    rank_share = RankShare(accelerator.process_index, accelerator.num_processes)
    compiling = compile_mode(config.train.compile, device, accelerator.num_processes)
    compiled = compiling != "off"
    not_compiled = why_not_compiled(config.train.compile, compiling, device)
    tune(device, precision)
    init = find_init(config.train.init) if config.train.init and not saved else None
    model = _first_model(config, init, say if accelerator.is_main_process else lambda sentence: None)
    choice = decide(lambda: _choose(dataset, config, accelerator, saved.backend if saved else None))
    if accelerator.is_main_process:
        if counted and dataset.manifest.name == "folder":  # whose folders may mean something else
            say(f"K = {config.model.num_clusters}, the number of class folders; model.num_clusters=N asks for another")
        say(choice.sentence)
        unexpected = (
            *changes,
            idle_gpu(device),
            not_compiled,
            why_this_precision(config.train.precision, precision, device, before),
            ignored_precision(precision),
        )
        for reason in filter(None, unexpected):
            say(reason)
    pipeline = open_pipeline(dataset, config, device, rank_share, precision.dtype, choice, compiled)
    start_step = pipeline.batches_per_epoch * config.start_epoch
    training, training_step = _build_training(config, accelerator, model, compiling, start_step, precision)
    return Session(config, dataset, accelerator, pipeline, choice.name, training, training_step)


def _check_that_clusters_start(config: Config) -> None:
    """Refuse a run that ends where its prototypes would start: it would never train a cluster."""
    if config.train.epochs <= config.start_epoch:
        raise ValueError(
            f"train.epochs is {config.train.epochs}, but the prototypes start after epoch {config.start_epoch} "
            f"(start.method={config.start.method}), so no cluster would be trained: use more epochs, or "
            "start.method=none"
        )


def _first_model(config: Config, init: Path | None, say: Callable[[str], None]) -> TCC:
    """θ before its first step, on the CPU: drawn by the seed, or with the weights of the checkpoint ``init``."""
    set_seed(config.seed)  # everything later draws from tcc_fast.draws
    model = TCC(config.model, config.loss)
    if config.model.has_own_backbone:
        check_encoder(model.encoder, config.model, config.data.image_size)
    if init:
        say(take_weights(model, init))
    return model


def _build_training(
    config: Config, accelerator: Accelerator, model: TCC, compiling: str, start_step: int, precision: Precision
) -> tuple[Training, TrainingStep]:
    """The networks, queues and optimiser with their first values, and the step that trains them."""
    assert config.model.num_clusters is not None
    device, alone, compiled = accelerator.device, accelerator.num_processes == 1, compiling != "off"
    if config.model.sync_batch_norm and not alone:
        share_batch_statistics(model)
    model = model.to(device)
    for tensor in (*model.parameters(), *model.buffers()):
        from_main_(tensor.data)  # processors may differ in the last bit
    model = model.to(memory_format=torch.channels_last)
    twin = momentum_twin(model)
    queues = build_queues(config, config.model.num_clusters, device=device)
    optimizer = build_optimizer(model, config.optim, compiled)
    prepared = accelerator.prepare_model(model, evaluation_mode=compiled)  # as which it stays without data parallelism
    theta = keep_own_buffers(prepared)
    step = STEPS[compiling](config, theta, twin, queues, optimizer, accelerator, start_step, precision)
    return Training(model, twin, queues, optimizer), step


def _choose(dataset: Dataset, config: Config, accelerator: Accelerator, before: str | None) -> Choice:
    """The pipeline to use; that of a continued run, since another one would give other pixels."""
    if before is not None and config.data.pipeline == "auto":
        return Choice(before, "as before")
    # Processes of one machine share its memory; each has a GPU of its own.
    sharing = local_processes() if accelerator.device.type == "cpu" else 1
    return choose_pipeline(dataset, config, accelerator.device, sharing)


def with_num_clusters(config: Config, dataset: Dataset) -> Config:
    """The config with K: as set, or the number of classes. Only class names are looked at, never labels.

    Raises:
        ValueError: neither is known, or there are fewer images than clusters, or no such split.
    """
    num_clusters = config.model.num_clusters
    if num_clusters is None:
        names = dataset.manifest.class_names
        if names is None:
            raise ValueError(
                f"{dataset.path} has no classes, so say how many clusters to look for: model.num_clusters=10"
            )
        num_clusters = len(names)
    if num_clusters < 2:
        raise ValueError(
            f"{dataset.path} has a single class, so say how many clusters to look for: model.num_clusters=10"
        )
    num_images = len(dataset.split(config.data.split))
    if num_clusters > num_images:
        raise ValueError(f"model.num_clusters is {num_clusters}, but there are only {num_images} images")
    return config.model_copy(update={"model": config.model.model_copy(update={"num_clusters": num_clusters})})
