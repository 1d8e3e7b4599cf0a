"""All settings of a run as YAML, each with what it is for: what ``tcc-fast config`` prints, and ``--config`` reads."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

import yaml
from pydantic.fields import FieldInfo

from tcc_fast.config import Config, Section

WIDTH = 120
INDENT = "  "
HEAD = "# Every setting of a run, for --config. A line taken out has its default, which `tcc-fast config` shows.\n"


def commented_yaml(config: Config) -> str:
    """The settings in the order of `tcc_fast.config`, with the sentences that stand there as comments above each."""
    return "\n".join([HEAD, *_lines(config, "")]) + "\n"


def _lines(section: Section, indent: str) -> Iterator[str]:
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            yield ""
            yield from _comment(type(value).__doc__ or "", indent)
            yield f"{indent}{name}:"
            yield from _lines(value, indent + INDENT)
        else:
            yield from _comment(_sentences(field), indent)
            yield f"{indent}{_entry(section, name)}"


def _sentences(field: FieldInfo) -> str:
    assert field.description is not None, "every setting says what it is"
    return field.description


def _comment(text: str, indent: str) -> list[str]:
    prefix = f"{indent}# "
    words = " ".join(text.split())
    return textwrap.wrap(
        words, WIDTH, initial_indent=prefix, subsequent_indent=prefix, break_long_words=False, break_on_hyphens=False
    )


def _entry(section: Section, name: str) -> str:
    """``name: value`` in one line."""
    plain = section.model_dump(mode="json", include={name})
    style = None if isinstance(plain[name], list) else False  # [0.2, 1.0], but not {seed: 0}
    return yaml.safe_dump(plain, default_flow_style=style, width=10**6, allow_unicode=True).rstrip("\n")
