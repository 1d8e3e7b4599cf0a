"""Silence that threads share: however they overlap, what was put away is back when the last one is done."""

from __future__ import annotations

import os
import warnings

import pytest

from tcc_fast.datasets.silence import silent_libtiff, silent_pillow


def test_libraries_are_heard_again_once_the_last_thread_is_done(capfd: pytest.CaptureFixture[str]) -> None:
    """The first one in is the first one out, as no single thread would do it."""
    before = warnings.filters[:]
    for silence in (silent_libtiff, silent_pillow):
        silence.__enter__()
        silence.__enter__()
    for round_ in range(2):
        for silence in (silent_libtiff, silent_pillow):
            os.write(2, b"unheard")
            warnings.warn(f"unheard {round_}", stacklevel=1)  # an error otherwise
            if round_ == 0:
                silence.__exit__()
    for silence in (silent_libtiff, silent_pillow):
        silence.__exit__()
    os.write(2, b"heard")
    assert capfd.readouterr().err == "heard"
    assert warnings.filters == before
    with pytest.raises(UserWarning, match="heard"):
        warnings.warn("heard", stacklevel=1)
