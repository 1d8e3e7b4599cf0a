"""Files are seen on the disk; folders where their file system can do it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from tcc_fast.on_disk import sha256_of, sync_to_disk


def test_only_a_folder_may_stay_unsynchronised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"content")
    seen = []
    monkeypatch.setattr(os, "fsync", lambda handle: seen.append(os.fstat(handle).st_ino))
    for path in (file, tmp_path):
        sync_to_disk(path)
    assert seen == [file.stat().st_ino, tmp_path.stat().st_ino]

    def refuse(handle: int) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refuse)
    sync_to_disk(tmp_path)
    with pytest.raises(OSError, match="Invalid argument"):
        sync_to_disk(file)


def test_sha256_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    assert sha256_of(tmp_path / "file") == hashlib.sha256(b"content").hexdigest()
