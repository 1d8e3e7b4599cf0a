"""File names as printable text, reversibly.

A file name on Linux is any bytes without "/" and NUL. Names go into utf-8 CSV and JSON files, one record a
line, so what would break a line or is not utf-8 is escaped; everything else (emoji, spaces, commas) stays as
it is.
"""

from __future__ import annotations

import re

_ESCAPE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\\\ud800-\udfff]")
_UNESCAPE = re.compile(r"\\(?:\\|x([0-9a-f]{2})|u([0-9a-f]{4}))")


def _escape_one(match: re.Match[str]) -> str:
    char = match.group()
    code = ord(char)
    if char == "\\":
        return "\\\\"
    if 0xDC80 <= code <= 0xDCFF:  # one undecodable byte, as "surrogateescape" spells it
        return f"\\x{code - 0xDC00:02x}"
    return f"\\u{code:04x}"


def _unescape_one(match: re.Match[str]) -> str:
    byte, code = match.groups()
    if byte is not None:
        return chr(0xDC00 + int(byte, 16))
    if code is not None:
        return chr(int(code, 16))
    return "\\"


def escape_name(name: str) -> str:
    r"""Printable, single-line, valid utf-8 form of a name that may hold surrogate escapes.

    A backslash is doubled, an undecodable byte becomes ``\xNN``, a control or line-breaking character
    ``\uNNNN``.
    """
    return _ESCAPE.sub(_escape_one, name)


def unescape_name(name: str) -> str:
    """The name that `escape_name` was given; ``os.fsencode`` of it gives the bytes on disk."""
    return _UNESCAPE.sub(_unescape_one, name)
