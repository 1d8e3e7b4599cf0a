"""What is said when a setting is typed as an option: ``--batch-size 32`` instead of ``train.batch_size=32``."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand


class TakesSettings(TyperCommand):
    """A command with KEY=VALUE arguments, which says so when it does not know an option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse arguments as typer does, with more to read in the message about an unknown option."""
        typed = list(args)  # parsing takes them away
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            # By its fields, since the class is typer's own or click's: versions of typer differ.
            option, message = getattr(error, "option_name", None), getattr(error, "message", None)
            if option and message and hasattr(error, "possibilities"):
                error.message = f"{message}. {settings_hint(option, typed)}"  # type: ignore[attr-defined]
            raise


def settings_hint(option: str, typed: list[str]) -> str:
    """How to give a setting, with the keys that the unknown option may mean.

    Args:
        option: as it was typed, such as ``--batch-size``.
        typed: all arguments, among them perhaps its value.
    """
    from tcc_fast.config import all_keys

    words = option.strip("-").replace("-", "_").lower()
    keys = [key for key in all_keys() if words in (key, key.rpartition(".")[2])]
    said = "Settings are given as KEY=VALUE, without dashes"
    if not keys:
        return f"{said}, such as train.batch_size=32"
    value = _value(option, typed)
    return f"{said}: {' or '.join(f'{key}={value}' for key in keys)}"


def _value(option: str, typed: list[str]) -> str:
    for argument, following in zip(typed, [*typed[1:], ""], strict=True):
        name, _, value = argument.partition("=")
        if name == option:
            return value or (following if following and not following.startswith("-") else "VALUE")
    return "VALUE"
