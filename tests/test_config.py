"""Settings: what is read, and what a mistake is answered with."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tcc_fast.config import all_keys, built_in_names, config_from_tree, load_config
from tcc_fast.settings import Config, TrainConfig


def test_the_three_built_in_configs_are_found_by_name() -> None:
    assert {"digits", "mnist5k", "folder"} <= set(built_in_names())


@pytest.mark.parametrize("name", built_in_names())
def test_every_built_in_config_loads_and_is_headed_by_its_name(name: str) -> None:
    assert isinstance(load_config(name), Config)
    text = (Path(__file__).parents[1] / "configs" / f"{name}.yaml").read_text(encoding="utf-8")
    assert text.startswith(f"# {name}: ")


@pytest.mark.parametrize("name", built_in_names())
def test_every_value_of_a_built_in_config_says_where_it_comes_from(name: str) -> None:
    text = (Path(__file__).parents[1] / "configs" / f"{name}.yaml").read_text(encoding="utf-8")
    values = [line for line in text.splitlines() if line.startswith("  ") and not line.strip().startswith("#")]
    assert values
    for line in values:
        assert any(origin in line for origin in ("# paper", "# prototype", "# MiCE", "# CC", "# ours")), line


def test_defaults_are_the_literal_method() -> None:
    config = Config()
    assert config.loss.kl_weight == 1
    assert config.model.assignment_temperature == 1
    assert not config.model.feature_batch_norm
    assert config.start.method == "none"
    assert not config.momentum.warmup
    assert (config.augment.rotation, config.augment.shear, config.augment.zoom) == (0, 0, (1, 1))


def test_every_field_has_a_sentence() -> None:
    for name, section in Config.model_fields.items():
        if name == "seed":
            assert section.description
            continue
        for field, info in section.annotation.model_fields.items():  # type: ignore[union-attr]
            assert info.description, f"{name}.{field}"


def test_every_setting_of_the_method_says_where_it_comes_from() -> None:
    method = {
        f"{name}.{field}": str(info.description)
        for name, section in Config.model_fields.items()
        if name not in ("seed", "data", "train")
        for field, info in section.annotation.model_fields.items()  # type: ignore[union-attr]
    }
    method |= {f"train.{field}": str(TrainConfig.model_fields[field].description) for field in ("epochs", "batch_size")}
    origins = ("paper", "prototype", "MiCE", "CC", "SwAV", "ours", "Ours", "ddition")
    assert [key for key, text in method.items() if not any(origin in text for origin in origins)] == []


def test_overrides_take_dotted_keys_and_yaml_values() -> None:
    config = load_config(
        "digits",
        ["seed=3", "model.num_clusters=7", "optim.lr=1e-2", "augment.crop_area=[0.3, 0.9]", "train.compile=on"],
    )
    assert (config.seed, config.model.num_clusters, config.optim.lr) == (3, 7, 0.01)
    assert config.augment.crop_area == (0.3, 0.9)
    assert config.train.compile == "on"


def test_numbers_are_decimal_and_words_are_words(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    train = "train:\n  epochs: 1_000\n  compile: on\n  tensorboard: no\n"
    file.write_text(f"seed: 010\n{train}model: {{feature_batch_norm: yes}}\n")
    config = load_config(str(file), ["train.keep_checkpoints=08"])
    assert (config.seed, config.train.epochs, config.train.keep_checkpoints) == (10, 1000, 8)
    assert (config.train.compile, config.train.tensorboard, config.model.feature_batch_norm) == ("on", False, True)


def test_a_config_survives_writing_and_reading() -> None:
    config = load_config("digits", ["seed=5", "train.compile=off"])
    assert config_from_tree(config.model_dump(mode="json")) == config


@pytest.mark.parametrize("name", ["20261128", "2026-11-28", "runs/a", "007", "1e5", "on"])
def test_a_run_may_be_called_by_a_number_or_a_date(name: str) -> None:
    assert load_config("digits", [f"train.init={name}"]).train.init == name


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["train.epoch=3"], "unknown config key 'train.epoch'; did you mean 'train.epochs'?"),
        (["num_clusters=3"], "unknown config key 'num_clusters'; did you mean 'model.num_clusters'?"),
        (
            ["zzz=3"],
            "unknown config key 'zzz'; known here: seed, data, augment, model, loss, queue, momentum, start, optim",
        ),
        (["train.epochs=many"], "'train.epochs': input should be a valid integer"),
        (["train.epochs=0"], "'train.epochs': input should be greater than or equal to 1, got 0"),
        (["optim.lr=nan"], "'optim.lr'"),
        (["loss.alpha=1.5"], "'loss.alpha': input should be less than or equal to 1, got 1.5"),
        (["model.backbone=resnet35"], "'resnet35' is none of resnet_small, resnet18, resnet34, resnet50"),
        (["model.backbone=resnet18", "model.width=32"], "resnet18 has its own: set model.width=16"),
        (["augment.crop_area=[0.9, 0.2]"], "crop_area must be a range 0 < low <= high, got [0.9, 0.2]"),
        (["augment.crop_area=[0.9, 1.2]"], "crop_area must not exceed 1"),
        (["augment.crop_area=0.3,1"], "config key 'augment.crop_area' is a list: write augment.crop_area=[0.3,1]"),
        (["augment.zoom=(0.9, 1.1)"], "write augment.zoom=[0.9,1.1]"),
        (["augment.crop_area=[0.5,1"], "write augment.crop_area=[0.5,1]"),
        (["train=5"], "config section 'train' must hold settings, each as `name: value` in a line of its own, got 5"),
        (["optim.milestones=0.5,0.7,0.9"], "write optim.milestones=[0.5,0.7,0.9]"),
        (["augment.crop_area=wide"], "'augment.crop_area' is a list: write augment.crop_area=[0.2,1]"),
        (["optim.lr=true"], "config key 'optim.lr': must be a number, got true"),
        (["seed=false"], "config key 'seed': must be a number, got false"),
        (["augment.flip=yes"], "config key 'augment.flip': input should be a valid number"),
        (["augment.zoom=[1]"], "'augment.zoom' has another length: write augment.zoom=[1,1], say, got [1]"),
        (["augment.zoom=[1,1,1]"], "'augment.zoom' has another length: write augment.zoom=[1,1], say, got [1,1,1]"),
        (["augment.zoom=0.9"], "'augment.zoom' is a list: write augment.zoom=[1,1]"),
        (["optim.milestones=0.5"], "'optim.milestones' is a list: write optim.milestones=[0.48,0.64,0.8]"),
        (["start.at=1"], "'start.at': input should be less than 1, got 1"),
        (["train.epochs"], "is no setting of the form KEY=VALUE, such as train.epochs=20"),
        (["/tmp"], "if it is the data set, write --data /tmp"),
        (["glyphs"], "if it is the config, write --config glyphs"),
        (["train.batch=4"], "did you mean 'train.batch_size'?"),
        (["train.bs=4"], "unknown config key 'train.bs'; known here: train.epochs, train.batch_size"),
        (["model.k=3"], "unknown config key 'model.k'; known here: "),
        (["seed.x=1"], "'seed'"),
    ],
)
def test_a_mistake_is_answered_in_one_line_that_names_it(overrides: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        load_config("digits", overrides)
    assert "\n" not in str(caught.value)


def test_an_unknown_config_names_the_ones_that_exist() -> None:
    with pytest.raises(ValueError, match="did you mean 'digits'"):
        load_config("digit")


def test_a_broken_yaml_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("train: [unclosed")
    with pytest.raises(ValueError, match="mine.yaml is not valid YAML"):
        load_config(str(file))
    file.write_text("- a list")
    with pytest.raises(ValueError, match="must hold `section:` entries"):
        load_config(str(file))


@pytest.mark.parametrize("text", ["train:\n  epochs: 1\nloss:\ntrain:\n  batch_size: 2\n", "train:\n  a: 1\n  a: 2\n"])
def test_what_stands_in_a_file_twice_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"mine.yaml.*'(train|a)' stands there twice"):
        load_config(str(file))


def test_a_key_that_is_no_name_is_no_traceback(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("{{epochs}}: 3\n")  # a template that nothing was put into
    with pytest.raises(ValueError, match=r"mine.yaml is not valid YAML: .*unhashable key"):
        load_config(str(file))


def test_an_empty_section_holds_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("train:\n")
    assert load_config(str(file)) == Config()
    assert load_config(str(file), ["train.epochs=3"]).train.epochs == 3


def test_all_keys_are_dotted_once() -> None:
    assert "model.num_clusters" in all_keys()
    assert "seed" in all_keys()


def test_a_kmeans_start_comes_after_one_epoch_at_least_and_only_with_clusters() -> None:
    assert load_config("digits", ["train.epochs=2", "start.at=0.1"]).start_epoch == 1
    assert load_config("digits", ["train.epochs=10", "start.at=0.5"]).start_epoch == 5
    assert load_config("digits", ["loss.cluster_track=false"]).start_epoch == 0
    assert load_config("digits", ["start.method=none"]).start_epoch == 0
