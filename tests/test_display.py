"""The display: a panel on a terminal, plain lines elsewhere, nothing on other ranks."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tcc_fast.display import Display, PatientConsole

LINE = {
    "step": 50.0,
    "epoch": 3.0,
    "loss": 1.25,
    "loss_instance": 2.5,
    "loss_cluster": 0.75,
    "kl_uniform": 0.125,
    "entropy": 2.0,
    "entropy_mean": 2.2,
    "smallest_cluster": 0.04,
    "largest_cluster": 0.31,
    "images_per_second": 1234.0,
    "lr": 1e-3,
}


def shown(terminal: bool, active: bool = True) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120, color_system=None)
    with Display(100, 12, active=active, console=console) as display:
        display.say("hello [1/2]")
        display.update(LINE)
        display.update(LINE | {"step": 60.0})
        display.alarm("two clusters [a, b] are dead")
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_plain_lines_hold_every_figure_and_the_time_left() -> None:
    text = shown(terminal=False)
    assert "hello [1/2]\n" in text
    (second,) = [line for line in text.splitlines() if "step 60/100" in line]
    for figure in (
        "epoch 4/12",
        "1.250",
        "2.500",
        "0.750",
        "0.125",
        "2.00",
        "2.20",
        "4.0%-31.0%",
        "1234 img/s",
        "left",
    ):
        assert figure in second
    assert "warning: two clusters [a, b] are dead" in text
    assert "\x1b" not in text


def test_the_panel_holds_every_figure() -> None:
    text = shown(terminal=True)
    for figure in (
        "4/12",
        "1.2500",
        "2.5000",
        "0.7500",
        "0.1250",
        "2.000",
        "2.200",
        "4.0%, 31.0%",
        "1234",
        "1.00e-03",
        "60/100",
    ):
        assert figure in text
    assert "two clusters [a, b] are dead" in text


def test_other_ranks_show_nothing() -> None:
    assert shown(terminal=True, active=False) == shown(terminal=False, active=False) == ""


@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), OSError(5, "Input/output error")])
@pytest.mark.parametrize("terminal", [True, False])
def test_where_nobody_reads_any_more_the_rest_is_said_to_nobody(error: OSError, terminal: bool) -> None:
    """As when `| head` has read enough, and when the terminal of a run is closed."""

    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            if "step 60" in text or "60/100" in text:
                raise error
            return super().write(text)

    console = PatientConsole(file=Gone(), force_terminal=terminal, width=120, color_system=None)
    with Display(100, 12, console=console) as display:
        display.say("hello")
        display.update(LINE)
        display.update(LINE | {"step": 60.0})
        display.say("and on")
    assert "hello" in console.file.getvalue()  # type: ignore[attr-defined]
    assert "and on" not in console.file.getvalue()  # type: ignore[attr-defined]
