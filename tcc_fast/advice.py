"""What a user should know of settings that will work, but not well: sentences with the setting to change, or None."""

from __future__ import annotations

import math

import torch

from tcc_fast.datasets import Dataset
from tcc_fast.settings import Config, ModelConfig

LARGEST_SHARE = 0.6
"""J / n up to which no advice is given: the built-in configs have 57 % (digits) and less."""
LONGEST_WARMUP = 0.25
"""Share of the steps in which the learning rate may rise without a word. Ours."""
FEW_A_CLUSTER = 5
"""Images of a cluster in a batch, on average; with fewer, more are advised. Ours, not measured."""


def advice(config: Config, dataset: Dataset, device: torch.device) -> list[str]:
    """All that is to be said before a run whose K is set."""
    assert config.model.num_clusters is not None
    image_size, num_images = config.data.image_size, len(dataset.split(config.data.split))
    found = (
        stem_advice(config.model, image_size),
        queue_advice(config.queue.instance_length, num_images),
        size_advice(dataset.manifest.geometry.short_side, image_size),
        backbone_advice(config.model, device),
        batch_advice(config, config.model.num_clusters, num_images),
        warmup_advice(config, num_images // config.train.batch_size * config.train.epochs),
    )
    return [sentence for sentence in found if sentence]


def stem_advice(config: ModelConfig, image_size: int) -> str | None:
    """A sentence that names the better stem for this image size, or None when the stem suits it."""
    if config.has_own_backbone:
        return None
    stem = config.stem
    if stem == "7x7" and image_size < 64:
        return (
            f"model.stem is 7x7, which leaves {max(1, image_size // 4)} of {image_size} pixels a side before "
            "the first block: 3x3 is better for images below 64 px"
        )
    if stem == "3x3" and image_size >= 128:
        return (
            f"model.stem is 3x3, which runs the first stage at the full {image_size} px: "
            "7x7 is better (and 16 times cheaper) for images of 128 px and more"
        )
    return None


def backbone_advice(config: ModelConfig, device: torch.device) -> str | None:
    """A sentence that names the network for CPUs where a large one is to be trained on one, or None."""
    if device.type != "cpu" or config.backbone == "resnet_small" or config.has_own_backbone:
        return None
    return (
        f"model.backbone={config.backbone} takes long on a CPU: resnet_small is made for it "
        "(and model.stem=3x3, small views)"
    )


def queue_advice(length: int, num_images: int) -> str | None:
    """A sentence that names a better length of Q for so many images, or None when it suits them.

    Any length will do for :class:`MomentumQueue`; the power of two nearest to a quarter of the images is advised.
    """
    if length <= LARGEST_SHARE * num_images:
        return None
    better = 2 ** max(0, round(math.log2(num_images / 4)))
    times = length / num_images
    held = f"each of them about {times:.0f} times" if times >= 1.5 else "most of them"
    return (
        f"queue.instance_length is {length:,}, but there are {num_images:,} images: Q holds {held}, so images are "
        f"contrasted with themselves. Better here: queue.instance_length={better}"
    )


def size_advice(short_side: int, image_size: int) -> str | None:
    """A sentence on how to convert anew, if views of this side would be blown up because images were shrunk."""
    if not 0 < short_side < image_size:
        return None
    return (
        f"views of {image_size} px are made of images that were shrunk to a short side of {short_side}, so "
        f"they are blurred: better convert anew with --short-side {math.ceil(1.15 * image_size)}"
    )


def batch_advice(config: Config, num_clusters: int, num_images: int) -> str | None:
    """A sentence for a batch that shows little of each cluster, or None when it suits their number."""
    if not config.loss.cluster_track or config.train.batch_size >= FEW_A_CLUSTER * num_clusters:
        return None
    better = FEW_A_CLUSTER * num_clusters
    larger = f"as by train.batch_size={better}, or " if better <= num_images else "as by "
    return (
        f"a batch of {config.train.batch_size} shows {config.train.batch_size / num_clusters:.1f} images of each of "
        f"{num_clusters} clusters on average, of which their representations (4) are made: {FEW_A_CLUSTER} or more "
        f"would be better, {larger}fewer clusters"
    )


def warmup_advice(config: Config, total_steps: int) -> str | None:
    """A sentence for a learning rate that rises for more than a quarter of the run, or None."""
    warmup = config.optim.warmup_steps
    if warmup <= LONGEST_WARMUP * total_steps:
        return None
    rises = "all the time and never gets there" if warmup >= total_steps else f"for {warmup:,} of {total_steps:,} steps"
    return (
        f"the learning rate rises to optim.lr={config.optim.lr:g} {rises}: train for more epochs, or set "
        f"optim.warmup_steps={max(1, round(total_steps / 20))}"
    )


def collapse_advice(config: Config, num_clusters: int) -> str:
    """What to change where clusters collapse: only what is not set already, most helpful first (docs/quality.md)."""
    model, loss, start = config.model, config.loss, config.start.method
    wanted = {
        "model.feature_batch_norm=true": not model.feature_batch_norm,
        "loss.kl_weight=0": loss.kl_weight > 0,
        "start.method=spectral": start != "spectral",
        "model.assignment_temperature=0.1": model.assignment_temperature > 0.1,
    }
    missing = " ".join(setting for setting, is_missing in wanted.items() if is_missing)
    balanced = "loss.swap_weight=1 loss.swap_neighbours=5"
    if missing:
        instead = f" ({balanced} can take the place of a start)" if start == "none" and not loss.swap_weight else ""
        return f"start anew with {missing}{instead}"
    if config.train.batch_size < FEW_A_CLUSTER * num_clusters:
        return (
            f"train.batch_size={config.train.batch_size} shows too little of each of {num_clusters} clusters: start "
            "anew with more images a batch, or fewer clusters (model.num_clusters)"
        )
    return f"start anew with another seed (seed={config.seed + 1}), or fewer clusters (model.num_clusters)"
