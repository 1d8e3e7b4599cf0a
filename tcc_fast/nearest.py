"""What a mistyped name may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that begins with this one, or else looks like it; None where that would be a wild guess."""
    names = list(known)
    begins = [one for one in names if name and one.startswith(name)]
    return next(iter(begins or difflib.get_close_matches(name, names, n=1, cutoff=0.7)), None)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The nearest known name as the end of a sentence, ``; did you mean '...'?``; empty where there is none."""
    near = nearest(name, known)
    return f"; did you mean {near!r}?" if near else ""
