"""How settings are read: a built-in config or a file, then ``KEY=VALUE``; what is wrong there is said in one line."""

from __future__ import annotations

import math
import operator
import shlex
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from tcc_fast.nearest import did_you_mean, nearest
from tcc_fast.plain_yaml import load_yaml
from tcc_fast.settings import Config, Section

BUILT_IN = files("tcc_fast") / "configs"


def built_in_names() -> list[str]:
    """Names that ``--config`` knows without a file."""
    return sorted(entry.name.removesuffix(".yaml") for entry in BUILT_IN.iterdir() if entry.name.endswith(".yaml"))


def load_config(name_or_file: str, overrides: list[str] | None = None) -> Config:
    """Read a built-in config by name, or a YAML file by path, and apply ``KEY=VALUE`` overrides.

    Raises:
        ValueError: one line that names the key, what is allowed, and the nearest valid name.
    """
    tree = _read(name_or_file)
    for override in overrides or []:
        _apply_override(tree, override)
    return config_from_tree(tree)


def config_from_tree(tree: dict[str, Any]) -> Config:
    """Validate nested plain data, as read from YAML or from a checkpoint."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ValueError(_explain(error.errors()[0])) from None


def read_text(name_or_file: str) -> str:
    """The YAML of a built-in config by name, or of a file by path.

    Raises:
        ValueError: there is neither; lists the names.
    """
    if name_or_file in built_in_names():
        return (BUILT_IN / f"{name_or_file}.yaml").read_text(encoding="utf-8")
    if Path(name_or_file).is_file():
        try:
            return Path(name_or_file).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise ValueError(f"{name_or_file} is not a text file in UTF-8, so it is no config") from None
    raise ValueError(
        f"no config {name_or_file!r}: it is neither a file nor one of {', '.join(built_in_names())}"
        + did_you_mean(name_or_file, built_in_names())
    )


def _read(name_or_file: str) -> dict[str, Any]:
    try:
        tree = load_yaml(read_text(name_or_file)) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{name_or_file} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise ValueError(f"{name_or_file} must hold `section:` entries, found a {type(tree).__name__}")
    # `section:` with nothing under it reads as None.
    return {key: {} if value is None and key in _sections() else value for key, value in tree.items()}


def parse_override(override: str) -> tuple[str, str]:
    """``KEY=VALUE`` as its key and its value.

    Raises:
        ValueError: it has another form; says what may have been meant.
    """
    key, sign, text = override.partition("=")
    if not sign or not key:
        raise ValueError(
            f"{override!r} is no setting of the form KEY=VALUE, such as train.epochs=20{_option(override)}"
        )
    return key, text


def _apply_override(tree: dict[str, Any], override: str) -> None:
    key, text = parse_override(override)
    *sections, field = key.split(".")
    node = tree
    for section in sections:
        child = node.get(section, {})
        if not isinstance(child, dict):
            raise ValueError(f"{key}: {section!r} is a value, not a section")
        node[section] = child
        node = child
    value = _parse_value(text)
    node[field] = text if value is not None and _is_text(key) else value


def _option(typed: str) -> str:
    """What was meant where a folder or a config stands among the settings."""
    if Path(typed).is_dir():
        return f"; if it is the data set, write --data {shlex.quote(typed)}"
    if typed in built_in_names() or Path(typed).is_file():
        return f"; if it is the config, write --config {shlex.quote(typed)}"
    return ""


def _is_text(key: str) -> bool:
    """Whether a setting holds words, of which YAML would take some for numbers."""
    section, _, field = key.rpartition(".")
    known = _sections()[section].model_fields if section in _sections() else {}
    return field in known and known[field].annotation in (str, str | None)


def _parse_value(text: str) -> Any:
    try:
        value = load_yaml(text)
    except yaml.YAMLError:
        return text
    if isinstance(value, str):
        # YAML 1.1 reads 1e-3 (no dot) as a string.
        try:
            return float(value) if math.isfinite(float(value)) else value
        except ValueError:
            return value
    return value


def all_keys() -> list[str]:
    """Every dotted key, such as ``model.num_clusters``."""
    found = []
    for name in Config.model_fields:
        section = _sections().get(name)
        found += [f"{name}.{inner}" for inner in section.model_fields] if section else [name]
    return found


def _sections() -> dict[str, type[Section]]:
    """The config's sections, by their names."""
    fields = ((name, field.annotation) for name, field in Config.model_fields.items())
    return {name: kind for name, kind in fields if isinstance(kind, type) and issubclass(kind, Section)}


def _explain(error: ErrorDetails) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "missing" and isinstance(error["loc"][-1], int):  # a list that is too short
        key = key.rpartition(".")[0]
    if error["type"] == "extra_forbidden":
        section, _, leaf = key.rpartition(".")
        there = [k for k in all_keys() if k.startswith(f"{section}.")] if section else list(Config.model_fields)
        near = nearest(leaf, [k.rpartition(".")[2] for k in there])  # in the section, whose own letters say nothing
        meant = [k for k in all_keys() if k.rpartition(".")[2] == leaf]
        meant += [k for k in there if near and k.rpartition(".")[2] == near]
        hint = f"; did you mean {meant[0]!r}?" if meant else ""
        return f"unknown config key {key!r}{hint}" + ("" if hint else f"; known here: {', '.join(there)}")
    if error["type"] in ("tuple_type", "too_long", "missing"):
        example = ",".join(f"{value:g}" for value in operator.attrgetter(key)(Config()))
        given = str(error["input"]).strip(" ()[]").replace(" ", "")
        if error["type"] != "tuple_type":  # it is a list, of too few or too many
            return f"config key {key!r} has another length: write {key}=[{example}], say, got [{given}]"
        return f"config key {key!r} is a list: write {key}=[{given if ',' in given else example}]"
    if error["type"] in ("model_type", "dict_type"):
        hint = "must hold settings, each as `name: value` in a line of its own"
        return f"config section {key!r} {hint}, got {error['input']!r}"
    message = error["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if error["type"] == "value_error":  # raised by a validator of tcc_fast.settings, and complete as it is
        kind = "section" if key in _sections() else "key"
        return f"config {kind} {key!r}: {message}" if key else message
    return f"config key {key!r}: {message}, got {error['input']!r}"
