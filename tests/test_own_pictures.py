"""Which files are the user's pictures, and which are results that may be written anew."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from tcc_fast.own_pictures import is_picture, refuse_picture, refuse_pictures


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP"])
def test_a_picture_is_kept_whatever_its_name(kind: str, tmp_path: Path) -> None:
    Image.new("RGB", (4, 3)).save(tmp_path / "clusters.csv", kind)
    with pytest.raises(ValueError, match=r"clusters\.csv: is a picture, and would be written over"):
        refuse_picture(tmp_path / "clusters.csv")


def test_results_may_be_written_anew_and_pipes_are_not_waited_for(tmp_path: Path) -> None:
    for name, content in (("plot.svg", "<svg></svg>"), ("a.csv", "index,source\n"), ("a.png", "")):
        (tmp_path / name).write_text(content)
        assert not is_picture(tmp_path / name)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    assert not is_picture(tmp_path / "pipe")
    assert not is_picture(tmp_path / "nothing")
    refuse_pictures("--out", tmp_path)
    refuse_pictures("--out", tmp_path / "nowhere")


def test_sheets_of_before_are_no_pictures_of_the_users(tmp_path: Path) -> None:
    Image.new("L", (4, 3)).save(tmp_path / "cluster-0.png")
    refuse_pictures("--sheets", tmp_path, but=r"cluster-\d+\.png")
    Image.new("L", (4, 3)).save(tmp_path / "cluster-0.png.jpg")
    with pytest.raises(ValueError, match=r"--sheets .* holds other pictures \('cluster-0\.png\.jpg'\)"):
        refuse_pictures("--sheets", tmp_path, but=r"cluster-\d+\.png")


def test_folders_of_classes_hold_pictures_too(tmp_path: Path) -> None:
    """And `convert` would find there what is put beside them."""
    for folder in ("earlier", "cats"):
        (tmp_path / folder).mkdir()
    Image.new("L", (4, 3)).save(tmp_path / "earlier" / "cluster-0.png")
    refuse_pictures("--sheets", tmp_path, but=r"cluster-\d+\.png")
    Image.new("L", (4, 3)).save(tmp_path / "cats" / "a.png")
    with pytest.raises(ValueError, match=r"--sheets .* holds other pictures \('cats/a\.png'\)"):
        refuse_pictures("--sheets", tmp_path, but=r"cluster-\d+\.png")
