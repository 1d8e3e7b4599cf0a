"""What a choice of seeds by a quantity is worth, over the settings of studies."""

from __future__ import annotations

from types import ModuleType

import pytest

from tests.conftest import load_study, load_tool


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    load_study()
    return load_tool("choose_seed")


def run(overrides: str, seed: int, acc: float, **label_free: float | None) -> dict[str, object]:
    return {"data": "digits", "overrides": overrides, "seed": seed, "acc": acc, "label_free": label_free}


def test_the_gain_is_that_of_the_chosen_run_over_the_mean(tool: ModuleType) -> None:
    """More silhouette, and less loss, is better; an earlier result of the same run does not count."""
    lines = [run("", 0, 0.1, silhouette=9.0, loss=0.1)]
    lines += [run("", seed, acc, silhouette=acc, loss=acc) for seed, acc in enumerate((0.5, 0.6, 0.7))]
    groups = tool.settings([*lines, run("lonely", 0, 0.9, silhouette=1.0)])
    assert [len(group) for group in groups] == [3]
    assert tool.gain(groups[0], "silhouette") == pytest.approx(10)
    assert tool.gain(groups[0], "loss") == pytest.approx(-10)
    assert tool.gain(groups[0], "agreement") is None


def test_settings_without_a_start_have_a_column_of_their_own(tool: ModuleType) -> None:
    started = [run(name, seed, 0.5 + 0.1 * seed, silhouette=-seed) for name in ("a", "b") for seed in (0, 1)]
    bare = [run("start.method=none", seed, 0.5 + 0.2 * seed, silhouette=seed) for seed in (0, 1)]
    text = tool.table(tool.settings(started + bare)).splitlines()
    assert text[0] == "| chosen by | with a start (2 settings) | without (1 settings) |"
    assert "| silhouette | -5.0 [-5.0, -5.0] | +10.0 |" in text
    assert "| agreement |  |  |" in text
    assert text[-1] == "| the labels | +5.0 [+5.0, +5.0] | +10.0 |"
