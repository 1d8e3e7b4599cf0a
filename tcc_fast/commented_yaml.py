"""All settings of a run as YAML, each with what it is for: what ``tcc-fast config`` prints, and ``--config`` reads."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping

import yaml
from pydantic.fields import FieldInfo

from tcc_fast.settings import Config, Section

WIDTH = 120
INDENT = "  "
HEAD = "# Every setting of a run, for --config. A line taken out has its default, which `tcc-fast config` shows.\n"


def commented_yaml(config: Config, reasons: Mapping[str, str] | None = None) -> str:
    """The settings in the order of `tcc_fast.settings`, with the sentences that stand there as comments above each.

    Args:
        config: the settings.
        reasons: by dotted key, what the config's own file says of a value: it is put behind it.
    """
    return "\n".join([HEAD, *_lines(config, "", reasons or {})]) + "\n"


def read_reasons(text: str) -> dict[str, str]:
    """By dotted key, the comment behind each value that stands in a line of its own, as in built-in configs."""
    found, section = {}, ""
    for line in text.splitlines():
        if begins := re.match(r"(\w+):\s*(#.*)?$", line):
            section = begins[1]
        elif value := re.match(r"(\s*)(\w+):.*?\s#\s*(.+)$", line):
            found[f"{section}.{value[2]}" if value[1] else value[2]] = value[3]
    return found


def _lines(section: Section, path: str, reasons: Mapping[str, str]) -> Iterator[str]:
    indent = INDENT if path else ""
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            yield ""
            yield from _comment(type(value).__doc__ or "", indent)
            yield f"{indent}{name}:"
            yield from _lines(value, f"{name}.", reasons)
        else:
            changed = value != field.get_default(call_default_factory=True)
            reason = reasons.get(path + name)
            yield from _comment(_sentences(field, changed), indent)
            yield f"{indent}{_entry(section, name)}" + (f"  # {reason}" if reason else "")


def _sentences(field: FieldInfo, changed: bool) -> str:
    """What the setting is for; where its value is not the default, the origin is said to be the default's."""
    assert field.description is not None, "every setting says what it is"
    if not changed:
        return field.description
    return re.sub(r"\b([Oo])rigin:", r"\1rigin of the default:", field.description)


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
