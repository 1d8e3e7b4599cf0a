"""YAML as people read it: a key stands once, a number is decimal, and only true and false are truth values."""

from __future__ import annotations

import re
from typing import Any

import yaml

INT, BOOL = "tag:yaml.org,2002:int", "tag:yaml.org,2002:bool"


class PlainLoader(yaml.SafeLoader):
    """PyYAML's loader without what surprises in YAML 1.1: of two equal keys the last, 010 as 8, yes and on as true.

    Texts that are no truth values here become such where a setting wants one: pydantic knows the words.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012, as in its base
        first: [(tag, pattern) for tag, pattern in known if tag not in (INT, BOOL)]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The entries of one place, which is the whole file or a section."""
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue  # which SafeLoader refuses
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"{key.value!r} stands there twice: put both together", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


PlainLoader.add_implicit_resolver(INT, re.compile(r"[-+]?[0-9][0-9_]*$"), list("-+0123456789"))
PlainLoader.add_implicit_resolver(BOOL, re.compile("(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
PlainLoader.add_constructor(INT, lambda loader, node: int(node.value))


def load_yaml(text: str) -> Any:
    """What YAML says, as plain data.

    Raises:
        yaml.YAMLError: it is no YAML, or a key stands twice at one place.
    """
    return yaml.load(text, Loader=PlainLoader)
