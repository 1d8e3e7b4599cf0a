"""Tars are listed without trusting Python's idea of where they end, and without keeping their members."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from tcc_fast.datasets.archive import CutOff, FolderMembers, TarMembers, ZipMembers, tar_files, tar_parts
from tests.datasets.archives import tar_bytes, write_folder, write_tar, write_tar_gz, write_zip

FILES = {"set/b": b"bb", "set/a": b"a" * 600, "./set/c": b"", "set/._a": b"a Mac was here", "__MACOSX/set/a": b"too"}


def test_members_are_forgotten(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {str(i): b"x" for i in range(50)})
    with tarfile.open(path) as archive:
        names = [member.name for member in tar_files(archive)]
        kept = archive.members  # type: ignore[attr-defined]
    assert names == [str(i) for i in range(50)]
    assert kept == []


def test_parts_point_at_the_bytes_of_a_tar_within_a_tar(tmp_path: Path) -> None:
    inner = tar_bytes({"a": b"first", "b": b"second" * 200})
    path = write_tar(tmp_path / "outer.tar", {"before": b"x" * 700, "inner.tar": inner})
    outer = dict(tar_parts(path))["inner.tar"]
    whole = path.read_bytes()
    parts = {name: whole[p.offset : p.offset + p.length] for name, p in tar_parts(path, outer.offset, outer.length)}
    assert parts == {"a": b"first", "b": b"second" * 200}


@pytest.mark.parametrize("length", [1024, 2560, 3072])
def test_an_inner_tar_that_is_cut_is_noticed_although_the_outer_one_goes_on(tmp_path: Path, length: int) -> None:
    """1 024: after the first file, 2 560: within the second, 3 072: before the end mark; zeros of the outer follow."""
    inner = tar_bytes({"a": b"first", "b": b"s" * 1400})[:length]
    path = write_tar(tmp_path / "outer.tar", {"inner.tar": inner})
    (part,) = dict(tar_parts(path)).values()
    assert part.length == length
    with pytest.raises(CutOff):
        list(tar_parts(path, part.offset, part.length))


@pytest.mark.parametrize("kind", [TarMembers, ZipMembers, FolderMembers])
def test_files_are_found_by_name_and_clutter_is_left_out(
    tmp_path: Path, kind: type[TarMembers | ZipMembers | FolderMembers]
) -> None:
    if kind is FolderMembers:
        found = FolderMembers(write_folder(tmp_path / "f", FILES), deep=True)
        assert found.names == ["set/a", "set/b", "set/c"]
        assert found.payload("set/a") == tmp_path / "f" / "set" / "a"
    elif kind is ZipMembers:
        files = {name.removeprefix("./"): data for name, data in FILES.items()}
        zipped = ZipMembers(write_zip(tmp_path / "z", files))
        assert zipped.names == ["set/b", "set/a", "set/c"]
        assert zipped.payload("set/a") == b"a" * 600
    else:
        tarred = TarMembers(write_tar_gz(tmp_path / "t", FILES))
        assert tarred.names == ["set/b", "set/a", "set/c"]
        assert tarred.size("set/a") == 600
        with tarred.open("set/a") as stream:
            assert stream.read() == b"a" * 600
