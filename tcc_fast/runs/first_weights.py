"""``train.init``: a run that begins with the weights of another one."""

from __future__ import annotations

from pathlib import Path

from tcc_fast.method.model import TCC
from tcc_fast.runs.checkpoint import load_weights, what_does_not_fit
from tcc_fast.runs.checkpoint_folder import find_checkpoint, path_of
from tcc_fast.runs.run_state import read_state

OF_NETWORK = ("backbone", "width", "stem", "feature_dim", "feature_batch_norm")
"""Settings that say which weights there are, K aside."""
OF_CLUSTERS = ("prototypes", "cluster_embedding.weight", "cluster_embedding.bias")
"""Weights whose shape K gives."""


def find_init(init: str) -> Path:
    """The checkpoint that ``train.init`` names.

    Raises:
        ValueError: there is none, or it is `latest`, which will be the run that begins.
    """
    place, latest = Path(init).absolute(), Path("runs/latest").absolute()
    if init == "latest" or latest in (place, *place.parents):
        raise ValueError(f"train.init={init} would soon mean the new run itself: write train.init={path_of('latest')}")
    return find_checkpoint(init)


def take_weights(model: TCC, checkpoint: Path) -> str:
    """Give ``model`` the weights of a checkpoint, without μ and NN where that has another K.

    Returns:
        What was taken, as a sentence.

    Raises:
        ValueError: it is of another network; says which settings differ.
    """
    there, here = read_state(checkpoint).config.model, model.config
    if differing := [name for name in OF_NETWORK if getattr(there, name) != getattr(here, name)]:
        wanted = " ".join(f"model.{name}={getattr(there, name)}" for name in differing)
        raise ValueError(f"train.init: {checkpoint} is of another network: train with {wanted}, or without train.init")
    weights = load_weights(checkpoint)
    same = there.num_clusters == here.num_clusters
    if not same:
        weights |= {name: tensor for name, tensor in model.state_dict().items() if name in OF_CLUSTERS}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:  # the code of an encoder of the user's has changed
        raise ValueError(f"train.init: {checkpoint} does not fit: {what_does_not_fit(error)}") from None
    rest = "" if same else f", but for its {there.num_clusters} prototypes"
    return f"first weights: {checkpoint}{rest}"
