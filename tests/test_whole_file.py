"""Small text files, whole or not at all."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tcc_fast.whole_file import write_whole


def test_a_full_disk_leaves_what_was_there_and_is_named(tmp_path: Path, little_room: Callable[[int], None]) -> None:
    table = tmp_path / "clusters.csv"
    write_whole(table, "index\n0\n")
    little_room(100)
    with pytest.raises(OSError, match=r"File too large: '.*clusters\.csv'"):
        write_whole(table, "index\n" * 100)
    assert table.read_text() == "index\n0\n"
    assert [path.name for path in tmp_path.iterdir()] == ["clusters.csv"]


def test_a_link_stays_one_and_a_long_name_is_no_trouble(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("x" * 255)
    write_whole(tmp_path / "link", "π\r\n")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / ("x" * 255)).read_bytes() == "π\r\n".encode()


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=write_whole, args=(tmp_path / "pipe", "result"))
    writer.start()
    assert (tmp_path / "pipe").read_text() == "result"
    writer.join()
