"""How many cores there are: the container's share of them, and a process's share of that."""

from __future__ import annotations

import joblib
import pytest

from tcc_fast import cores


def test_processes_of_a_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joblib, "cpu_count", lambda: 12)
    assert cores.default_workers() == 12
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "5")
    assert cores.default_workers() == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "64")
    assert cores.default_workers() == 1
    monkeypatch.setattr(joblib, "cpu_count", lambda: 6400)
    assert cores.default_workers() == 16
