"""What a study asks: its file, and the runs that it wants. For tools/study.py."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import factors as factorial
import yaml

from tcc_fast.config import load_config

Settings = tuple[str, ...]
"""Each as ``key=value``."""


@dataclass(frozen=True)
class Cell:
    """One run to make."""

    data: Path
    variant: str
    overrides: Settings
    seed: int
    levels: tuple[str, ...] = ()
    """Of a factorial study: the label of each switch's level."""

    def key(self) -> tuple[str, str, int]:
        """What makes a cell the same as one in the results."""
        return self.data.name, " ".join(self.overrides), self.seed


@dataclass(frozen=True)
class Study:
    """What is to be compared: variants with every seed; or, with ``factors``, runs that draw a level of each."""

    name: str
    data: list[Path]
    base: dict[str, Settings]
    """By the data set's name, settings of all its runs."""
    seeds: list[int]
    variants: dict[str, Settings]
    factors: factorial.Factors
    runs: int = 0
    """Of a factorial study; a run's number is its seed."""

    def cells(self) -> list[Cell]:
        """Seed by seed, so that an unfinished study has something of everything."""
        drawn: list[tuple[int, str, Settings, tuple[str, ...]]]
        if self.factors:
            drawn = [
                (seed, f"run {seed}: {', '.join(levels)}", self._settings_of(levels), levels)
                for seed, levels in enumerate(factorial.plan(self.factors, self.runs))
            ]
        else:
            pairs = itertools.product(self.seeds, self.variants.items())
            drawn = [(seed, label, settings, ()) for seed, (label, settings) in pairs]
        return [
            Cell(data, label, self.base.get(data.name, ()) + settings, seed, levels)
            for seed, label, settings, levels in drawn
            for data in self.data
        ]

    def _settings_of(self, levels: tuple[str, ...]) -> Settings:
        chosen = zip(self.factors.values(), levels, strict=True)
        return tuple(setting for factor, level in chosen for setting in factor[level])


def read_study(file: Path, data: list[Path] | None = None, seeds: list[int] | None = None) -> Study:
    """The study of a YAML file; ``data`` and ``seeds`` replace its own.

    Raises:
        ValueError: a part is missing or idle, a setting is not valid, or two parts set the same.
    """
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    kind = {"data", "factors", "runs"} if "factors" in content else {"data", "seeds", "variants"}
    if missing := kind - set(content):
        raise ValueError(f"{file} has no {', '.join(sorted(missing))}: see tools/studies/readme.yaml")
    if idle := set(content) - kind - {"base"}:
        raise ValueError(f"{file}: {', '.join(sorted(idle))} has no meaning beside {', '.join(sorted(kind))}")
    if seeds and "factors" in content:
        raise ValueError(f"{file}: each run of a factorial study has its number for a seed, so --seeds has no meaning")
    listed = [Path(name) for name in content["data"]]
    folders = data or listed
    if len({folder.name for folder in folders}) < len(folders):
        raise ValueError("two data sets have folders of the same name, by which results are told apart")
    base, variants = _settings(content.get("base")), _settings(content.get("variants"))
    if unknown := set(base) - {folder.name for folder in listed + folders}:
        raise ValueError(f"{file}: base names {', '.join(sorted(unknown))}, which is none of its data sets")
    factors = {name: _settings(levels) for name, levels in content.get("factors", {}).items()}
    _check(file, base, variants, factors)
    return Study(file.stem, folders, base, seeds or content.get("seeds", []), variants, factors, content.get("runs", 0))


def _settings(named: Mapping[str, str | None] | None) -> dict[str, Settings]:
    return {str(label): tuple((overrides or "").split()) for label, overrides in (named or {}).items()}


def _check(file: Path, base: dict[str, Settings], variants: dict[str, Settings], factors: factorial.Factors) -> None:
    """Find a slip now, not hours later."""
    choices = [variants, *factors.values()]
    for settings in [*base.values(), *(each for choice in choices for each in choice.values())]:
        load_config("digits", list(settings))
    if any(len(set(choice.values())) < len(choice) for choice in choices):
        raise ValueError(f"{file}: two variants, or two levels of a switch, have the same settings")
    keys = [{_key(setting) for settings in factor.values() for setting in settings} for factor in factors.values()]
    keys += [{_key(setting) for setting in settings} for settings in base.values()] if factors else []
    for one, other in itertools.combinations(keys[: len(factors)], 2):
        if both := one & other:
            raise ValueError(f"{file}: two switches set {', '.join(sorted(both))}, of which one would not count")
    for one, other in itertools.product(keys[: len(factors)], keys[len(factors) :]):
        if both := one & other:
            raise ValueError(f"{file}: base and a switch set {', '.join(sorted(both))}")


def _key(setting: str) -> str:
    return setting.partition("=")[0]
