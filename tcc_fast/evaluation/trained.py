"""A trained model, by itself and beside the images that it shall see: what `eval` and `assign` begin with."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tcc_fast.datasets import Dataset, open_dataset
from tcc_fast.distributed import decide, gather_objects, processes, rank
from tcc_fast.evaluation.embed import embed
from tcc_fast.method.model import TCC
from tcc_fast.notice import Notice
from tcc_fast.pipelines.damage import Damage
from tcc_fast.precision import Precision, inference_precision, tune
from tcc_fast.runs.checkpoint import load_model
from tcc_fast.runs.checkpoint_folder import find_checkpoint
from tcc_fast.runs.run_state import RunState, read_state
from tcc_fast.runs.same_run import trained_on


@dataclass(frozen=True)
class TrainedModel:
    """What a checkpoint holds for inference."""

    checkpoint: Path
    state: RunState
    model: TCC
    device: torch.device
    precision: Precision


@dataclass(frozen=True)
class Trained(TrainedModel):
    """A trained model, and the images that it is evaluated on: a split of a data set."""

    dataset: Dataset
    split: str
    indices: range
    """Indices of that split's images."""

    @property
    def same_data(self) -> bool:
        """Whether this is the packed data set that the model was trained on."""
        return trained_on(self.state, self.dataset)

    @property
    def same_images(self) -> bool:
        """Whether these are the images that the model was trained on, as is the field's custom."""
        return self.same_data and self.indices == self.dataset.split(self.state.config.data.split)

    def embed(self, batch_size: int = 512, damage: Damage | None = None) -> tuple[Tensor, Tensor]:
        """f (n, d) and π (n, K) of the whole images, float32 on the CPU; a matter of all ranks.

        ``damage`` gets those of this rank's images that cannot be decoded.
        """
        moments = self.state.dataset["mean"], self.state.dataset["std"]
        size = self.state.config.data.image_size
        where = self.model, self.dataset, self.indices, size, self.device
        return embed(*where, batch_size, self.precision, moments, damage)


def undecodable(trained: Trained, damage: Damage) -> list[int]:
    """Places, among the images, of those that any rank could not decode, whose rows mean nothing; for all ranks."""
    return sorted(index - trained.indices.start for index in set[int]().union(*gather_objects(damage.indices)))


def _why_no_clusters(state: RunState) -> str | None:
    """Why no step has trained clusters, if none has; a start comes with the first batch of its epoch."""
    if not state.config.loss.cluster_track:
        return (
            "was trained without clusters (loss.cluster_track=false), so π and its clusters mean nothing: "
            "cluster its features (eval shows k-means on them, assign --features writes them)"
        )
    start = state.config.start_epoch
    if start and (state.pipeline["epoch"], state.pipeline["batch"]) <= (start, 0):
        return (
            f"is from before its prototypes start (after epoch {start} of {state.config.train.epochs}), so its "
            "clusters mean nothing yet: continue the run with --resume"
        )
    return None


def open_model(ckpt: str | Path, device: torch.device) -> TrainedModel:
    """Load a model for inference; a matter of all ranks.

    Args:
        ckpt: a run, a checkpoint folder, or `latest`.
        device: where it shall be.

    Raises:
        ValueError: no such checkpoint, or a damaged one.
    """
    checkpoint = decide(lambda: find_checkpoint(ckpt))
    state = decide(lambda: read_state(checkpoint))
    if (why := _why_no_clusters(state)) and rank() == 0:
        warnings.warn(f"{checkpoint} {why}", Notice, stacklevel=2)
    precision, why = inference_precision(Precision(state.precision), device)
    if why and rank() == 0:
        warnings.warn(why, Notice, stacklevel=2)
    model = load_model(checkpoint, state.config).to(device).to(memory_format=torch.channels_last)
    return TrainedModel(checkpoint, state, model, device, precision)


def open_trained(ckpt: str | Path, data: Path | None = None, split: str | None = None) -> Trained:
    """Load a model beside images; a matter of all ranks.

    Args:
        ckpt: a run, a checkpoint folder, or `latest`.
        data: the data set folder; None: the one the run was trained on.
        split: one of the manifest's splits; None: the one trained on, or all of another data set.

    Raises:
        ValueError: no such checkpoint, data set or split, or a damaged one.
    """
    trained = open_model(ckpt, processes().device)  # from here on, several ranks know of each other
    tune(trained.device, trained.precision)
    dataset = open_dataset(data or Path(trained.state.dataset["path"]))
    known = trained_on(trained.state, dataset)
    if not known and data is None and rank() == 0:
        warnings.warn(
            f"{dataset.path} is no longer the data set that the run was trained on: its images or their form "
            f"have changed ({trained.state.dataset['num_images']:,} then, {len(dataset):,} now); --data names another",
            Notice,
            stacklevel=2,
        )
    if split is None:
        split = trained.state.config.data.split if known else "all"
    return Trained(**vars(trained), dataset=dataset, split=split, indices=dataset.split(split))
