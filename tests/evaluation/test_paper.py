"""The published figures, against the readers and the configs."""

from __future__ import annotations

import importlib

import pytest

from tcc_fast.config import load_config
from tcc_fast.datasets.reader import PAPER_SETS, READERS
from tcc_fast.evaluation.paper import RESULTS


def test_every_data_set_of_the_paper_is_there() -> None:
    assert set(RESULTS) == set(PAPER_SETS)


@pytest.mark.parametrize("name", PAPER_SETS)
def test_sizes_agree_with_reader_and_config(name: str) -> None:
    known = RESULTS[name]
    module = importlib.import_module(READERS[name])
    official = module.LAYOUT.official if hasattr(module, "LAYOUT") else module.OFFICIAL
    assert sum(official.per_class.values()) * known.classes == known.images
    config = load_config(name)
    assert (config.model.num_clusters, config.data.image_size) == (known.classes, known.image_size)


def test_figures_are_percent_and_their_origin_is_told() -> None:
    for known in RESULTS.values():
        for result in filter(None, (known.tcc, known.best)):
            assert all(1 < value < 100 for value in (result.acc, result.nmi, result.ari))
            assert set(result.own) <= {"acc", "nmi", "ari"}
    dogs = RESULTS["imagenet-dogs"]
    assert dogs.tcc is not None
    assert (dogs.tcc.acc, dogs.tcc.nmi, dogs.tcc.ari, dogs.tcc.own) == (59.5, 55.4, 41.7, ("acc", "nmi"))
    assert RESULTS["tiny-imagenet"].tcc is None
