"""`tcc-fast config`: every setting with its sentence, in YAML that is read again."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tcc_fast.commented_yaml import WIDTH, commented_yaml, read_reasons
from tcc_fast.config import all_keys, built_in_names, load_config, read_text
from tcc_fast.settings import Config, Section
from tests.test_cli import type_in


@pytest.mark.parametrize("name", built_in_names())
def test_what_is_printed_of_a_config_reads_as_that_config(name: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(type_in("config", name), encoding="utf-8")
    assert load_config(str(tmp_path / "mine.yaml")) == load_config(name)


def test_without_a_name_it_is_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(type_in("config"), encoding="utf-8")
    assert load_config(str(tmp_path / "mine.yaml")) == Config()


def test_values_that_yaml_would_misread_survive(tmp_path: Path) -> None:
    odd = [
        "train.compile=off",
        "optim.lr=1e-7",
        "optim.milestones=[]",
        "loss.temperature_cluster=2",
    ]
    config = load_config("digits", odd)
    (tmp_path / "mine.yaml").write_text(commented_yaml(config), encoding="utf-8")
    assert load_config(str(tmp_path / "mine.yaml")) == config


def test_every_setting_stands_below_its_sentence() -> None:
    text = commented_yaml(Config())
    tree = yaml.safe_load(text)
    keys = [f"{key}.{inner}" for key in tree if isinstance(tree[key], dict) for inner in tree[key]]
    assert set(keys) | {"seed"} == set(all_keys())
    words = " ".join(text.replace("#", " ").split())
    for section in (Config(), *(value for _, value in Config() if isinstance(value, Section))):
        for field, about in type(section).model_fields.items():
            if about.description is not None:
                assert f"{' '.join(about.description.split())} {field}: " in words
    assert max(map(len, text.splitlines())) <= WIDTH


def test_a_changed_value_has_the_reason_of_its_config_and_the_origin_is_the_defaults() -> None:
    lines = type_in("config", "glyphs").splitlines()
    changed = next(place for place, line in enumerate(lines) if line.startswith("  shear: "))
    assert lines[changed] == "  shear: 25.0  # ours, addition: italics"
    changed = next(place for place, line in enumerate(lines) if line.startswith("  flip: "))
    assert "Origin of the default: prototype." in lines[changed - 1]
    assert lines[changed] == "  flip: 0.0  # ours: letters have a reading direction"
    kept = next(place for place, line in enumerate(lines) if line.startswith("  feature_dim: "))
    assert lines[kept - 1 : kept + 1] == ["  # d, the dimension of f. Origin: prototype, MiCE.", "  feature_dim: 128"]


@pytest.mark.parametrize("name", built_in_names())
def test_no_changed_value_stands_below_the_origin_of_the_default_as_if_it_were_its_own(name: str) -> None:
    lines, defaults = type_in("config", name).splitlines(), set(type_in("config").splitlines())
    comment = ""
    for line in lines:
        if line.strip().startswith("#"):
            comment += " " + line.strip(" #")
            continue
        if line.strip() and line.partition("  # ")[0] not in defaults:
            assert "rigin:" not in comment, line
        comment = ""


@pytest.mark.parametrize("name", built_in_names())
def test_every_reason_of_a_built_in_config_is_kept(name: str) -> None:
    text = read_text(name)
    reasons = read_reasons(text)
    assert len(reasons) == sum(line.startswith("  ") for line in text.splitlines())
    printed = type_in("config", name)
    assert all(f"  # {reason}\n" in printed for reason in reasons.values())


def test_reasons_are_read_where_they_stand() -> None:
    text = "# head\nseed: 3  # mine\nmodel:  # networks\n  # a line of its own\n  width: 8 # small\n  stem: 3x3\n"
    assert read_reasons(text) == {"seed": "mine", "model.width": "small"}


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="no config 'digit'.*did you mean 'digits'"):
        type_in("config", "digit")
