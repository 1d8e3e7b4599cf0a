"""The study runner: what it runs again, and what it says of the results."""

from __future__ import annotations

from types import ModuleType

import pytest

from tcc_fast.config import load_config
from tests.conftest import load_tool


@pytest.fixture(scope="module")
def study() -> ModuleType:
    return load_tool("study")


def line(data: str, variant: str, seed: int, acc: float) -> dict[str, object]:
    features = {"acc": 0.5, "nmi": 0.5, "ari": 0.5}
    return {"data": data, "variant": variant, "seed": seed, "acc": acc, "kmeans_features": features, "seconds": 60}


def test_the_table_gives_mean_deviation_and_every_seed(study: ModuleType) -> None:
    lines = [line("digits", "recipe", 1, 0.96), line("digits", "recipe", 0, 0.9), line("other", "recipe", 0, 1.0)]
    rows = study.table(lines).splitlines()
    assert rows[2] == "| digits | recipe | 93.0 ± 4.2 | 90.0 96.0 | 50.0 ± 0.0 | 60 |"
    assert rows[3].startswith("| other | recipe | 100.0 ± 0.0 |")


@pytest.mark.parametrize("data", ["digits", "mnist5k"])
def test_every_variant_of_the_readme_is_a_valid_config(study: ModuleType, data: str) -> None:
    configs = {label: load_config(data, overrides) for label, overrides in study.README_VARIANTS.items()}
    assert len({config.model_dump_json() for config in configs.values()}) == len(configs)
    literal = configs["literal equations, no additions"]
    assert (literal.loss.kl_weight, literal.model.assignment_temperature) == (1, 1)
    assert (literal.start.method, literal.model.feature_batch_norm, literal.momentum.warmup) == ("none", False, False)
