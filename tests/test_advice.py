"""Advice: given where it helps, silent where it would not, and right about what to set."""

from __future__ import annotations

import re

import pytest
import torch

from tcc_fast.advice import (
    FEW_A_CLUSTER,
    backbone_advice,
    batch_advice,
    collapse_advice,
    queue_advice,
    size_advice,
    stem_advice,
    warmup_advice,
)
from tcc_fast.config import built_in_names, load_config
from tcc_fast.evaluation.paper import RESULTS
from tcc_fast.settings import Config, ModelConfig

OWN = "mine:encoder"
"""An encoder of the user's."""


def recipe(name: str, *overrides: str) -> Config:
    return load_config(name, ["model.num_clusters=10", *overrides])


@pytest.mark.parametrize(
    ("stem", "size", "advised"), [("7x7", 63, True), ("7x7", 64, False), ("3x3", 127, False), ("3x3", 128, True)]
)
def test_a_stem_is_advised_against_beyond_its_sizes(stem: str, size: int, advised: bool) -> None:
    config = ModelConfig(stem=stem)  # type: ignore[arg-type]
    assert (stem_advice(config, size) is not None) == advised
    assert stem_advice(config.model_copy(update={"backbone": OWN}), size) is None


def test_a_stem_that_does_not_suit_the_size_names_the_better_one() -> None:
    small, large = ModelConfig(stem="3x3"), ModelConfig(stem="7x7")
    assert "3x3 is better" in (stem_advice(large, 32) or "")
    assert "7x7 is better" in (stem_advice(small, 224) or "")
    assert stem_advice(small, 32) is stem_advice(large, 224) is stem_advice(large, 96) is None


@pytest.mark.parametrize(
    ("backbone", "device", "advised"),
    [("resnet18", "cpu", True), ("resnet_small", "cpu", False), ("resnet18", "cuda", False), (OWN, "cpu", False)],
)
def test_a_network_for_cpus_is_named_where_there_is_no_gpu(backbone: str, device: str, advised: bool) -> None:
    assert (backbone_advice(ModelConfig(backbone=backbone), torch.device(device)) is not None) == advised


def suggested(advice: str | None) -> int:
    assert advice is not None
    return int(advice.rpartition("=")[2])


@pytest.mark.parametrize("num_images", [2, 3, 5, 10, 199, 1797, 5000, 10_000, 1_281_167])
def test_a_queue_that_holds_the_whole_data_set_is_advised_against(num_images):
    length = suggested(queue_advice(21 * num_images, num_images))
    assert num_images / 6 < length <= max(1, num_images / 2.5)
    assert queue_advice(length, num_images) is None


def test_the_advice_says_how_often_images_meet_themselves():
    assert "4,096, but there are 199 images: Q holds each of them about 21 times" in queue_advice(4096, 199)
    assert "Q holds most of them" in queue_advice(130, 199)
    assert suggested(queue_advice(4096, 199)) == 64
    assert queue_advice(100, 199) is None


def test_no_recipe_gets_advice_on_its_own_data_set():
    images = {name: known.images for name, known in RESULTS.items()} | {
        "digits": 1797,
        "mnist5k": 5000,
        "glyphs": 12250,
    }
    data_sets = {name: re.sub("-224$|-short$", "", name) for name in built_in_names()}
    assert set(data_sets.values()) == {*images, "folder"}
    for name in set(data_sets) - {"folder"}:
        assert queue_advice(load_config(name).queue.instance_length, images[data_sets[name]]) is None, name


@pytest.mark.parametrize(("short_side", "image_size", "advised"), [(112, 224, 258), (112, 96, None), (0, 224, None)])
def test_views_larger_than_what_images_were_shrunk_to_are_advised_against(
    short_side: int, image_size: int, advised: int | None
) -> None:
    advice = size_advice(short_side, image_size)
    assert (advice is None) == (advised is None)
    assert advice is None or advice.endswith(f"with --short-side {advised}")


LITERAL = ("start.method=none", "loss.kl_weight=1", "model.feature_batch_norm=false", "model.assignment_temperature=1")


@pytest.mark.parametrize(
    ("settings", "advised"),
    [
        (["model.feature_batch_norm=false"], "model.feature_batch_norm=true"),
        (["loss.kl_weight=0.5"], "loss.kl_weight=0"),
        (["model.assignment_temperature=0.2"], "model.assignment_temperature=0.1"),
        (["start.method=kmeans"], "start.method=spectral"),
        (["start.method=none", "loss.swap_weight=1"], "start.method=spectral"),
        (
            ["start.method=none"],
            "start.method=spectral (loss.swap_weight=1 loss.swap_neighbours=5 can take the place of a start)",
        ),
        (
            LITERAL,
            "model.feature_batch_norm=true loss.kl_weight=0 start.method=spectral model.assignment_temperature=0.1 "
            "(loss.swap_weight=1 loss.swap_neighbours=5 can take the place of a start)",
        ),
        ([], "another seed (seed=1), or fewer clusters (model.num_clusters)"),
        (["seed=4"], "another seed (seed=5), or fewer clusters (model.num_clusters)"),
    ],
)
def test_what_is_advised_is_what_is_not_set_already(settings: list[str], advised: str) -> None:
    assert collapse_advice(recipe("digits", *settings), 10) == f"start anew with {advised}"


def test_a_batch_that_shows_little_of_each_cluster_is_named() -> None:
    few = f"train.batch_size={10 * FEW_A_CLUSTER - 1}"
    assert f"{few} shows too little of each of 10 clusters" in collapse_advice(recipe("digits", few), 10)


def test_a_batch_that_suits_its_clusters_is_not_spoken_of() -> None:
    assert batch_advice(recipe("digits", f"train.batch_size={10 * FEW_A_CLUSTER}"), 10, 1000) is None
    said = batch_advice(recipe("digits", "train.batch_size=40"), 10, 1000)
    assert "a batch of 40 shows 4.0 images of each of 10 clusters" in str(said)
    assert batch_advice(recipe("digits", "train.batch_size=40", "loss.cluster_track=false"), 10, 1000) is None
    few = str(batch_advice(recipe("digits", "train.batch_size=40"), 10, 49))
    assert "train.batch_size=" not in few
    assert few.endswith("better, as by fewer clusters")


@pytest.mark.parametrize(
    ("total", "said"),
    [
        (200, None),
        (199, "for 50 of 199 steps: train for more epochs, or set optim.warmup_steps=10"),
        (50, "all the time and never gets there: train for more epochs, or set optim.warmup_steps=2"),
        (1, "or set optim.warmup_steps=1"),
    ],
)
def test_a_learning_rate_that_rises_too_long_is_named(total: int, said: str | None) -> None:
    found = warmup_advice(recipe("digits", "optim.warmup_steps=50"), total)
    assert (found is None) if said is None else str(found).endswith(said)


@pytest.mark.parametrize("name", built_in_names())
def test_no_recipe_is_told_to_change(name: str) -> None:
    config = load_config(name)
    clusters = config.model.num_clusters or 20
    assert batch_advice(config, clusters, 10**6) is None
    if config.start.method != "kmeans":  # tiny-imagenet says why
        assert "start anew with another seed" in collapse_advice(config, clusters)
