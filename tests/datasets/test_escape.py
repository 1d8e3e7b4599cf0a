"""Names survive the way into a text file and back."""

import os

import numpy as np
import pytest

from tcc_fast.datasets.escape import escape_name, unescape_name


def test_any_bytes_survive() -> None:
    rng = np.random.default_rng(0)
    alphabet = [
        b"\\",
        b"x",
        b"u",
        b"e9",
        b"000a",
        b"\n",
        b"\r",
        b"\xff",
        b"\xc3",
        b"\xa9",
        "\u2028😀".encode(),
        b"\0",
    ]
    for length in range(2000):
        raw = b"".join(alphabet[i] for i in rng.integers(0, len(alphabet), length % 12))
        shown = escape_name(raw.decode("utf-8", "surrogateescape"))
        shown.encode("utf-8")
        assert len(shown.splitlines()) <= 1
        assert os.fsencode(unescape_name(shown)) == raw


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a b,c/😀.jpg", "a b,c/😀.jpg"),
        ("back\\slash", "back\\\\slash"),
        ("line\nbreak", "line\\u000abreak"),
        (b"latin-\xe9".decode("utf-8", "surrogateescape"), "latin-\\xe9"),
        ("looks like \\xe9", "looks like \\\\xe9"),
    ],
)
def test_known_forms(name: str, shown: str) -> None:
    assert escape_name(name) == shown
    assert unescape_name(shown) == name
