"""Images of letters, from the fonts inside the matplotlib wheel and from damaged copies of them."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fontTools.ttLib import TTCollection, TTFont
from PIL import Image

from tcc_fast.datasets import convert, glyphs, open_dataset
from tcc_fast.datasets.glyph_faces import Face, find_faces
from tcc_fast.datasets.glyph_letters import LETTERS, draw_letters, open_face
from tcc_fast.datasets.glyph_packages import BY_LICENCE, PACKAGES
from tcc_fast.datasets.reader import Checks, open_reader
from tests.conftest import load_tool

Content = Callable[[Path], dict[str, bytes]]
REPOSITORY = Path(__file__).parents[2]


def bundled(name: str) -> Path:
    spec = importlib.util.find_spec("matplotlib")  # not imported: only its files are of use
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / f"{name}.ttf"


@pytest.fixture
def fonts(tmp_path: Path) -> Path:
    """A folder of two faces."""
    folder = tmp_path / "fonts"
    (folder / "deep").mkdir(parents=True)
    shutil.copy(bundled("DejaVuSans"), folder)
    shutil.copy(bundled("DejaVuSerif"), folder / "deep")
    return folder


def change(path: Path, change: Callable[[TTFont], None], source: str = "DejaVuSans") -> Path:
    """A copy of a bundled font with a change, as another file."""
    font = TTFont(bundled(source), recalcTimestamp=False)
    change(font)
    path.parent.mkdir(parents=True, exist_ok=True)
    font.save(path)
    return path


def map_letter(letter: str, glyph: str | None) -> Callable[[TTFont], None]:
    """Draw `letter` as another glyph, or as none."""

    def apply(font: TTFont) -> None:
        for table in font["cmap"].tables:
            if glyph is None:
                table.cmap.pop(ord(letter), None)
            elif ord(letter) in table.cmap:
                table.cmap[ord(letter)] = glyph

    return apply


def call(family: str) -> Callable[[TTFont], None]:
    def apply(font: TTFont) -> None:
        for record in font["name"].names:
            if record.nameID in (1, 16):
                record.string = family

    return apply


def pack(tmp_path: Path, src: Path, name: str = "out", **options: Any) -> Any:
    return convert("glyphs", tmp_path / name, src, allow_incomplete=True, progress=False, **options)


def look_for(folder: Path) -> tuple[list[Face], dict[str, int]]:
    skipped: Counter[str] = Counter()
    return find_faces([folder], skipped, lambda done: None), dict(skipped)


def test_ten_letters_of_each_face_with_their_labels(tmp_path: Path, fonts: Path) -> None:
    report = pack(tmp_path, fonts)
    dataset = open_dataset(report.path)
    labels = dataset.labels()
    assert labels is not None
    assert labels.tolist() == [*range(10), *range(10)]
    manifest = dataset.manifest
    assert manifest.class_names == tuple("ABCDEFGHIJ")
    assert manifest.geometry.uniform_size == (32, 32)
    assert dataset.is_png().all()
    families = [source.split("/")[0] for source in dataset.sources()]
    assert families == ["DejaVu Sans"] * 10 + ["DejaVu Serif"] * 10
    assert [source[-2:] for source in dataset.sources()] == [f"/{letter}" for letter in LETTERS] * 2
    assert "labels.csv" in manifest.files
    assert open_dataset(pack(tmp_path, fonts, "bare", labels="none").path).labels() is None


def test_letters_fill_their_box_and_are_centred(fonts: Path) -> None:
    faces, _ = look_for(fonts)
    for face in faces:
        for image in face.images:
            left, top, right, bottom = Image.fromarray(image).getbbox() or (0, 0, 0, 0)
            assert max(right - left, bottom - top) == 28
            assert abs(left - (32 - right)) <= 1
            assert abs(top - (32 - bottom)) <= 1
            assert image[0, 0] == 0
            assert image.max() == 255
    sans = dict(zip(LETTERS, faces[0].images, strict=True))
    # Strokes where the letters have them: the stem of E is left, that of J right, and I is hardly anything else.
    assert sans["E"][:, :16].sum() > 1.5 * sans["E"][:, 16:].sum()
    assert sans["J"][:, 16:].sum() > 1.5 * sans["J"][:, :16].sum()
    assert np.count_nonzero(sans["I"].any(0)) < 8


def test_the_same_fonts_give_the_same_bytes_wherever_they_lie(tmp_path: Path, fonts: Path, content: Content) -> None:
    one = pack(tmp_path, fonts, "one")
    again = pack(tmp_path, fonts, "again", workers=2)
    moved = tmp_path / "moved" / "z"
    moved.mkdir(parents=True)
    (fonts / "DejaVuSans.ttf").rename(moved / "b.TTF")
    (fonts / "deep" / "DejaVuSerif.ttf").rename(moved / "a.otf")
    elsewhere = pack(tmp_path, moved.parent, "elsewhere")
    assert content(one.path) == content(again.path) == content(elsewhere.path)
    assert str(tmp_path) not in (one.path / "dataset.json").read_text()


def test_the_manifest_says_which_fonts_were_used(tmp_path: Path, fonts: Path) -> None:
    report = pack(tmp_path, fonts)
    source = report.manifest.source
    sha256 = hashlib.sha256((fonts / "DejaVuSans.ttf").read_bytes()).hexdigest()
    assert source["fonts"][0] == f"{sha256} 0 DejaVu Sans | Book | 2.35"
    assert source["fonts_sha256"] == hashlib.sha256("\n".join(source["fonts"]).encode()).hexdigest()
    assert source["fonts_sha256"][:16] in report.summary()
    assert "2 faces of 2 families" in report.summary()
    assert source["freetype"]
    (fonts / "deep" / "DejaVuSerif.ttf").unlink()
    assert pack(tmp_path, fonts, "less").manifest.source["fonts_sha256"] != source["fonts_sha256"]


def test_too_few_fonts_are_an_error_that_says_what_to_install(tmp_path: Path, fonts: Path) -> None:
    with pytest.raises(ValueError, match="5,000 images, but the 2 usable font faces in .*fonts make 20; ") as caught:
        convert("glyphs", tmp_path / "out", fonts, progress=False)
    assert "apt-get install --no-install-recommends $(python -m tcc_fast.datasets.glyph_packages)" in str(caught.value)
    assert "--allow-incomplete" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    assert "fewer than 5,000 images" in pack(tmp_path, fonts).summary()


def test_no_font_at_all_is_an_error_in_any_case(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="the 0 usable font faces in .*empty make 0"):
        pack(tmp_path, tmp_path / "empty")
    with pytest.raises(ValueError, match="gone: no such folder; --src must name a folder of"):
        pack(tmp_path, tmp_path / "gone")


def test_the_default_source_is_the_system(fonts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glyphs, "FOLDERS", (str(fonts / "deep"), str(fonts / "none")))
    reader = open_reader("glyphs", None, "auto", Checks(allow_incomplete=True))
    assert (reader.total(), reader.root) == (10, None)
    with pytest.raises(ValueError, match="in .*deep and .*none make 10"):
        open_reader("glyphs", None, "auto")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"md5": True}, "--md5 are for the paper's"),
        ({"labels": "folders"}, "glyphs has labels of its own"),
        ({"short_side": 16}, "leave --short-side out"),
        ({"formats": "files"}, "for a folder of images"),
    ],
)
def test_options_that_mean_nothing_here(tmp_path: Path, fonts: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pack(tmp_path, fonts, **options)


def test_a_font_that_is_there_twice_counts_once(fonts: Path) -> None:
    shutil.copy(fonts / "DejaVuSans.ttf", fonts / "copy.ttf")
    change(fonts / "alias.ttf", call("Another Name"))  # other bytes, same letters
    faces, skipped = look_for(fonts)
    assert skipped == {"file that is there twice": 1, "face that looks like another": 1}
    assert [face.family for face in faces] == ["Another Name", "DejaVu Serif"]


def test_faces_without_ten_different_letters_are_left_out(fonts: Path) -> None:
    bad = fonts / "bad"
    change(bad / "no_c.ttf", map_letter("C", None))
    change(bad / "blank_c.ttf", map_letter("C", "space"))
    change(bad / "notdef_c.ttf", map_letter("C", ".notdef"))
    change(bad / "c_like_g.ttf", map_letter("C", "G"))
    change(bad / "small.ttf", map_letter("C", "period"))
    faces, skipped = look_for(fonts)
    assert [face.family for face in faces] == ["DejaVu Sans", "DejaVu Serif"]
    assert skipped == {"face lacks a letter": 3, "face two letters look the same": 1, "face letters too small": 1}


def test_fonts_of_signs_are_left_out(fonts: Path) -> None:
    for index, family in enumerate(("Standard Symbols PS", "Libre Barcode 39", "Font Awesome 5", "Line Dings BRK")):
        change(fonts / f"{index}.ttf", call(family), "DejaVuSerif-Bold")
    change(fonts / "letters.ttf", call("Noto Sans Symbols"), "DejaVuSerif-Bold")  # has letters too
    faces, skipped = look_for(fonts)
    assert skipped == {"face of signs": 4}
    assert len(faces) == 3


def test_what_is_no_font_is_passed_over(fonts: Path) -> None:
    (fonts / "text.ttf").write_text("no font")
    (fonts / "half.ttf").write_bytes(bundled("DejaVuSansMono").read_bytes()[:3000])
    (fonts / "empty.pfb").write_bytes(b"")
    (fonts / "cut.ttc").write_bytes(b"ttcf\0\1\0\0\0\0\0\2")
    (fonts / "readme.txt").write_text("fonts")
    (fonts / "gone.ttf").symlink_to(fonts / "nowhere")
    faces, skipped = look_for(fonts)
    assert len(faces) == 2
    assert skipped == {"face without outlines or Unicode": 5, "broken link": 1}


def test_every_face_of_a_collection(fonts: Path) -> None:
    collection = TTCollection()
    collection.fonts = [TTFont(bundled(name), recalcTimestamp=False) for name in ("DejaVuSans-Bold", "DejaVuSansMono")]
    collection.save(fonts / "two.ttc")
    faces, _ = look_for(fonts)
    found = [(face.family, face.index, face.version) for face in faces if face.index or face.style == "Bold"]
    assert found == [("DejaVu Sans", 0, "2.35"), ("DejaVu Sans Mono", 1, "2.35")]
    assert faces[-2].source.endswith("-1")


def test_symbols_in_the_places_of_letters_have_no_unicode() -> None:
    font = TTFont(bundled("DejaVuSans"))
    font["cmap"].tables = [table for table in font["cmap"].tables if table.platformID == 3][:1]
    font["cmap"].tables[0].platEncID = 0  # "Symbol", for example dingbats
    buffer = io.BytesIO()
    font.save(buffer)
    assert open_face(buffer.getvalue(), 0) is None
    whole = open_face(bundled("DejaVuSans").read_bytes(), 0)
    assert whole is not None
    assert np.shape(draw_letters(whole)) == (10, 32, 32)


def flat(family: str, level: int) -> Face:
    images = np.zeros((10, 32, 32), dtype=np.uint8)
    images[:, 10] = level
    return Face(family, f"{level}", "", f"{level:064x}", 0, images)


def test_at_most_four_faces_of_a_family_that_differ_most() -> None:
    faces = [flat("One", level) for level in (0, 2, 100, 103, 150, 250)] + [flat("Two", 7), flat("two", 7)]
    skipped: Counter[str] = Counter()
    chosen = glyphs.choose_faces(faces, skipped)
    # 100 is nearest to the mean, 100.8; then 250 and 0 are farthest, and 150 is in the middle of the widest gap.
    assert [(face.family, face.style) for face in chosen] == [
        *(("One", str(level)) for level in (0, 100, 150, 250)),
        ("Two", "7"),
        ("two", "7"),
    ]
    assert skipped["face beyond 4 of its family"] == 2


def test_slashes_in_names_stay_within_their_part() -> None:
    assert flat("A/B", 1).source == f"A-B/1/{0:012x}"


# Packages.


def test_packages_are_listed_once_and_stand_in_the_docs() -> None:
    assert len(set(PACKAGES)) == len(PACKAGES) == len(" ".join(BY_LICENCE.values()).split()) > 100
    table = (REPOSITORY / "docs" / "glyphs.md").read_text()
    for licence, names in BY_LICENCE.items():
        assert f"| {licence} | {' '.join(sorted(names.split()))} |" in table


def test_the_list_is_printed_for_a_shell() -> None:
    command = [sys.executable, "-m", "tcc_fast.datasets.glyph_packages"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert (printed.stdout.split(), printed.stderr) == (list(PACKAGES), "")


# How hard the set is.


def test_nearest_neighbours_of_another_origin() -> None:
    tool = load_tool("how_hard")
    rng = np.random.default_rng(0)
    pixels = rng.random((700, 6), dtype=np.float32)
    labels, origins = rng.integers(0, 3, 700), rng.integers(0, 50, 700)
    distances = ((pixels[:, None].astype(np.float64) - pixels) ** 2).sum(2)
    distances[origins[:, None] == origins] = np.inf
    assert (tool.nearest_labels(pixels, labels, origins) == labels[distances.argmin(1)]).all()


def test_origins_are_families_or_their_first_words() -> None:
    tool = load_tool("how_hard")
    sources = ["Latin Modern Roman/Bold/1/A", "Latin Modern Sans/Bold/2/A", "lato/Thin/3/A", "Lato/Thin/4/A", "/x/5/A"]
    assert tool.origins_of(sources, "source").tolist() == [1, 2, 3, 3, 0]
    assert tool.origins_of(sources, "word").tolist() == [1, 1, 2, 2, 0]
    assert tool.origins_of(["mnist5k/00000", "mnist5k/00001"], "source").tolist() == [0, 1]
