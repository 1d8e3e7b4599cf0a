"""Progress goes to stderr, as a bar on a terminal and as a line now and then elsewhere."""

import pytest

from tcc_fast.datasets import progress
from tcc_fast.datasets.progress import show_progress


def never() -> int:
    raise AssertionError("counting the source may be slow, and nobody looks")


def test_plain_lines_elsewhere(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with show_progress("digits", never, enabled=True) as advance:
        advance(5)
        monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    with show_progress("digits", never, enabled=True) as advance:
        advance(7)
    assert capsys.readouterr() == ("", "digits: 7 files done\n")


def test_bar_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with show_progress("digits", lambda: 20, enabled=True) as advance:
        advance(20)
    out, err = capsys.readouterr()
    assert out == ""
    assert "20/20" in err


def test_silence(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with show_progress("digits", never, enabled=False) as advance:
        advance(1)
    assert capsys.readouterr() == ("", "")
