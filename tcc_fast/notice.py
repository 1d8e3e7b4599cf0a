"""What a user should know although the work goes on."""

from __future__ import annotations


class Notice(RuntimeWarning):
    """A warning in a user's words: the command line shows the sentence alone, without the line of code."""
